//! Every `openstack` command of databases, users, root and configuration groups, on every engine that can serve it. The
//! effect of each is looked at inside the engine.

mod accounts;
mod configurations;

use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use trove_tests::{Api, Clients, Engine, Stack, each_engine, program};

use self::configurations::Tuning;

/// The password of root, who may ask the engine for its parameters.
const ROOT: &str = "Root-secret-1";

/// A service with an instance `tuned`, whose root is enabled.
struct Story {
    stack: Stack,
    api: Api,
    user: Clients,
    engine: Engine,
    /// Name of the only version of its datastore.
    version: String,
    instance: String,
}

impl Story {
    async fn begin(engine: Engine) -> Result<Self> {
        let stack = Stack::of(engine).await?;
        let api = stack.login("trove").await?;
        let user = Clients::new(&stack.clouds_yaml(), "trove")?;
        let versions = user.json(&["datastore", "version", "list", engine.datastore()])?;
        let version = versions[0]["Name"].as_str().context("a version")?.to_owned();
        let mut story = Self { stack, api, user, engine, version, instance: String::new() };
        story.instance = story.order("tuned", &[])?;
        story.api.await_active(&story.instance).await?;
        Ok(story)
    }

    /// Orders an instance as [`Engine::order`] describes.
    fn order(&self, name: &str, more: &[&str]) -> Result<String> {
        let mut create = vec!["database", "instance", "create", name, "--flavor", "1", "--size", "1"];
        create.extend(["--nic", "net-id=7dcd5e5a-27b1-4e22-b5ba-4b1d0a9ba2b1"]);
        create.extend(["--datastore", self.engine.datastore(), "--datastore-version", &self.version]);
        let user = format!("{}:secret-app-1", self.engine.account("app"));
        create.extend(["--users", &user]);
        if self.engine.has_databases() {
            create.extend(["--databases", "app"]);
        }
        let created = self.user.json(&[&create[..], more].concat())?;
        Ok(created["id"].as_str().with_context(|| format!("an id in {created}"))?.to_owned())
    }

    /// Runs `openstack database …`.
    fn database(&self, words: &[&str]) -> Result<String> {
        self.user.openstack(&[&["database"], words].concat())
    }

    /// The output of `openstack database …`.
    fn shown(&self, words: &[&str]) -> Result<Value> {
        self.user.json(&[&["database"], words].concat())
    }

    /// The names that `openstack database …` lists.
    fn names(&self, words: &[&str]) -> Result<Vec<String>> {
        let list = self.shown(words)?;
        let names = list.as_array().into_iter().flatten().filter_map(|row| row["Name"].as_str());
        Ok(names.map(str::to_owned).collect())
    }

    /// What is said when `openstack database …` is refused.
    fn refused(&self, words: &[&str]) -> Result<String> {
        let (done, said) = self.user.try_openstack(&[&["database"], words].concat())?;
        ensure!(!done, "{words:?} is done: {said}");
        Ok(said)
    }

    /// Waits for the end of all changes, and returns the instance.
    async fn settled(&self) -> Result<Value> {
        let ended = self.api.await_operations(&self.instance).await?;
        ensure!(ended[0]["status"] == "done", "{ended}");
        self.api.instance(&self.instance).await
    }

    fn trovectl(&self, args: &[&str]) -> Result<String> {
        let output = Command::new(program("trovectl")?)
            .args(["--os-cloud", "trove"])
            .args(args)
            .env("OS_CLIENT_CONFIG_FILE", self.stack.clouds_yaml())
            .env("XDG_CACHE_HOME", self.stack.directory())
            .output()?;
        ensure!(output.status.success(), "trovectl {args:?}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8(output.stdout)?)
    }
}

async fn every_command(engine: Engine) -> Result<()> {
    let story = Story::begin(engine).await?;
    accounts::every_command(&story).await?;
    configurations::every_command(&story, &Tuning::of(engine)).await?;
    let mut left = Vec::new();
    for area in ["database db", "database user", "database root", "database configuration"] {
        left.extend(story.user.not_run(area)?);
    }
    left.sort();
    ensure!(left == accounts::without(engine), "{left:?} were not tried, or are not refused");
    Ok(())
}

each_engine!(every_openstack_command_acts_on: every_command);
