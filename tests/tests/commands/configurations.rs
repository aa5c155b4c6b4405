//! Configuration groups through the whole service, with the real `openstack` client: each command's effect is looked at
//! inside the engine.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use trove_tests::{APP, Api, Clients, Engine, Redis, Stack, connect, program, rows};

/// What a story sets and looks at.
struct Subject {
    engine: Engine,
    version: &'static str,
    /// One that takes numbers while the engine runs, with two of them as the engine shows them.
    live: (&'static str, [u64; 2]),
    /// One that needs a restart, as it is ordered and as the engine shows it.
    cold: (&'static str, Value, &'static str),
    /// A value that is refused, and what is said to be allowed.
    wrong: (Value, &'static str),
}

async fn value(subject: &Subject, view: &Value, name: &str) -> Result<String> {
    match subject.engine {
        Engine::PostgreSql => {
            let client = connect(view, APP.0, APP.1, "app").await?;
            Ok(rows(&client, &format!("show {name}")).await?.into_iter().next().unwrap_or_default())
        }
        Engine::Redis => {
            let said = Redis::plain(view)?.run("default", ROOT, &["CONFIG", "GET", name])?;
            Ok(said.lines().nth(1).unwrap_or_default().to_owned())
        }
    }
}

/// The password of root, which may ask Redis for its parameters.
const ROOT: &str = "Root-secret-1";

/// A service with an instance and a group.
struct Story {
    stack: Stack,
    api: Api,
    user: Clients,
    subject: Subject,
    /// Ids of the instance `tuned` and of the group.
    instance: String,
    group: String,
    /// The engine's defaults of the live and of the other parameter.
    defaults: (String, String),
}

/// Every command of configuration groups, in the order of a life.
async fn every_command(subject: Subject) -> Result<()> {
    let mut story = Story::begin(subject).await?;
    story.parameters().await?;
    story.create()?;
    story.attach().await?;
    story.merge().await?;
    story.replace_and_detach().await?;
    story.order_with_a_group().await
}

impl Story {
    async fn begin(subject: Subject) -> Result<Self> {
        let stack = Stack::start().await?;
        let api = stack.login("trove").await?;
        let user = Clients::new(&stack.clouds_yaml(), "trove")?;
        let nothing = String::new;
        let defaults = (nothing(), nothing());
        let mut story = Self { stack, api, user, subject, instance: nothing(), group: nothing(), defaults };
        story.instance = story.order(&story.subject.engine.order("tuned")).await?;
        let view = story.api.instance(&story.instance).await?;
        story.defaults = (story.live(&view).await?, story.cold(&view).await?);
        Ok(story)
    }

    async fn order(&self, body: &Value) -> Result<String> {
        let answer = self.api.post("/instances", body).await?;
        ensure!(answer.status == 200, "{answer:?}");
        let id = answer.body["instance"]["id"].as_str().context("an id")?.to_owned();
        self.api.await_active(&id).await?;
        if self.subject.engine == Engine::Redis {
            let root = self.api.post(&format!("/instances/{id}/root"), &json!({"password": ROOT})).await?;
            ensure!(root.status == 200, "{root:?}");
            self.api.await_operations(&id).await?;
        }
        Ok(id)
    }

    async fn live(&self, view: &Value) -> Result<String> {
        value(&self.subject, view, self.subject.live.0).await
    }

    async fn cold(&self, view: &Value) -> Result<String> {
        value(&self.subject, view, self.subject.cold.0).await
    }

    fn config(&self, words: &[&str]) -> Result<String> {
        self.user.openstack(&[&["database", "configuration"][..], words].concat())
    }

    fn shown(&self, words: &[&str]) -> Result<Value> {
        self.user.json(&[&["database", "configuration"][..], words].concat())
    }

    async fn settled(&self) -> Result<Value> {
        let ended = self.api.await_operations(&self.instance).await?;
        ensure!(ended[0]["status"] == "done", "{ended}");
        self.api.instance(&self.instance).await
    }

    async fn parameters(&self) -> Result<()> {
        let (live, cold) = (self.subject.live.0, self.subject.cold.0);
        let of_datastore = ["--datastore", self.subject.engine.datastore()];
        let all = self.shown(&[&["parameter", "list", self.subject.version][..], &of_datastore].concat())?;
        ensure!(all.as_array().is_some_and(|all| all.iter().any(|one| one["Name"] == live)), "{all}");
        let one = self.shown(&[&["parameter", "show", self.subject.version, cold][..], &of_datastore].concat())?;
        ensure!(one["restart_required"] == true, "{one}");
        let by_id = self.shown(&["parameter", "show", one["datastore_version_id"].as_str().context("an id")?, cold])?;
        assert_eq!(by_id, one);
        let defaults = self.shown(&["default", "tuned"])?;
        ensure!(defaults.get(live).is_some() && defaults.get(cold).is_some(), "{defaults}");
        Ok(())
    }

    fn create(&mut self) -> Result<()> {
        let (live, [first, _]) = self.subject.live;
        let (wrong, allowed) = &self.subject.wrong;
        let datastore = ["--datastore", self.subject.engine.datastore()];
        let refused = json!({live: wrong}).to_string();
        let create = ["database", "configuration", "create", "no", &refused];
        let (made, said) = self.user.try_openstack(&[&create[..], &datastore].concat())?;
        ensure!(!made && said.contains(live) && said.contains(allowed), "{said}");
        let values = json!({live: first}).to_string();
        let create = ["create", "group", &values, "--datastore-version", self.subject.version];
        let described = ["--description", "for a story"];
        let group = self.shown(&[&create[..], &datastore, &described].concat())?;
        self.group = group["id"].as_str().context("an id")?.to_owned();
        let listed = self.shown(&["list"])?;
        ensure!(listed[0]["ID"] == *self.group && listed[0]["Description"] == "for a story", "{listed}");
        let detail = self.shown(&["show", "group"])?;
        ensure!(detail["values"].as_str().is_some_and(|values| values.contains(&first.to_string())), "{detail}");
        Ok(())
    }

    async fn attach(&self) -> Result<()> {
        self.config(&["attach", "tuned", "group"])?;
        let view = self.settled().await?;
        assert_eq!(view["configuration"]["id"], *self.group);
        assert_eq!(view["status"], "ACTIVE");
        assert_eq!(self.live(&view).await?, engine_words(&self.subject, self.subject.live.1[0]));
        let instances = self.shown(&["instances", "group"])?;
        ensure!(instances[0]["ID"] == *self.instance, "{instances}");
        let (deleted, said) = self.user.try_openstack(&["database", "configuration", "delete", "group"])?;
        ensure!(!deleted && said.contains("instances have it"), "{said}");
        Ok(())
    }

    /// The first value stays, and the other one waits for a restart.
    async fn merge(&self) -> Result<()> {
        let (live, cold) = (self.subject.live.0, self.subject.cold.0);
        let values = json!({cold: self.subject.cold.1}).to_string();
        self.config(&["parameter", "set", &self.group, &values])?;
        let view = self.settled().await?;
        ensure!(view["status"] == "RESTART_REQUIRED", "{view}");
        assert_eq!(self.live(&view).await?, engine_words(&self.subject, self.subject.live.1[0]));
        assert_eq!(self.cold(&view).await?, self.defaults.1);
        let diff: Value = serde_json::from_str(&trovectl(&self.stack, &["config", "diff", "tuned", "-o", "json"])?)?;
        let of = |name: &str| diff.as_array().and_then(|all| all.iter().find(|one| one["name"] == name)).cloned();
        let waits = of(cold).with_context(|| format!("{cold} in {diff}"))?;
        ensure!(waits["state"] == "needs_restart" && waits["differs"] == true, "{diff}");
        ensure!(of(live).is_some_and(|one| one["state"] == "live" && one["differs"] == false), "{diff}");
        self.user.openstack(&["database", "instance", "restart", "tuned"])?;
        self.api.await_operations(&self.instance).await?;
        let view = self.api.await_active(&self.instance).await?;
        assert_eq!(self.cold(&view).await?, self.subject.cold.2);
        Ok(())
    }

    /// What is no longer in the group goes back to its default.
    async fn replace_and_detach(&self) -> Result<()> {
        let (live, [_, second]) = self.subject.live;
        let values = json!({live: second}).to_string();
        self.config(&["set", &self.group, &values, "--name", "renamed", "--description", "other"])?;
        let view = self.settled().await?;
        assert_eq!(self.live(&view).await?, engine_words(&self.subject, second));
        assert_eq!(view["configuration"]["name"], "renamed");
        ensure!(view["status"] == "RESTART_REQUIRED", "the other one waits to go back: {view}");
        trovectl(&self.stack, &["instance", "restart", "tuned", "--wait"])?;
        let view = self.api.await_active(&self.instance).await?;
        assert_eq!(self.cold(&view).await?, self.defaults.1);

        self.config(&["detach", "tuned"])?;
        let view = self.settled().await?;
        ensure!(view["configuration"].is_null() && view["status"] == "ACTIVE", "{view}");
        assert_eq!(self.live(&view).await?, self.defaults.0);
        Ok(())
    }

    /// The engine starts with all values, also with those that need a restart.
    async fn order_with_a_group(&self) -> Result<()> {
        let change = format!("{}={}", self.subject.cold.0, bare(&self.subject.cold.1));
        trovectl(&self.stack, &["config", "set", "renamed", &change, "--wait"])?;
        let mut order = self.subject.engine.order("second");
        order["instance"]["configuration"] = json!(self.group);
        let id = self.order(&order).await?;
        let view = self.api.instance(&id).await?;
        assert_eq!((&view["configuration"]["id"], &view["status"]), (&json!(self.group), &json!("ACTIVE")));
        assert_eq!(self.cold(&view).await?, self.subject.cold.2);
        assert_eq!(self.live(&view).await?, engine_words(&self.subject, self.subject.live.1[1]));
        trovectl(&self.stack, &["config", "detach", "second", "--wait"])?;
        self.config(&["delete", "renamed"])?;
        assert_eq!(self.shown(&["list"])?, json!([]));
        Ok(())
    }
}

/// How the engine shows a number of the live parameter.
fn engine_words(subject: &Subject, number: u64) -> String {
    match subject.engine {
        // `show` has the unit.
        Engine::PostgreSql => format!("{number}ms"),
        Engine::Redis => number.to_string(),
    }
}

fn bare(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn trovectl(stack: &Stack, args: &[&str]) -> Result<String> {
    let output = Command::new(program("trovectl")?)
        .args(["--os-cloud", "trove"])
        .args(args)
        .env("OS_CLIENT_CONFIG_FILE", stack.clouds_yaml())
        .env("XDG_CACHE_HOME", stack.directory())
        .output()?;
    ensure!(output.status.success(), "trovectl {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}

#[tokio::test]
async fn every_openstack_command_of_configuration_groups_acts_on_postgresql() -> Result<()> {
    every_command(Subject {
        engine: Engine::PostgreSql,
        version: "15",
        live: ("deadlock_timeout", [777, 888]),
        cold: ("shared_buffers", json!("64MB"), "64MB"),
        wrong: (json!(0), "from 1 to"),
    })
    .await
}

#[tokio::test]
async fn every_openstack_command_of_configuration_groups_acts_on_redis() -> Result<()> {
    every_command(Subject {
        engine: Engine::Redis,
        version: "7.0",
        live: ("maxmemory-samples", [7, 8]),
        cold: ("databases", json!(20), "20"),
        wrong: (json!("many"), "a whole number"),
    })
    .await
}
