//! The commands of configuration groups, of `openstack` and, beside them, of trovectl.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use trove_tests::Engine;

use crate::{ROOT, Story};

/// What is set and looked at.
pub(crate) struct Tuning {
    pub(crate) engine: Engine,
    /// One that takes numbers while the engine runs, and two of them.
    pub(crate) live: (&'static str, [u64; 2]),
    /// One that needs a restart, as it is ordered and as the engine shows it.
    pub(crate) cold: (&'static str, Value, &'static str),
    /// A value that is refused, and what is said to be allowed.
    pub(crate) wrong: (Value, &'static str),
}

impl Tuning {
    pub(crate) fn of(engine: Engine) -> Self {
        let (numbers, cold, wrong) = match engine {
            Engine::PostgreSql => ([777, 888], ("shared_buffers", json!("64MB"), "64MB"), (json!(0), "from 1 to")),
            Engine::Redis => ([7, 8], ("databases", json!(20), "20"), (json!("many"), "a whole number")),
            Engine::MariaDb => ([777, 888], ("ft_min_word_len", json!(5), "5"), (json!(0), "from 1 to")),
            Engine::MongoDb => ([77, 88], ("maxSessions", json!(2000), "2000"), (json!(0), "from 1 to")),
        };
        Self { engine, live: (engine.parameter(), numbers), cold, wrong }
    }
}

/// An instance with a group.
struct Tuned<'a> {
    story: &'a Story,
    tuning: &'a Tuning,
    /// Id of the group.
    group: String,
    /// The engine's defaults of the live and of the other parameter.
    defaults: (String, String),
}

/// All of them, in the order of a life.
pub(crate) async fn every_command(story: &Story, tuning: &Tuning) -> Result<()> {
    let mut tuned = Tuned { story, tuning, group: String::new(), defaults: Default::default() };
    let view = story.api.instance(&story.instance).await?;
    tuned.defaults = (tuned.live(&view).await?, tuned.cold(&view).await?);
    tuned.parameters().await?;
    tuned.create()?;
    tuned.attach().await?;
    tuned.merge().await?;
    tuned.replace_and_detach().await?;
    tuned.order_with_a_group().await
}

impl Tuned<'_> {
    async fn live(&self, view: &Value) -> Result<String> {
        self.story.engine.value_of(view, ROOT, self.tuning.live.0).await
    }

    async fn cold(&self, view: &Value) -> Result<String> {
        self.story.engine.value_of(view, ROOT, self.tuning.cold.0).await
    }

    fn config(&self, words: &[&str]) -> Result<String> {
        self.story.database(&[&["configuration"], words].concat())
    }

    fn shown(&self, words: &[&str]) -> Result<Value> {
        self.story.shown(&[&["configuration"], words].concat())
    }

    /// How the engine shows a number of the live parameter.
    fn words(&self, number: u64) -> String {
        // PostgreSQL shows the unit.
        if self.story.engine == Engine::PostgreSql { format!("{number}ms") } else { number.to_string() }
    }

    async fn parameters(&self) -> Result<()> {
        let (live, cold) = (self.tuning.live.0, self.tuning.cold.0);
        let of_datastore = ["--datastore", self.tuning.engine.datastore()];
        let all = self.shown(&[&["parameter", "list", &self.story.version][..], &of_datastore].concat())?;
        ensure!(all.as_array().is_some_and(|all| all.iter().any(|one| one["Name"] == live)), "{all}");
        let one = self.shown(&[&["parameter", "show", &self.story.version, cold][..], &of_datastore].concat())?;
        ensure!(one["restart_required"] == true, "{one}");
        let by_id = self.shown(&["parameter", "show", one["datastore_version_id"].as_str().context("an id")?, cold])?;
        assert_eq!(by_id, one);
        let defaults = self.shown(&["default", "tuned"])?;
        ensure!(defaults.get(live).is_some() && defaults.get(cold).is_some(), "{defaults}");
        Ok(())
    }

    fn create(&mut self) -> Result<()> {
        let (live, [first, _]) = self.tuning.live;
        let (wrong, allowed) = &self.tuning.wrong;
        let datastore = ["--datastore", self.tuning.engine.datastore()];
        let refused = json!({live: wrong}).to_string();
        let said = self.story.refused(&[&["configuration", "create", "no", &refused][..], &datastore].concat())?;
        ensure!(said.contains(live) && said.contains(allowed), "{said}");
        let values = json!({live: first}).to_string();
        let create = ["create", "group", &values, "--datastore-version", &self.story.version];
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
        let view = self.story.settled().await?;
        assert_eq!(view["configuration"]["id"], *self.group);
        assert_eq!(view["status"], "ACTIVE");
        assert_eq!(self.live(&view).await?, self.words(self.tuning.live.1[0]));
        let instances = self.shown(&["instances", "group"])?;
        ensure!(instances[0]["ID"] == *self.story.instance, "{instances}");
        let said = self.story.refused(&["configuration", "delete", "group"])?;
        ensure!(said.contains("instances have it"), "{said}");
        Ok(())
    }

    /// The first value stays, and the other one waits for a restart.
    async fn merge(&self) -> Result<()> {
        let (live, cold) = (self.tuning.live.0, self.tuning.cold.0);
        let values = json!({cold: self.tuning.cold.1}).to_string();
        self.config(&["parameter", "set", &self.group, &values])?;
        let view = self.story.settled().await?;
        ensure!(view["status"] == "RESTART_REQUIRED", "{view}");
        assert_eq!(self.live(&view).await?, self.words(self.tuning.live.1[0]));
        assert_eq!(self.cold(&view).await?, self.defaults.1);
        let diff: Value = serde_json::from_str(&self.story.trovectl(&["config", "diff", "tuned", "-o", "json"])?)?;
        let of = |name: &str| diff.as_array().and_then(|all| all.iter().find(|one| one["name"] == name)).cloned();
        let waits = of(cold).with_context(|| format!("{cold} in {diff}"))?;
        ensure!(waits["state"] == "needs_restart" && waits["differs"] == true, "{diff}");
        ensure!(of(live).is_some_and(|one| one["state"] == "live" && one["differs"] == false), "{diff}");
        self.story.database(&["instance", "restart", "tuned"])?;
        self.story.api.await_operations(&self.story.instance).await?;
        let view = self.story.api.await_active(&self.story.instance).await?;
        assert_eq!(self.cold(&view).await?, self.tuning.cold.2);
        Ok(())
    }

    /// What is no longer in the group goes back to its default.
    async fn replace_and_detach(&self) -> Result<()> {
        let (live, [_, second]) = self.tuning.live;
        let values = json!({live: second}).to_string();
        self.config(&["set", &self.group, &values, "--name", "renamed", "--description", "other"])?;
        let view = self.story.settled().await?;
        assert_eq!(self.live(&view).await?, self.words(second));
        assert_eq!(view["configuration"]["name"], "renamed");
        ensure!(view["status"] == "RESTART_REQUIRED", "the other one waits to go back: {view}");
        self.story.trovectl(&["instance", "restart", "tuned", "--wait"])?;
        let view = self.story.api.await_active(&self.story.instance).await?;
        assert_eq!(self.cold(&view).await?, self.defaults.1);

        self.config(&["detach", "tuned"])?;
        let view = self.story.settled().await?;
        ensure!(view["configuration"].is_null() && view["status"] == "ACTIVE", "{view}");
        assert_eq!(self.live(&view).await?, self.defaults.0);
        Ok(())
    }

    /// The engine starts with all values, also with those that need a restart.
    async fn order_with_a_group(&self) -> Result<()> {
        let change = format!("{}={}", self.tuning.cold.0, bare(&self.tuning.cold.1));
        self.story.trovectl(&["config", "set", "renamed", &change, "--wait"])?;
        let id = self.story.order("second", &["--configuration", &self.group])?;
        let view = self.story.api.await_active(&id).await?;
        self.story.database(&["root", "enable", &id, "--root_password", ROOT])?;
        assert_eq!((&view["configuration"]["id"], &view["status"]), (&json!(self.group), &json!("ACTIVE")));
        assert_eq!(self.cold(&view).await?, self.tuning.cold.2);
        assert_eq!(self.live(&view).await?, self.words(self.tuning.live.1[1]));
        self.story.trovectl(&["config", "detach", "second", "--wait"])?;
        self.config(&["delete", "renamed"])?;
        assert_eq!(self.shown(&["list"])?, json!([]));
        Ok(())
    }
}

fn bare(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}
