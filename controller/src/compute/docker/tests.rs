//! The driver on a Docker Engine that only notes what it is asked. The stories of `tests/tests/docker/` are on a real one.

use std::fs::File;
use std::net::Ipv4Addr;

use axum::Json;
use axum::extract::{Request, State};
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse as _, Response};
use nix::fcntl::{Flock, FlockArg};
use secrecy::SecretString;
use serde_json::json;
use tempfile::TempDir;
use tokio::sync::{Notify, watch};
use trove_strategy::{Installation, Size};
use uuid::Uuid;

use super::*;
use crate::compute::{Bootstrap, Network};
use crate::model::ImageFile;

/// What was asked of the engine, such as `POST /containers/create`.
#[derive(Default)]
struct Engine {
    asked: watch::Sender<Vec<String>>,
    /// Whether the answer to this is given only when `go_on` says so.
    slow: Mutex<Option<&'static str>>,
    go_on: Notify,
}

impl Engine {
    async fn await_asked(&self, what: &str) {
        self.asked.subscribe().wait_for(|asked| asked.iter().any(|asked| asked.starts_with(what))).await.unwrap();
    }
}

async fn answer(State(engine): State<Arc<Engine>>, request: Request) -> Response {
    let path = request.uri().path();
    // Without the version of the interface.
    let path = path.strip_prefix("/v1.").and_then(|rest| Some(&rest[rest.find('/')?..])).unwrap_or(path);
    let what = format!("{} {path}", request.method());
    engine.asked.send_modify(|asked| asked.push(what.clone()));
    let is_slow = engine.slow.lock().unwrap().is_some_and(|slow| what.starts_with(slow));
    if is_slow {
        engine.go_on.notified().await;
    }
    match (request.method(), path) {
        (&Method::GET, "/version") => Json(json!({"ApiVersion": "1.41"})).into_response(),
        (&Method::GET, "/networks") => Json(json!([])).into_response(),
        (&Method::GET, "/images/json") => Json(images()).into_response(),
        (&Method::DELETE, path) if path.starts_with("/images/") => Json(json!([])).into_response(),
        (&Method::GET, path) if path.starts_with("/images/") && !path.contains("555555555555") => {
            Json(json!({"Id": "sha256:0"})).into_response()
        }
        (&Method::POST, path) if path.ends_with("/create") => {
            (StatusCode::CREATED, Json(json!({"Id": "0", "Warnings": [], "Warning": ""}))).into_response()
        }
        (&Method::GET, _) => (StatusCode::NOT_FOUND, Json(json!({"message": "it is not there"}))).into_response(),
        _ => StatusCode::NO_CONTENT.into_response(),
    }
}

/// What the engine has: the image of the host, one of a version, one of no version, one that was being imported when its
/// controller was killed, one of another directory of hosts, a name that somebody else gave, and one that another
/// controller is importing.
fn images() -> serde_json::Value {
    let old = [
        "trove-rs/engine-1:0123abcd-000000000000",
        "trove-rs/engine-1:0123abcd-111111111111",
        "trove-rs/engine-1:0123abcd-222222222222",
        "trove-rs/engine-1:0123abcd-333333333333-importing",
        "trove-rs/engine-1:ffffffff-444444444444",
        "registry/trove-rs/engine-1:0123abcd-222222222222",
    ];
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let image = |created: u64, names: &[&str]| {
        json!({
            "Id": "sha256:0", "ParentId": "", "RepoTags": names, "RepoDigests": [], "Created": created, "Size": 1,
            "SharedSize": 0, "Labels": {}, "Containers": 0,
        })
    };
    json!([image(now - 700, &old), image(now - 500, &["trove-rs/engine-1:0123abcd-666666666666-importing"])])
}

fn image(digit: &str) -> Image {
    let file = ImageFile { format: "docker".to_owned(), path: "/nowhere".into(), size: 1, sha256: digit.repeat(64) };
    Image { id: Uuid::nil(), name: "engine-1".to_owned(), files: vec![file] }
}

struct World {
    directory: TempDir,
    engine: Arc<Engine>,
    driver: DockerDriver,
    instance: InstanceId,
}

impl World {
    async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("socket");
        let engine = Arc::new(Engine::default());
        let listener = tokio::net::UnixListener::bind(&socket).unwrap();
        let router = axum::Router::new().fallback(answer).with_state(engine.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        let docker = engine::connect(&socket).await.unwrap();
        let (key, root) = ("0123abcd".to_owned(), directory.path().join("hosts"));
        std::fs::create_dir(&root).unwrap();
        let range = Range("10.9.0.0/20".parse().unwrap());
        let networks = Networks { docker: docker.clone(), range, key: key.clone() };
        let parts = Parts {
            firewall: Arc::new(Firewall::new(&key, networks.bridges(), 8778)),
            containers: Containers { docker: docker.clone(), key: key.clone() },
            images: Images::new(docker, key.clone()),
            hosts: Hosts { root },
            networks,
            key,
            obstacle: Some("a test has no loop devices".to_owned()),
        };
        let driver = DockerDriver { parts: Arc::new(parts), watchers: Mutex::default(), turns: Mutex::default() };
        Self { directory, engine, driver, instance: InstanceId::random() }
    }

    fn spec(&self, fence: u64, address: Ipv4Addr) -> HostSpec {
        HostSpec {
            instance: self.instance,
            project: ProjectId("demo".to_owned()),
            fence,
            size: Size { memory_mib: 512, vcpus: 1, volume_gib: 1 },
            requirements: Requirements::default(),
            network: Network { address: address.into(), port: 5432, tls_port: None },
            bootstrap: Bootstrap {
                generation: 1,
                datastore: "engine".to_owned(),
                controllers: vec!["10.9.0.1:8778".to_owned()],
                authority_pem: "PEM".to_owned(),
                token: Some(SecretString::from("sesame")),
            },
            artifact: Artifact::Image { installation: Installation::new("1.2", "1", "/usr/bin"), image: image("0") },
            engine_uid: None,
            driver_state: serde_json::Value::Null,
        }
    }

    fn host(&self) -> std::path::PathBuf {
        self.directory.path().join("hosts").join(self.instance.to_string())
    }

    /// How many have opened the host's directory, to lock it.
    fn opened(&self) -> usize {
        let all = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
        all.filter(|file| std::fs::read_link(file.path()).is_ok_and(|path| path == self.host())).count()
    }

    fn is_locked(&self) -> bool {
        Flock::lock(File::open(self.host()).unwrap(), FlockArg::LockExclusiveNonblock).is_err()
    }
}

/// Waits until something is so.
async fn until(is_so: impl Fn() -> bool) {
    let waits = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), waits).await.unwrap();
}

const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 9, 1, 7);

#[tokio::test]
async fn what_nobody_waits_for_any_more_is_done_to_its_end_under_the_hosts_lock() {
    let world = World::new().await;
    let (parts, instance) = (&world.driver.parts, world.instance);
    parts.write(&world.spec(1, ADDRESS)).await.unwrap();
    *world.engine.slow.lock().unwrap() = Some("POST /containers/create");
    tokio::select! {
        _ = parts.ensure_running(instance) => panic!("the engine has not answered"),
        () = world.engine.await_asked("POST /containers/create") => {}
    }
    assert!(world.is_locked(), "another may work on the host while the engine makes its container");
    world.engine.go_on.notify_one();
    world.engine.await_asked(&format!("POST /containers/trove-{instance}/start")).await;

    world.engine.asked.send_replace(Vec::new());
    *world.engine.slow.lock().unwrap() = Some("DELETE /containers/");
    tokio::select! {
        _ = world.driver.delete_host(instance, 1) => panic!("the engine has not answered"),
        () = world.engine.await_asked("DELETE /containers/") => {}
    }
    world.engine.go_on.notify_one();
    until(|| !world.host().exists()).await;
}

#[tokio::test]
async fn what_was_ordered_under_an_older_fence_changes_nothing() {
    let world = World::new().await;
    let (parts, instance) = (&world.driver.parts, world.instance);
    parts.write(&world.spec(7, ADDRESS)).await.unwrap();
    let kept = |what: &str| {
        assert_eq!(parts.hosts.place(instance).unwrap().unwrap().address, ADDRESS, "{what}");
        assert!(parts.hosts.guest(instance).unwrap().is_some(), "{what}");
    };
    let older = parts.write(&world.spec(6, Ipv4Addr::new(10, 9, 2, 7))).await;
    assert!(matches!(older, Err(ComputeError::Fenced { fence: 6, seen: 7 })), "{older:?}");
    kept("another place");
    let late = world.driver.choose_address(instance, &ProjectId("other".to_owned()), 5432).await.unwrap();
    assert_eq!(late, IpAddr::from(ADDRESS));
    kept("an address that is chosen late");

    // A deletion that stalled after the host was withdrawn, while another controller made the host again.
    parts.hosts.withdraw(instance, 7).unwrap();
    parts.write(&world.spec(8, ADDRESS)).await.unwrap();
    let late = parts.delete(instance, 7).await;
    assert!(matches!(late, Err(ComputeError::Fenced { fence: 7, seen: 8 })), "{late:?}");
    kept("a deletion");
    assert!(world.engine.asked.borrow().iter().all(|asked| !asked.starts_with("DELETE")));
    parts.delete(instance, 8).await.unwrap();
    assert!(!world.host().exists());
    parts.delete(instance, 8).await.unwrap();
}

#[tokio::test]
async fn whoever_waited_for_a_host_that_was_removed_meanwhile_has_no_lock() {
    let world = World::new().await;
    let (hosts, instance) = (world.driver.parts.hosts.clone(), world.instance);
    world.driver.parts.write(&world.spec(1, ADDRESS)).await.unwrap();
    let alone = hosts.lock(instance).unwrap().unwrap();
    let waits = tokio::task::spawn_blocking({
        let hosts = hosts.clone();
        move || hosts.lock(instance)
    });
    until(|| world.opened() == 2).await;
    hosts.remove(instance).unwrap();
    drop(alone);
    assert!(waits.await.unwrap().unwrap().is_none());
}

#[tokio::test]
async fn a_late_deletion_leaves_alone_what_has_been_made_in_the_hosts_place() {
    let world = World::new().await;
    let (parts, instance) = (&world.driver.parts, world.instance);
    for puts_away in [false, true] {
        parts.write(&world.spec(1, ADDRESS)).await.unwrap();
        let alone = parts.hosts.lock(instance).unwrap().unwrap();
        let late = tokio::spawn({
            let parts = parts.clone();
            async move { if puts_away { parts.put_away(instance, 1).await } else { parts.delete(instance, 1).await } }
        });
        until(|| world.opened() == 2).await;
        // Another controller removes the host, and begins to make it again: it has no fence yet.
        parts.hosts.remove(instance).unwrap();
        let place = Place { project: ProjectId("demo".to_owned()), address: ADDRESS };
        parts.hosts.put_place(instance, &place).unwrap();
        drop(alone);
        late.await.unwrap().unwrap();
        assert_eq!(parts.hosts.place(instance).unwrap(), Some(place));
    }
}

/// The names that are removed while versions have these images.
async fn forgotten(world: &World, kept: Vec<Image>) -> Vec<String> {
    world.engine.asked.send_replace(Vec::new());
    world.driver.forget_programs(Box::pin(async { Ok(kept) })).await.unwrap();
    let asked = world.engine.asked.borrow().clone();
    asked.iter().filter_map(|asked| Some(asked.strip_prefix("DELETE /images/")?.to_owned())).collect()
}

#[tokio::test]
async fn images_that_no_version_and_no_host_has_are_removed() {
    let world = World::new().await;
    let parts = &world.driver.parts;
    parts.write(&world.spec(1, ADDRESS)).await.unwrap();
    parts.hosts.withdraw(world.instance, 1).unwrap();
    let name = |tag: &str| format!("trove-rs/engine-1:0123abcd-{tag}");
    let (zeros, twos, passing) = (name("000000000000"), name("222222222222"), name("333333333333-importing"));
    assert_eq!(forgotten(&world, vec![image("1")]).await, [twos.clone(), passing.clone()]);

    // The host has another image.
    let mut spec = world.spec(2, ADDRESS);
    spec.artifact = Artifact::Image { installation: Installation::new("1.2", "1", "/usr/bin"), image: image("2") };
    parts.write(&spec).await.unwrap();
    assert_eq!(forgotten(&world, vec![image("1")]).await, [zeros, passing]);
}

#[tokio::test]
async fn an_image_whose_version_or_host_comes_while_it_is_looked_what_is_there_stays() {
    let world = World::new().await;
    let parts = &world.driver.parts;
    *world.engine.slow.lock().unwrap() = Some("GET /images/json");
    let versions = Mutex::new(Vec::new());
    let forgotten = world.driver.forget_programs(Box::pin(async { Ok(versions.lock().unwrap().clone()) }));
    let meanwhile = async {
        world.engine.await_asked("GET /images/json").await;
        parts.write(&world.spec(1, ADDRESS)).await.unwrap();
        versions.lock().unwrap().extend([image("1"), image("2")]);
        world.engine.go_on.notify_one();
    };
    let (forgotten, ()) = tokio::join!(forgotten, meanwhile);
    forgotten.unwrap();
    let asked = world.engine.asked.borrow().clone();
    let removed: Vec<&String> = asked.iter().filter(|asked| asked.starts_with("DELETE")).collect();
    assert_eq!(removed, ["DELETE /images/trove-rs/engine-1:0123abcd-333333333333-importing"]);
}

#[tokio::test]
async fn nothing_is_removed_and_nobody_waits_while_an_image_is_imported() {
    let world = World::new().await;
    let file = world.directory.path().join("image.tar");
    std::fs::write(&file, "an image").unwrap();
    let mut image = image("5");
    image.files[0].path = file;
    *world.engine.slow.lock().unwrap() = Some("POST /images/create");
    world.engine.asked.send_replace(Vec::new());
    tokio::select! {
        done = world.driver.parts.images.ensure(&image) => panic!("the engine has not answered: {done:?}"),
        () = async {
            world.engine.await_asked("POST /images/create").await;
            tokio::time::timeout(Duration::from_secs(60), async {
                assert!(forgotten(&world, Vec::new()).await.is_empty());
            }).await.unwrap();
        } => {}
    }
    assert_eq!(forgotten(&world, Vec::new()).await.len(), 4);
}
