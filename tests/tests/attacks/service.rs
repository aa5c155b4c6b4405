//! Attacks on the service's ports and its state directory.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use reqwest::{Client, Method};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;
use trove_tests::{Failpoints, Stack, StackOptions, leftovers, poll};

/// Address of attackers. The test itself connects from 127.0.0.1.
const ATTACKER: Ipv4Addr = Ipv4Addr::new(127, 0, 66, 1);
/// Address without any failed login.
const QUIET: Ipv4Addr = Ipv4Addr::new(127, 0, 66, 200);
/// An unfinished request.
const UNFINISHED: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\nX-More: ";

/// Opens connections from an address that send `said` and nothing more. Refused ones are left out.
async fn silent(from: Ipv4Addr, to: SocketAddr, count: usize, said: &[u8]) -> Result<Vec<TcpStream>> {
    let mut all = Vec::new();
    for _ in 0..count {
        let socket = TcpSocket::new_v4()?;
        socket.bind((from, 0).into())?;
        let mut stream = timeout(Duration::from_secs(10), socket.connect(to)).await.context("connect")??;
        // Fails if the connection was refused.
        let _ = stream.write_all(said).await;
        all.push(stream);
    }
    Ok(all)
}

/// Number of connections that the server has not closed.
async fn open(all: &mut [TcpStream]) -> usize {
    let mut open = 0;
    let mut byte = [0];
    for stream in all {
        open += usize::from(timeout(Duration::from_millis(1), stream.read(&mut byte)).await.is_err());
    }
    open
}

fn port(stack: &Stack, port: u16) -> SocketAddr {
    (stack.address(), port).into()
}

async fn prompt(stack: &Stack) -> Result<()> {
    let begun = Instant::now();
    let api = stack.login("trove").await?;
    ensure!(api.get("/instances").await?.status == 200, "a list");
    ensure!(begun.elapsed() < Duration::from_secs(5), "a login and a list took {:?}", begun.elapsed());
    Ok(())
}

#[tokio::test]
async fn unfinished_and_silent_connections_keep_nobody_out() -> Result<()> {
    let environment = vec![("TROVE_API__IDLE_TIMEOUT".to_owned(), "5s".to_owned())];
    let stack = Stack::start_with(StackOptions { environment, ..StackOptions::default() }).await?;
    let (api, agents) = (port(&stack, 8779), port(&stack, 8778));
    let mut heads = silent(ATTACKER, api, 2000, UNFINISHED).await?;
    let mut mute = silent(Ipv4Addr::new(127, 0, 66, 2), api, 500, b"").await?;
    let mut strangers = silent(ATTACKER, agents, 1500, b"").await?;
    prompt(&stack).await?;
    // An agent must be able to enrol in spite of silent connections.
    stack.login("trove").await?.order_and_await("beside").await?;
    let mut left = 0;
    for _ in 0..20 {
        left = open(&mut heads).await + open(&mut mute).await + open(&mut strangers).await;
        if left == 0 {
            break;
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    ensure!(left == 0, "{left} are open still");
    Ok(())
}

#[tokio::test]
async fn hosts_stay_when_all_descriptors_for_the_outside_are_used_up() -> Result<()> {
    let stack = Stack::start_with(StackOptions { descriptors: Some(256), ..StackOptions::default() }).await?;
    let api = stack.login("trove").await?;
    let id = api.order_and_await("stays").await?;
    let mut held = Vec::new();
    for source in 1..=20 {
        let from = Ipv4Addr::new(127, 0, 66, source);
        held.extend(silent(from, port(&stack, 8779), 20, UNFINISHED).await?);
        held.extend(silent(from, port(&stack, 8778), 20, b"").await?);
    }
    prompt(&stack).await?;
    // Longer than the first run of the reconcilers.
    for _ in 0..10 {
        let view = api.instance(&id).await?;
        ensure!(view["status"] == "ACTIVE" && view["operating_status"] == "HEALTHY", "{view}");
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    let log = std::fs::read_to_string(stack.log())?;
    ensure!(!log.contains(" is dead, it was") && !log.contains("Too many open files"), "the log says so");
    drop(held);
    Ok(())
}

/// Logs in from an address and returns the status.
async fn login(from: Ipv4Addr, stack: &Stack, password: &str) -> Result<u16> {
    let client = Client::builder().local_address(IpAddr::from(from)).timeout(Duration::from_secs(60)).build()?;
    let user = json!({"name": "demo", "password": password, "domain": {"name": "Default"}});
    let body = json!({"auth": {"identity": {"methods": ["password"], "password": {"user": user}}}});
    let answer = client.post(format!("{}/identity/v3/auth/tokens", stack.url())).json(&body).send().await?;
    Ok(answer.status().as_u16())
}

fn password(stack: &Stack) -> Result<String> {
    let all: Value = serde_yaml_ng::from_str(&std::fs::read_to_string(stack.clouds_yaml())?)?;
    Ok(all["clouds"]["trove"]["auth"]["password"].as_str().context("the password")?.to_owned())
}

#[tokio::test]
async fn wrong_logins_lock_nobody_out() -> Result<()> {
    let stack = Stack::start().await?;
    let right = password(&stack)?;
    let flood = futures::future::join_all((0..100).map(|_| login(ATTACKER, &stack, "wrong")));
    let owner = async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        let begun = Instant::now();
        (login(QUIET, &stack, &right).await, begun.elapsed())
    };
    let (flood, (owner, took)) = futures::future::join(flood, owner).await;
    ensure!(owner? == 201 && took < Duration::from_secs(10), "the owner comes in beside a flood, in {took:?}");
    let wrong = flood.into_iter().collect::<Result<Vec<_>>>()?;
    let tried = wrong.iter().filter(|status| **status == 401).count();
    ensure!((10..20).contains(&tried) && !wrong.contains(&201), "{tried} of the flood were compared: {wrong:?}");
    ensure!(login(ATTACKER, &stack, &right).await? == 429, "the attacker's source has to wait");
    ensure!(login(QUIET, &stack, &right).await? == 201, "and the owner's has not");
    Ok(())
}

#[tokio::test]
async fn a_state_directory_that_is_gone_is_noticed() -> Result<()> {
    let mut stack = Stack::prepare(StackOptions::default())?;
    stack.run(&Failpoints::default())?;
    let api = stack.login("trove").await?;
    let (state, aside) = (stack.state(), stack.directory().join("aside"));
    std::fs::rename(&state, &aside)?;
    let order = json!({"instance": {"name": "n", "flavorRef": "1", "volume": {"size": 1}}});
    for _ in 0..3 {
        let refused = api.post("/instances", &order).await?;
        ensure!(refused.status == 503 && refused.message().contains("state directory"), "{refused:?}");
        ensure!(!refused.message().contains('/'), "no path of the host: {refused:?}");
    }
    ensure!(api.send_to(Method::GET, "/healthcheck", None).await?.status == 503, "health");
    let log = std::fs::read_to_string(stack.log())?;
    ensure!(log.matches("was deleted or replaced").count() == 1, "it is said once");
    std::fs::rename(&aside, &state)?;
    ensure!(api.send_to(Method::GET, "/healthcheck", None).await?.status == 200, "it is back");
    Ok(())
}

#[tokio::test]
async fn what_is_held_ends_when_its_token_is_revoked() -> Result<()> {
    let environment = vec![("TROVE_OPERATIONS__PAUSED".to_owned(), "true".to_owned())];
    let stack = Stack::start_with(StackOptions { environment, ..StackOptions::default() }).await?;
    let (api, other) = (stack.login("trove").await?, stack.login("trove").await?);
    let id = api.order("held").await?;
    let path = format!("/instances/{id}/operations");
    let version = api.get(&path).await?.body["version"].as_str().context("version")?.to_owned();
    let poll = format!("{path}?since={version}&wait=60");
    let held = api.get(&poll);
    let events = async {
        let client = Client::new().get(format!("{}/v1.0/{}/events", stack.url(), api.project));
        let answer = client.header("x-auth-token", api.token()).send().await?;
        Ok::<_, anyhow::Error>(answer.text().await?)
    };
    let revoke = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let client = Client::new().delete(format!("{}/identity/v3/auth/tokens", stack.url()));
        let client = client.header("x-auth-token", api.token()).header("x-subject-token", api.token());
        Ok::<_, anyhow::Error>(client.send().await?.status().as_u16())
    };
    let all = async { tokio::try_join!(held, events, revoke) };
    let (held, events, revoked) = timeout(Duration::from_secs(15), all).await.context("they are held still")??;
    ensure!(revoked == 204 && held.status == 401, "{held:?}");
    ensure!(events.contains("event: end") && events.contains("token"), "{events}");
    ensure!(other.get("/instances").await?.status == 200, "another token is good");
    Ok(())
}

#[tokio::test]
async fn a_body_with_endless_lists_is_refused() -> Result<()> {
    let stack = Stack::start().await?;
    let api = stack.login("trove").await?;
    let names = |count: usize| (0..count).map(|n| json!({"name": format!("d{n}")})).collect::<Vec<_>>();
    let databases =
        json!({"instance": {"name": "n", "flavorRef": "1", "volume": {"size": 1}, "databases": names(10_000)}});
    let users: Vec<Value> =
        (0..100).map(|n| json!({"name": format!("u{n}"), "password": "secret-1", "databases": names(100)})).collect();
    let users = json!({"instance": {"name": "n", "flavorRef": "1", "volume": {"size": 1}, "users": users}});
    for (body, field) in
        [(databases, "instance['databases'] has 10000 items"), (users, "instance['users'][9]['databases']")]
    {
        let refused = api.post("/instances", &body).await?;
        ensure!(refused.status == 400 && refused.message().contains(field), "{refused:?}");
    }
    poll(
        "no instance",
        Duration::from_secs(5),
        async || Ok(api.get("/instances").await?.body),
        |body| *body == json!({"instances": []}),
    )
    .await?;
    Ok(())
}

#[tokio::test]
async fn what_was_open_when_the_service_was_started_reaches_nobody() -> Result<()> {
    let secret = tempfile::NamedTempFile::new()?;
    // Unlike the file itself, the copy is inherited.
    let inherited = nix::unistd::dup(&secret)?;
    let stack = Stack::start().await?;
    let api = stack.login("trove").await?;
    let id = api.order_and_await("heir").await?;
    let open = |pid: &i32| {
        let links = std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        links.filter_map(|link| std::fs::read_link(link.path()).ok()).any(|file| file == secret.path())
    };
    ensure!(open(&i32::try_from(std::process::id())?), "this process has it");
    let all = [leftovers::processes(&id), leftovers::agents(&id), leftovers::engines(&id)].concat();
    ensure!(
        !all.is_empty() && !all.iter().any(open),
        "inherited: {:?}",
        all.iter().filter(|pid| open(pid)).collect::<Vec<_>>()
    );
    drop(inherited);
    Ok(())
}
