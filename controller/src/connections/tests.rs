//! A port on a real socket.

use axum::routing::{get, post};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;

const IDLE: Duration = Duration::from_millis(500);

async fn port(limits: Limits) -> (SocketAddr, CancellationToken, tokio::task::JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let router = Router::new()
        .route("/", get(async || "here"))
        .route("/slow", get(async || sleep(IDLE * 3).await))
        .route("/long", get(async || vec![0_u8; 64 * 1024 * 1024]))
        .route("/echo", post(async |body: String| body));
    let shutdown = CancellationToken::new();
    let port = Port { listener, tls: None, gate: Gate::new("the test", limits, Vec::new()), idle: IDLE };
    (address, shutdown.clone(), tokio::spawn(serve(port, router, shutdown)))
}

/// What comes until the other side closes, within some time.
async fn rest(stream: &mut TcpStream) -> String {
    let mut text = Vec::new();
    // A reset is an end too.
    let _ = timeout(IDLE * 10, stream.read_to_end(&mut text)).await.unwrap();
    String::from_utf8_lossy(&text).into_owned()
}

#[tokio::test]
async fn silent_and_unfinished_ones_end_and_requests_that_take_longer_do_not() {
    let (address, _shutdown, _served) = port(Limits { all: 100, source: 100 }).await;
    let mut silent = TcpStream::connect(address).await.unwrap();
    let mut unfinished = TcpStream::connect(address).await.unwrap();
    unfinished.write_all(b"GET / HTTP/1.1\r\nhost: a\r\nx-").await.unwrap();
    let mut slow = TcpStream::connect(address).await.unwrap();
    slow.write_all(b"GET /slow HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    let begun = Instant::now();
    let (silent, unfinished, slow) = tokio::join!(rest(&mut silent), rest(&mut unfinished), rest(&mut slow));
    assert_eq!((silent.as_str(), unfinished.as_str()), ("", ""));
    assert!(slow.starts_with("HTTP/1.1 200"), "{slow}");
    assert!(begun.elapsed() < IDLE * 8);
}

#[tokio::test]
async fn drops_of_a_head_do_not_keep_a_connection() {
    let (address, _shutdown, _served) = port(Limits { all: 100, source: 100 }).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nx-drops: ").await.unwrap();
    let begun = Instant::now();
    while stream.write_all(b"a").await.is_ok() {
        assert!(begun.elapsed() < IDLE * 10, "it is open still");
        sleep(IDLE / 10).await;
    }
}

#[tokio::test]
async fn who_does_not_read_is_not_waited_for() {
    let (address, shutdown, served) = port(Limits { all: 100, source: 100 }).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(b"GET /long HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    sleep(IDLE * 2).await;
    shutdown.cancel();
    timeout(IDLE * 4, served).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_full_port_refuses_at_once_who_has_most() {
    let (address, _shutdown, _served) = port(Limits { all: 8, source: 8 }).await;
    let mut silent = Vec::new();
    for _ in 0..8 {
        silent.push(TcpStream::connect(address).await.unwrap());
    }
    let mut refused = TcpStream::connect(address).await.unwrap();
    assert_eq!(rest(&mut refused).await, "");
}

#[tokio::test]
async fn an_end_waits_for_requests_and_not_for_silent_ones() {
    let (address, shutdown, served) = port(Limits { all: 100, source: 100 }).await;
    let _silent = TcpStream::connect(address).await.unwrap();
    let mut slow = TcpStream::connect(address).await.unwrap();
    slow.write_all(b"GET /slow HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    sleep(IDLE / 4).await;
    shutdown.cancel();
    assert!(rest(&mut slow).await.starts_with("HTTP/1.1 200"));
    timeout(IDLE * 4, served).await.unwrap().unwrap();
}
