//! Tests of who gets at an object: the agent that was granted it, and nobody else.

use super::*;
use std::collections::HashMap;

/// Tries to read and to write this path with this header.
async fn is_refused(world: &World, instance: InstanceId, url: &str, token: Option<&str>) {
    for (method, body) in [(Method::GET, Vec::new()), (Method::PUT, vec![9; 10])] {
        let mut client = world.connect(instance).await;
        let (status, said) = client.ask(method, url, token, body).await;
        assert_eq!(status, StatusCode::FORBIDDEN, "{url}: {}", String::from_utf8_lossy(&said));
    }
}

#[tokio::test]
async fn a_grant_is_for_one_object_one_access_and_one_instance() {
    let world = World::new().await;
    world.stored.plant(RUN, "00000001", b"0123456789");
    let before = world.stored.files();
    let (writing, reading) = (world.to_write(RUN, "00000000", 10).await, world.to_read(RUN, "00000001").await);
    let stranger = world.controller.instance(2).await;
    let backup = world.stored.backup;
    for grant in [&writing, &reading] {
        let token = authorization(grant);
        is_refused(&world, stranger, &grant.url, Some(token)).await;
        for url in [
            format!("/objects/{backup}/{RUN}/00000002"),
            format!("/objects/{backup}/{OTHER_RUN}/00000001"),
            format!("/objects/{}/{RUN}/00000001", BackupId::random()),
            format!("{}?x=1", grant.url),
            format!("{}/", grant.url),
            format!("/objects/{backup}/{RUN}/../{RUN}/00000001"),
            format!("/objects/{backup}/{RUN}/%2e%2e"),
            "/".to_owned(),
        ] {
            is_refused(&world, world.instance, &url, Some(token)).await;
        }
        for token in [None, Some("Trove "), Some("Trove AAAA"), Some("Bearer x"), Some(&token[..token.len() - 8])] {
            is_refused(&world, world.instance, &grant.url, token).await;
        }
    }
    let mut client = world.connect(world.instance).await;
    let (status, _) = client.ask(Method::GET, &writing.url, Some(authorization(&writing)), Vec::new()).await;
    assert_eq!(status, StatusCode::FORBIDDEN, "what may be written may not be read");
    let (status, _) = client.ask(Method::PUT, &reading.url, Some(authorization(&reading)), vec![9; 10]).await;
    assert_eq!(status, StatusCode::FORBIDDEN, "what may be read may not be written");
    assert_eq!(world.stored.files(), before);
    // None of the tries has used the grants up.
    assert_eq!(world.get(&reading).await, (StatusCode::OK, b"0123456789".to_vec()));
    assert_eq!(world.put(&writing, vec![1; 10]).await, StatusCode::CREATED);
    world.controller.stop().await;
}

#[tokio::test]
async fn a_grant_that_has_expired_or_is_of_another_key_is_none() {
    let world = World::with(|config| config.backups.grant_lifetime = Duration::ZERO, Patience::USUAL).await;
    world.stored.plant(RUN, "00000000", b"0123456789");
    let (writing, reading) = (world.to_write(RUN, "00000001", 10).await, world.to_read(RUN, "00000000").await);
    for grant in [writing, reading] {
        is_refused(&world, world.instance, &grant.url, Some(authorization(&grant))).await;
    }
    let forged = Stored { backup: world.stored.backup, ..Stored::new() };
    let other = Objects::open_directory(forged.path(""), None, Seal::new(&[4; 32]), &Config::default()).unwrap();
    let grants = other
        .reader(HashMap::from([(RUN.to_owned(), forged.backup)]), world.instance)
        .grant(RUN, &[read("00000000")])
        .await
        .unwrap();
    is_refused(&world, world.instance, &grants[0].url, Some(authorization(&grants[0]))).await;
    // Another controller with the same key grants as well as this one.
    let second = Objects::open_directory(world.stored.path(""), None, Seal::new(&[3; 32]), &Config::default()).unwrap();
    let grants = second
        .reader(HashMap::from([(RUN.to_owned(), forged.backup)]), world.instance)
        .grant(RUN, &[read("00000000")])
        .await
        .unwrap();
    assert_eq!(world.get(&grants[0]).await, (StatusCode::OK, b"0123456789".to_vec()));
    world.controller.stop().await;
}

#[tokio::test]
async fn only_the_present_agent_of_an_instance_is_served() {
    let world = World::new().await;
    world.stored.plant(RUN, "00000000", b"0123456789");
    for (identity, what) in [
        (world.identity(world.instance, 1), "an older generation"),
        (world.identity(InstanceId::random(), 2), "no instance"),
    ] {
        let mut stream = world.dial(identity).await.unwrap();
        assert_eq!(rest(&mut stream).await, "", "{what}");
    }
    let pem = world.controller.authorities.agents_pem();
    let nobody = dial(world.controller.address, pem, None, trove_proto::ALPN_OBJECTS).await;
    if let Ok(mut stream) = nobody {
        assert_eq!(rest(&mut stream).await, "", "no certificate");
    }
    let mut client = world.connect(world.instance).await;
    assert_eq!(client.get(&world.to_read(RUN, "00000000").await).await.0, StatusCode::OK);
    let (later, unwritten) = (world.to_read(RUN, "00000000").await, world.to_write(RUN, "00000001", 10).await);
    world.controller.sql(&format!("update instance set generation = 3 where id = '{}'", world.instance)).await;
    assert_eq!(client.get(&later).await.0, StatusCode::FORBIDDEN, "its host was replaced while it was connected");
    assert_eq!(client.put(&unwritten, vec![1; 10]).await, StatusCode::FORBIDDEN);
    world.controller.stop().await;
}

/// Every grant that an agent can get for its own backup, tried on everything of another's.
#[tokio::test]
async fn an_agent_reaches_no_other_backup_with_any_grant_that_it_gets() {
    let world = World::new().await;
    let victim = BackupId::random();
    for run in [RUN, OTHER_RUN] {
        for name in ["00000000", "00000001", MANIFEST_NAME] {
            let directory = world.stored.path(&format!("{victim}/{run}"));
            std::fs::create_dir_all(&directory).unwrap();
            std::fs::write(directory.join(name), format!("{run}/{name} of the victim")).unwrap();
        }
    }
    let before = world.stored.files();
    let writer = world.stored.objects.writer(world.stored.backup, world.instance, u64::MAX);
    let mut grants = Vec::new();
    for run in [RUN, OTHER_RUN] {
        let reader =
            world.stored.objects.reader(HashMap::from([(run.to_owned(), world.stored.backup)]), world.instance);
        for name in ["00000000", "00000001", "00000002", MANIFEST_NAME] {
            grants.extend(writer.grant(run, &[write(name, 10)]).await.unwrap());
            grants.extend(reader.grant(run, &[read(name)]).await.unwrap());
        }
    }
    // Names that lead elsewhere get none.
    for name in [
        format!("../../{victim}/{RUN}/00000000"),
        format!("../{OTHER_RUN}/00000000"),
        "..".to_owned(),
        String::new(),
        "sealed".to_owned(),
        ".00000000".to_owned(),
        "0000000/".to_owned(),
        "00000000\0".to_owned(),
        "00000000.".to_owned(),
        "０0000000".to_owned(),
    ] {
        assert!(writer.grant(RUN, &[write(&name, 10)]).await.is_err(), "{name:?}");
    }
    for run in [format!("../{victim}/{RUN}"), "..".to_owned(), String::new(), RUN.to_uppercase(), format!("{RUN}0")] {
        assert!(writer.grant(&run, &[write("00000000", 10)]).await.is_err(), "{run:?}");
        let reader =
            world.stored.objects.reader(HashMap::from([(run.to_owned(), world.stored.backup)]), world.instance);
        assert!(reader.grant(&run, &[read("00000000")]).await.is_err(), "{run:?}");
    }
    let mut client = world.connect(world.instance).await;
    for grant in &grants {
        for run in [RUN, OTHER_RUN] {
            for name in ["00000000", "00000001", "00000002", MANIFEST_NAME] {
                let url = format!("/objects/{victim}/{run}/{name}");
                for (method, body) in [(Method::GET, Vec::new()), (Method::PUT, vec![6; 10])] {
                    let (status, _) = client.ask(method, &url, Some(authorization(grant)), body).await;
                    assert_eq!(status, StatusCode::FORBIDDEN);
                }
            }
        }
    }
    assert_eq!(world.stored.files(), before);
    world.controller.stop().await;
}
