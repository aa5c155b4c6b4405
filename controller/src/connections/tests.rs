//! Tests with a port on a real socket.

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

/// Reads until the other side closes, with a timeout.
async fn rest(stream: &mut TcpStream) -> String {
    let mut text = Vec::new();
    // A reset counts as an end, too.
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

/// Opens connections from an address, and sends `text` on each.
async fn say(port: SocketAddr, from: [u8; 4], number: usize, text: &str) -> Vec<TcpStream> {
    let mut streams = Vec::new();
    for _ in 0..number {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind((from, 0).into()).unwrap();
        let mut stream = socket.connect(port).await.unwrap();
        stream.write_all(text.as_bytes()).await.unwrap();
        streams.push(stream);
    }
    streams
}

const ASK: &str = "GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";

#[tokio::test]
async fn neither_unfinished_bodies_nor_long_answers_of_a_few_keep_others_out() {
    let (address, _shutdown, _served) = port(Limits { all: 8, source: 4 }).await;
    let unfinished = "POST /echo HTTP/1.1\r\nhost: a\r\ncontent-length: 1000\r\n\r\na";
    for text in [unfinished, "GET /slow HTTP/1.1\r\nhost: a\r\n\r\n"] {
        let one = say(address, [127, 0, 7, 1], 4, text).await;
        let two = say(address, [127, 0, 7, 2], 4, text).await;
        sleep(IDLE / 5).await;
        let mut asked = say(address, [127, 9, 9, 8], 1, ASK).await;
        assert!(rest(&mut asked[0]).await.ends_with("here"), "{text}");
        drop((one, two));
        sleep(IDLE / 5).await;
    }
}

#[tokio::test]
async fn a_body_that_takes_longer_than_a_silence_may_is_read_to_its_end() {
    let (address, _shutdown, _served) = port(Limits { all: 8, source: 4 }).await;
    let begun = "POST /echo HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: 4\r\n\r\n";
    let mut stream = say(address, [127, 0, 0, 1], 1, begun).await.remove(0);
    for _ in 0..4 {
        sleep(IDLE / 2).await;
        stream.write_all(b"a").await.unwrap();
    }
    assert!(rest(&mut stream).await.ends_with("aaaa"));
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
