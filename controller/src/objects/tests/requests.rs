//! Tests of what a request does, and of what is left of one that goes wrong.

use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

use super::*;
use crate::agents::tests::until;

#[tokio::test]
async fn an_object_is_written_once_and_read_as_it_was_written() {
    let world = World::new().await;
    let bytes: Vec<u8> = (0..3_000_000_u32).map(|n| (n % 251) as u8).collect();
    let grant = world.to_write(RUN, "00000000", bytes.len() as u64).await;
    assert_eq!(grant.url, format!("/objects/{}/{RUN}/00000000", world.stored.backup));
    assert!(!authorization(&grant).contains(&world.instance.to_string()), "a grant tells nothing");
    // All over one connection.
    let mut client = world.connect(world.instance).await;
    assert_eq!(client.put(&grant, bytes.clone()).await, StatusCode::CREATED);
    assert_eq!(client.put(&grant, bytes.clone()).await, StatusCode::PRECONDITION_FAILED, "it is there");
    let again = world.to_write(RUN, "00000000", 5).await;
    assert_eq!(client.put(&again, vec![1; 5]).await, StatusCode::PRECONDITION_FAILED, "by whatever grant");
    let empty = world.to_write(RUN, MANIFEST_NAME, 0).await;
    assert_eq!(client.put(&empty, Vec::new()).await, StatusCode::CREATED);

    let grant = world.to_read(RUN, "00000000").await;
    assert_eq!(client.get(&grant).await, (StatusCode::OK, bytes));
    assert_eq!(client.get(&grant).await.0, StatusCode::FORBIDDEN, "a grant to read is for one request");
    let absent = world.to_read(RUN, "00000001").await;
    assert_eq!(client.get(&absent).await.0, StatusCode::NOT_FOUND);

    let object = format!("{}/{RUN}/00000000", world.stored.backup);
    assert_eq!(world.stored.files(), [object.clone(), format!("{}/{RUN}/{MANIFEST_NAME}", world.stored.backup)]);
    for (path, mode) in [("", 0o700), (&object[..36], 0o700), (&object[..69], 0o700), (&object, 0o600)] {
        let facts = std::fs::metadata(world.stored.path(path)).unwrap();
        assert_eq!(facts.permissions().mode() & 0o777, mode, "{path}");
    }
    world.controller.stop().await;
}

#[tokio::test]
async fn an_object_of_another_size_than_granted_is_refused() {
    let world = World::new().await;
    let grant = world.to_write(RUN, "00000000", 1000).await;
    assert_eq!(world.put(&grant, vec![1; 1001]).await, StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(world.put(&grant, vec![1; 999]).await, StatusCode::BAD_REQUEST);
    let mut stream = world.raw().await;
    let chunk = format!("3e8\r\n{}\r\n0\r\n\r\n", "x".repeat(1000));
    say(&mut stream, &World::head(&grant, "transfer-encoding: chunked\r\nconnection: close")).await;
    say(&mut stream, &chunk).await;
    assert!(rest(&mut stream).await.starts_with("HTTP/1.1 400"), "of unknown length");
    assert_eq!(world.stored.files(), [""; 0]);
    assert_eq!(world.put(&grant, vec![1; 1000]).await, StatusCode::CREATED);
    world.controller.stop().await;
}

#[tokio::test]
async fn an_object_whose_sender_dies_leaves_nothing() {
    let world = World::new().await;
    let grant = world.to_write(RUN, "00000000", 1000).await;
    let mut stream = world.raw().await;
    say(&mut stream, &World::head(&grant, "content-length: 1000")).await;
    say(&mut stream, &"x".repeat(500)).await;
    until("it is being written", || async { world.stored.files().len() == 1 }).await;
    assert!(world.stored.files()[0].contains("/.00000000."));
    drop(stream);
    until("it is gone", || async { world.stored.files().is_empty() }).await;
    assert_eq!(world.put(&grant, vec![1; 1000]).await, StatusCode::CREATED, "the grant is still good");
    world.controller.stop().await;
}

#[tokio::test]
async fn an_agent_that_falls_silent_is_not_waited_for() {
    let quick = Patience { head: Duration::from_secs(2), body: Duration::from_secs(2), ..Patience::USUAL };
    let world = World::with(|config| config.backups.segment_mib = 64, quick).await;
    let mut silent = world.raw().await;
    assert_eq!(rest(&mut silent).await, "", "no request");

    let grant = world.to_write(RUN, "00000000", 1000).await;
    let mut half = world.raw().await;
    say(&mut half, &World::head(&grant, "content-length: 1000")).await;
    say(&mut half, "half").await;
    assert!(rest(&mut half).await.starts_with("HTTP/1.1 408"));
    assert_eq!(world.stored.files(), [""; 0]);

    // More than the buffers on the way hold.
    let bytes = vec![7; 64 << 20];
    world.stored.plant(RUN, "00000001", &bytes);
    let grant = world.to_read(RUN, "00000001").await;
    let mut deaf = world.raw().await;
    let (url, token) = (&grant.url, authorization(&grant));
    say(&mut deaf, &format!("GET {url} HTTP/1.1\r\nhost: controller\r\nauthorization: {token}\r\n\r\n")).await;
    until("it is answered", || async { world.stored.objects.inner.visits.count() == 1 }).await;
    until("it is cut off", || async { world.stored.objects.inner.visits.count() == 0 }).await;
    assert!(rest(&mut deaf).await.len() < bytes.len());
    world.controller.stop().await;
}

#[tokio::test]
async fn other_methods_are_none() {
    let world = World::new().await;
    let grant = world.to_write(RUN, "00000000", 1).await;
    for method in [Method::POST, Method::DELETE, Method::HEAD, Method::PATCH] {
        let mut client = world.connect(world.instance).await;
        let (status, _) = client.ask(method, &grant.url, Some(authorization(&grant)), Vec::new()).await;
        assert_eq!(status, StatusCode::METHOD_NOT_ALLOWED);
    }
    world.controller.stop().await;
}

#[tokio::test]
async fn an_agent_has_four_connections() {
    let world = World::new().await;
    let mut held = Vec::new();
    for _ in 0..4 {
        let mut client = world.connect(world.instance).await;
        assert_eq!(client.get(&world.to_read(RUN, "00000000").await).await.0, StatusCode::NOT_FOUND);
        held.push(client);
    }
    assert_eq!(rest(&mut world.raw().await).await, "");
    let other = world.controller.instance(2).await;
    let mut client = world.connect(other).await;
    assert_eq!(client.ask(Method::GET, "/", None, Vec::new()).await.0, StatusCode::FORBIDDEN, "another has its own");
    held.pop();
    until("its place is free", || async { world.stored.objects.inner.visits.count() == 4 }).await;
    assert_eq!(world.get(&world.to_read(RUN, "00000000").await).await.0, StatusCode::NOT_FOUND);
    world.controller.stop().await;
}

/// Unmounts when dropped.
struct Mounted(PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

#[tokio::test]
async fn a_full_disk_is_told_and_nothing_is_left_of_the_object() {
    let world = World::new().await;
    let place = world.stored.path(&world.stored.backup.to_string());
    std::fs::create_dir(&place).unwrap();
    let mount = ["-t", "tmpfs", "-o", "size=1m,mode=0700", "tmpfs"];
    let mounted = Command::new("mount").args(mount).arg(&place).output();
    if !mounted.is_ok_and(|mounted| mounted.status.success()) {
        println!("skipped: a_full_disk_is_told_and_nothing_is_left_of_the_object: nothing can be mounted here");
        return;
    }
    let _mounted = Mounted(place);
    let grant = world.to_write(RUN, "00000000", 4 << 20).await;
    let mut client = world.connect(world.instance).await;
    assert_eq!(client.put(&grant, vec![1; 4 << 20]).await, StatusCode::INSUFFICIENT_STORAGE);
    assert_eq!(world.stored.files(), [""; 0]);
    let smaller = world.to_write(RUN, "00000001", 1000).await;
    assert_eq!(client.put(&smaller, vec![1; 1000]).await, StatusCode::CREATED, "there is room again");
    world.controller.stop().await;
}
