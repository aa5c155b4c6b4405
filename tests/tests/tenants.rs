//! Two tenants of the same engine on the same machine: neither sees, reaches or logs in to what is the other's, with the
//! API, in the engine, or with the engine's account.

use std::io::Write as _;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use reqwest::Method;
use serde_json::{Value, json};
use trove_tests::{Api, Engine, Stack, StackOptions, each_engine, leftovers};

struct Tenant {
    api: Api,
    id: String,
    view: Value,
    /// The password of its user `app` and of its root, and the name of its second database.
    password: &'static str,
    database: &'static str,
    engine: i32,
}

impl Tenant {
    async fn new(
        stack: &Stack,
        engine: Engine,
        cloud: &str,
        password: &'static str,
        database: &'static str,
    ) -> Result<Self> {
        let api = stack.login(cloud).await?;
        let mut order = engine.order("shop");
        order["instance"]["users"][0]["password"] = json!(password);
        order["instance"]["databases"] = json!([{"name": "app"}, {"name": database}]);
        let id = api.create(&order).await?;
        let view = api.await_active(&id).await?;
        let root = api.post(&format!("/instances/{id}/root"), &json!({"password": password})).await?;
        ensure!(root.status == 200, "{root:?}");
        api.await_operations(&id).await?;
        let pid = *leftovers::engines(&id).first().context("an engine")?;
        Ok(Self { api, id, view, password, database, engine: pid })
    }

    async fn sees_nothing_of(&self, other: &Self, engine: Engine) -> Result<()> {
        let path = format!("/instances/{}", other.id);
        for (method, rest, body) in [
            (Method::GET, "", None),
            (Method::GET, "/databases", None),
            (Method::GET, "/users", None),
            (Method::GET, "/root", None),
            (Method::GET, "/configuration", None),
            (Method::GET, "/connection", None),
            (Method::POST, "/databases", Some(json!({"databases": [{"name": "x"}]}))),
            (Method::POST, "/users", Some(json!({"users": [engine.user("x", "Secret-x-1")]}))),
            (Method::POST, "/root", Some(json!({"password": "Secret-x-1"}))),
            (Method::DELETE, "", None),
        ] {
            let path = format!("/v1.0/{}{path}{rest}", self.api.project);
            let answer = self.api.send_to(method.clone(), &path, body.as_ref()).await?;
            ensure!([403, 404].contains(&answer.status), "{method} {path}: {answer:?}");
        }
        engine.log_in(&self.view, "app", self.password).await.context("its own")?;
        ensure!(engine.log_in(&other.view, "app", self.password).await.is_err(), "its password opens the other's");
        ensure!(engine.inside(&other.view, self.password).await.is_err(), "its root is the other's");
        let seen = engine.inside(&self.view, self.password).await?.join("\n");
        ensure!(!seen.contains(other.database), "it sees the database {}: {seen}", other.database);
        Ok(())
    }

    /// The directory of a version's data, which belongs to the engine's account.
    fn data(&self, stack: &Stack) -> Result<PathBuf> {
        let volume = stack.host(&self.id).join("volume");
        Ok(std::fs::read_dir(&volume)?.next().context("a directory of data")??.path())
    }

    /// The engine's account is another's, and finds no files but its own, neither by their path nor through a process.
    fn reaches_nothing_of(&self, stack: &Stack, other: &Self) -> Result<()> {
        let uid = std::fs::metadata(self.data(stack)?)?.uid();
        ensure!(uid != std::fs::metadata(other.data(stack)?)?.uid(), "both engines have one account");
        let list = |path: &str| -> Result<std::process::Output> {
            let mut command = Command::new("nsenter");
            command.args([&format!("--target={}", self.engine), "--mount", "--", "setpriv"]);
            command.args([&format!("--reuid={uid}"), &format!("--regid={uid}"), "--clear-groups", "--", "ls", path]);
            Ok(command.output()?)
        };
        let data = self.data(stack)?;
        let major = data.file_name().context("a version")?.to_string_lossy();
        let own = list(&format!("/run/trove-rs/{}/h/volume/{major}", self.id))?;
        ensure!(own.status.success(), "the engine's account does not see its own: {own:?}");
        for path in [
            format!("/run/trove-rs/{}", other.id),
            stack.host(&other.id).display().to_string(),
            format!("/proc/{}/root/", other.engine),
            format!("/proc/{}/fd", other.engine),
            format!("/proc/{}/cwd/", other.engine),
        ] {
            ensure!(!list(&path)?.status.success(), "it sees {path}");
        }
        Ok(())
    }
}

async fn are_apart(engine: Engine) -> Result<()> {
    let parent = Some("/var/lib".into()).filter(|_| nix::unistd::geteuid().is_root());
    let stack = Stack::start_with(StackOptions { parent, ..StackOptions::offering(&[engine]) }).await?;
    let one = Tenant::new(&stack, engine, "trove", "One-secret-1", "ours").await?;
    let two = Tenant::new(&stack, engine, "trove-admin", "Two-secret-1", "theirs").await?;
    one.sees_nothing_of(&two, engine).await?;
    // The other one is an administrator: its role opens instances of others, its accounts do not.
    ensure!(engine.log_in(&one.view, "app", two.password).await.is_err());
    ensure!(engine.inside(&one.view, two.password).await.is_err());
    ensure!(!engine.inside(&two.view, two.password).await?.join("\n").contains(one.database));
    if nix::unistd::geteuid().is_root() {
        one.reaches_nothing_of(&stack, &two)?;
        two.reaches_nothing_of(&stack, &one)?;
    } else {
        writeln!(std::io::stdout(), "only root gives engines accounts of their own")?;
    }
    Ok(())
}

// PostgreSQL and Redis are in `attacks/`.
each_engine!(tenants_see_nothing_of_each_other_in: are_apart of mariadb, mongodb);
