//! Faults, and what users see of them. Each has a row in docs/faults.md.

use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use trove_tests::{
    Api, Failpoints, SmallDisk, Stack, StackOptions, connect, has_root_or_skips, leftovers, order_body, poll, program,
    rows,
};

async fn await_view(api: &Api, id: &str, what: &str, done: impl Fn(&Value) -> bool) -> Result<Value> {
    poll(what, Duration::from_secs(90), async || api.instance(id).await, done).await
}

fn config_file(stack: &Stack, id: &str) -> Result<std::path::PathBuf> {
    let mut open = vec![stack.host(id).join("etc")];
    while let Some(directory) = open.pop() {
        for entry in std::fs::read_dir(&directory)? {
            let path = entry?.path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|extension| extension == "conf") {
                return Ok(path);
            }
        }
    }
    anyhow::bail!("no configuration file of {id}")
}

/// Damages the data directory, so that every later start of the engine fails.
fn corrupt(stack: &Stack, id: &str) -> Result<()> {
    ensure!(config_file(stack, id)?.exists());
    let mut open = vec![stack.host(id).join("volume")];
    while let Some(directory) = open.pop() {
        for entry in std::fs::read_dir(&directory)? {
            let path = entry?.path();
            if path.file_name().is_some_and(|name| name == "postgresql.auto.conf") {
                // The agent repairs what ALTER SYSTEM writes, but not this.
                std::fs::write(path.with_file_name("PG_VERSION"), "no version\n")?;
                return Ok(());
            }
            if path.is_dir() {
                open.push(path);
            }
        }
    }
    anyhow::bail!("no configuration file in the data directory of {id}")
}

#[tokio::test]
async fn an_engine_that_does_not_start_is_an_error_that_says_why() -> Result<()> {
    let stack = Stack::start().await?;
    let api = stack.login("trove").await?;
    let id = api.order_and_await("corrupt").await?;
    corrupt(&stack, &id)?;
    let accepted = api.post(&format!("/instances/{id}/action"), &json!({"restart": {}})).await?;
    assert_eq!(accepted.status, 202, "{accepted:?}");
    let view = api.await_error(&id).await?;
    let message = view["fault"]["message"].as_str().unwrap_or_default().to_owned();
    ensure!(message.contains("restart_engine"), "the fault does not name the step: {view}");
    let told = format!("{message} {}", view["fault"]["details"]);
    ensure!(told.contains("valid data"), "the fault does not say what the engine said: {view}");
    assert_eq!(view["operating_status"], "");
    Ok(())
}

#[tokio::test]
async fn a_port_that_is_taken_everywhere_is_an_error_that_says_so() -> Result<()> {
    // A test may bind a port on every address only in a network namespace of its own.
    if !has_root_or_skips("needs root for a network namespace of its own") {
        return Ok(());
    }
    if std::env::var_os("TROVE_TEST_IN_NAMESPACE").is_none() {
        let test = std::env::current_exe()?;
        let status = Command::new("unshare")
            .args(["--net", "--"])
            .arg(test)
            .args(["--exact", "a_port_that_is_taken_everywhere_is_an_error_that_says_so", "--nocapture"])
            .env("TROVE_TEST_IN_NAMESPACE", "1")
            .status()?;
        ensure!(status.success(), "the test failed in its namespace");
        return Ok(());
    }
    ensure!(Command::new("ip").args(["link", "set", "lo", "up"]).status()?.success());
    let stack = Stack::start().await?;
    let api = stack.login("trove").await?;
    let _wildcard = TcpListener::bind("0.0.0.0:5432")?;
    let id = api.order("taken").await?;
    let view = api.await_error(&id).await?;
    let message = view["fault"]["message"].as_str().unwrap_or_default();
    ensure!(message.contains("5432") && message.contains("wildcard"), "{view}");
    ensure!(stack.instances().is_empty(), "a host is left: {:?}", stack.instances());
    Ok(())
}

#[tokio::test]
async fn an_agent_program_that_is_missing_is_an_error_that_names_it() -> Result<()> {
    let mut stack = Stack::start().await?;
    let api = stack.login("trove").await?;
    stack.kill()?;
    let text = std::fs::read_to_string(stack.config())?;
    std::fs::write(stack.config(), format!("{text}\n[process]\nagent_program = \"/nonexistent/trove-agent\"\n"))?;
    stack.run(&Failpoints::default())?;
    let id = api.order("missing").await?;
    let view = api.await_error(&id).await?;
    let message = view["fault"]["message"].as_str().unwrap_or_default();
    ensure!(message.contains("trove-agent") && message.contains("boot_host"), "{view}");
    let operations = api.get(&format!("/instances/{id}/operations")).await?.body;
    ensure!(
        !format!("{} {operations}", view["fault"]).contains("/nonexistent"),
        "a tenant sees no paths: {operations}"
    );
    let admin = stack.login("trove-admin").await?;
    let managed = admin.get(&format!("/mgmt/instances/{id}")).await?.body;
    ensure!(managed["instance"]["fault"].to_string().contains("/nonexistent/trove-agent"), "{managed}");
    assert_eq!(api.delete(&format!("/instances/{id}")).await?.status, 202);
    api.await_gone(&id).await
}

#[tokio::test]
async fn a_state_directory_has_one_controller() -> Result<()> {
    let stack = Stack::start().await?;
    let output = Command::new(program("trove-controller")?)
        .args(["serve", "--state"])
        .arg(stack.state())
        .args(["--config"])
        .arg(stack.config())
        .env("TROVE_API__LISTEN", "127.0.0.1:0")
        .env("TROVE_AGENTS__LISTEN", "127.0.0.1:0")
        .output()?;
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(!output.status.success(), "a second controller served");
    ensure!(text.contains(&stack.pid()?.to_string()) && text.contains("another controller"), "{text}");
    Ok(())
}

#[tokio::test]
async fn a_full_data_directory_is_seen_and_passes() -> Result<()> {
    if !has_root_or_skips("needs root for a small file system") {
        return Ok(());
    }
    let mut stack = Stack::prepare(StackOptions::default())?;
    let hosts = stack.hosts();
    std::fs::create_dir_all(&hosts)?;
    let disk = SmallDisk::mount(&hosts, "200m")?;
    stack.run(&Failpoints::default())?;
    stack.await_datastore().await?;
    let api = stack.login("trove").await?;
    let first = api.order_and_await("first").await?;
    let client = connect(&api.instance(&first).await?, "app", "secret-app-1", "app").await?;
    rows(&client, "create table t (text text)").await?;

    let filler = disk.fill()?;
    let big = "insert into t select repeat(md5(n::text), 100) from generate_series(1, 40000) n";
    let full = rows(&client, big).await.err().context("a write into a full volume")?;
    ensure!(format!("{full:?}").contains("No space left on device"), "{full:?}");
    // Leave room for an agent, but not for an engine.
    let size = std::fs::metadata(&filler)?.len();
    std::fs::File::options().write(true).open(&filler)?.set_len(size - (4 << 20))?;
    let second = api.order("second").await?;
    let view = api.await_error(&second).await?;
    ensure!(view["fault"].to_string().contains("No space left on device"), "{view}");
    assert_eq!(view["operating_status"], "");
    std::fs::remove_file(&filler)?;

    api.await_active(&first).await?;
    let client = connect(&api.instance(&first).await?, "app", "secret-app-1", "app").await?;
    rows(&client, big).await.context("a write once there is room again")?;
    drop(client);
    for id in [first, second] {
        assert_eq!(api.delete(&format!("/instances/{id}")).await?.status, 202);
        api.await_gone(&id).await?;
    }
    drop(stack);
    drop(disk);
    Ok(())
}

#[tokio::test]
async fn a_silent_agent_makes_the_instance_an_error_until_it_speaks_again() -> Result<()> {
    let options = StackOptions {
        config: "heartbeat_interval = \"1s\"\nheartbeat_expiry = \"3s\"".to_owned(),
        ..StackOptions::default()
    };
    let stack = Stack::start_with(options).await?;
    let api = stack.login("trove").await?;
    let id = api.order_and_await("silent").await?;
    let agents = leftovers::agents(&id);
    kill(Pid::from_raw(agents[0]), Signal::SIGSTOP)?;
    let silent = |view: &Value| view["operating_status"] == "ERROR";
    let seen = await_view(&api, &id, "operating_status ERROR", silent).await;
    kill(Pid::from_raw(agents[0]), Signal::SIGCONT)?;
    assert_eq!(seen?["status"], "ACTIVE");
    api.await_active(&id).await?;
    Ok(())
}

#[tokio::test]
async fn certificates_and_tokens_of_others_are_refused() -> Result<()> {
    let stack = Stack::start().await?;
    let api = stack.login("trove").await?;
    let one = api.order_and_await("one").await?;
    let agents_port = format!("{}:8778", stack.address());
    let state = stack.host(&one).join("agent");
    let (certificate, key) = (find(&state, "CERTIFICATE")?, find(&state, "PRIVATE KEY")?);
    let authority = stack.host(&one).join("authority.pem");

    let good = handshake(&agents_port, &authority, Some((&certificate, &key)))?;
    ensure!(!good.contains("alert"), "the agent's own certificate was refused: {good}");
    let none = handshake(&agents_port, &authority, None)?;
    ensure!(none.contains("alert"), "no certificate was accepted: {none}");
    let foreign = tempfile::tempdir()?;
    let (foreign_certificate, foreign_key) = self_signed(foreign.path(), &one)?;
    let seen = handshake(&agents_port, &authority, Some((&foreign_certificate, &foreign_key)))?;
    ensure!(seen.contains("alert"), "a certificate of another authority was accepted: {seen}");
    // The real agent of the instance is not affected.
    api.await_active(&one).await?;
    let token = stack.host(&one).join("token");
    ensure!(!token.exists(), "the used token is left in {}", token.display());
    Ok(())
}

fn find(directory: &Path, kind: &str) -> Result<std::path::PathBuf> {
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        if path.is_file() && text.contains(&format!("BEGIN {kind}")) {
            return Ok(path);
        }
    }
    anyhow::bail!("no {kind} in {}", directory.display())
}

fn handshake(address: &str, authority: &Path, client: Option<(&Path, &Path)>) -> Result<String> {
    let mut command = Command::new("timeout");
    command.args([
        "3",
        "openssl",
        "s_client",
        "-connect",
        address,
        "-servername",
        "controller",
        "-alpn",
        "trove-agent/1",
    ]);
    command.arg("-CAfile").arg(authority);
    if let Some((certificate, key)) = client {
        command.arg("-cert").arg(certificate).arg("-key").arg(key);
    }
    // Keep standard input open, since in TLS 1.3 the server refuses a client's certificate only after the handshake.
    let mut child = command.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped());
    child = child.stderr(std::process::Stdio::piped());
    let mut child = child.spawn()?;
    let stdin = child.stdin.take();
    let output = child.wait_with_output()?;
    drop(stdin);
    Ok(format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr)))
}

fn self_signed(directory: &Path, instance: &str) -> Result<(std::path::PathBuf, std::path::PathBuf)> {
    let (certificate, key) = (directory.join("c.pem"), directory.join("k.pem"));
    let output = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "1"])
        .args(["-subj", "/CN=agent", "-addext", &format!("subjectAltName=URI:trove://instance/{instance}/1")])
        .args(["-addext", "extendedKeyUsage=clientAuth", "-out"])
        .arg(&certificate)
        .arg("-keyout")
        .arg(&key)
        .output()
        .context("openssl")?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok((certificate, key))
}

#[tokio::test]
async fn no_secret_is_in_a_log_or_on_a_command_line() -> Result<()> {
    let options = StackOptions { config: "[log]\nfilter = \"trace\"".to_owned(), ..StackOptions::default() };
    let stack = Stack::start_with(options).await?;
    let api = stack.login("trove").await?;
    let mut body = order_body("secrets");
    body["instance"]["users"][0]["password"] = json!("Needle-4711-haystack");
    let id = api.create(&body).await?;
    api.await_active(&id).await?;
    let root = api.post(&format!("/instances/{id}/root"), &json!({"password": "Needle-4712-haystack"})).await?;
    assert_eq!(root.status, 200, "{root:?}");
    let mut texts = vec![(stack.log(), std::fs::read(stack.log())?)];
    let mut open = vec![stack.host(&id)];
    while let Some(directory) = open.pop() {
        for entry in std::fs::read_dir(&directory)? {
            let path = entry?.path();
            if path.is_dir() {
                open.push(path);
            } else if let Ok(bytes) = std::fs::read(&path) {
                texts.push((path, bytes));
            }
        }
    }
    for name in ["trove.sqlite", "trove.sqlite-wal"] {
        texts.push((stack.state().join(name), std::fs::read(stack.state().join(name)).unwrap_or_default()));
    }
    for pid in leftovers::processes(&id) {
        for file in ["cmdline", "environ"] {
            let path = Path::new("/proc").join(pid.to_string()).join(file);
            let bytes = std::fs::read(&path).unwrap_or_default();
            texts.push((path, bytes));
        }
    }
    for (path, bytes) in texts {
        let text = String::from_utf8_lossy(&bytes);
        ensure!(!text.contains("Needle-471"), "a password stands in {}", path.display());
    }
    Ok(())
}
