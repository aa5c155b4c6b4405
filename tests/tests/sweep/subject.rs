//! A service with one instance, on which the sweeps run operations.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use reqwest::Method;
use serde_json::{Value, json};
use trove_tests::{APP, Answer, Api, Engine, Failpoints, Stack, leftovers, poll, program};

/// The service, and the expected state of its instance.
pub(crate) struct Subject {
    pub(crate) stack: Stack,
    pub(crate) api: Api,
    admin: Api,
    engine: Engine,
    id: Option<String>,
    written: Vec<String>,
    sizes: Sizes,
    /// Id of the configuration group, and its value of one parameter.
    group: Option<(String, u64)>,
    /// Whether instances are made with the group. One that has a group is not upgraded.
    grouped: bool,
    /// Names of the two versions, once there are two.
    versions: Option<[String; 2]>,
    /// Id of the backup that was asked for last, until it is deleted, and the texts that were acknowledged before it.
    backup: Option<(String, Vec<String>)>,
    /// Number of requests, for unique names.
    asked: usize,
}

/// Expected flavor and volume, and which of two versions; flavors 1 and 2 are defaults of the service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Sizes {
    flavor: u64,
    volume: u64,
    version: usize,
}

const SMALLEST: Sizes = Sizes { flavor: 1, volume: 1, version: 0 };

/// The same directory by another path, so that an engine can be registered a second time.
fn by_another_path(directory: &Path) -> Option<PathBuf> {
    let parent = directory.parent()?;
    Some(parent.join("..").join(parent.file_name()?).join(directory.file_name()?))
}

impl Sizes {
    fn after(self, kind: &str) -> Self {
        match kind {
            "resize_flavor" => Self { flavor: 3 - self.flavor, ..self },
            "resize_volume" => Self { volume: self.volume + 1, ..self },
            "upgrade_instance" => Self { version: 1 - self.version, ..self },
            _ => self,
        }
    }
}

impl Subject {
    pub(crate) async fn start(engine: Engine) -> Result<Self> {
        let stack = Stack::of(engine).await?;
        let (api, admin) = (stack.login("trove").await?, stack.login("trove-admin").await?);
        let (id, group, versions, backup) = (None, None, None, None);
        let (written, sizes, grouped, asked) = (Vec::new(), SMALLEST, true, 0);
        Ok(Self { stack, api, admin, engine, id, written, sizes, group, grouped, versions, backup, asked })
    }

    pub(crate) fn id(&self) -> Result<&str> {
        self.id.as_deref().context("an instance")
    }

    /// Kills the controller and starts it with a failpoint.
    pub(crate) fn arm(&mut self, entry: &str) -> Result<()> {
        self.stack.kill()?;
        self.stack.run(&Failpoints { controller: Some(entry.to_owned()), agent: None })
    }

    /// Waits until the controller dies at its failpoint, and starts it again.
    pub(crate) async fn die_and_carry_on(&mut self) -> Result<()> {
        let died = self.stack.await_death(Duration::from_secs(60)).await;
        died.with_context(|| format!("the failpoint was never reached\n{}", self.stack.log_end()))?;
        self.stack.run(&Failpoints::default())
    }

    /// Prepares for a kind of operation: no instance, or one with an acknowledged text.
    pub(crate) async fn prepare(&mut self, kind: &str) -> Result<()> {
        let grouped = kind != "upgrade_instance";
        if grouped != self.grouped {
            if self.id.is_some() {
                self.remove().await?;
            }
            self.grouped = grouped;
        }
        if kind == "create_instance" {
            return Ok(());
        }
        if kind == "create_backup" && self.backup.is_some() {
            self.remove_backup().await?;
        }
        if kind == "restore_instance" && self.backup.is_some() {
            // One backup is enough for all.
            return self.make_room().await;
        }
        if kind == "verify_backup" && self.backup.is_some() && self.id.is_some() {
            return self.await_usable().await.map(|_| ());
        }
        if kind == "upgrade_instance" && self.versions.is_none() {
            self.versions = Some(self.register_again().await?);
        }
        if self.id.is_none() {
            self.ask("create_instance").await?;
        }
        let view = self.await_usable().await?;
        let text = format!("written before {}", self.asked);
        self.engine.write(&view, &text).await?;
        self.written.push(text);
        if ["restore_instance", "verify_backup"].contains(&kind) && self.backup.is_none() {
            self.ask("create_backup").await?;
            let view = self.backup_at_its_end().await?;
            ensure!(view["status"] == "COMPLETED", "{view}\n{}", self.stack.log_end());
            self.await_usable().await?;
        }
        if kind == "restore_instance" {
            return self.make_room().await;
        }
        Ok(())
    }

    /// Removes the instance, so that one with the texts of the backup can be ordered.
    async fn make_room(&mut self) -> Result<()> {
        if self.id.is_some() {
            self.remove().await?;
        }
        self.written = self.backup.as_ref().map(|(_, texts)| texts.clone()).context("a backup")?;
        Ok(())
    }

    fn backup(&self) -> Result<&str> {
        self.backup.as_ref().map(|(id, _)| id.as_str()).context("a backup")
    }

    /// Waits until the instance is usable and its agent is connected to the present controller.
    pub(crate) async fn await_usable(&self) -> Result<Value> {
        let id = self.id()?;
        let ping = format!("/mgmt/instances/{id}/rpc_ping");
        let ask = async || Ok(self.admin.get(&ping).await?.status);
        let reached = poll("the agent to be reached", Duration::from_secs(30), ask, |status| *status == 204).await;
        reached.with_context(|| self.stack.log_end())?;
        self.api.await_active(id).await.with_context(|| self.stack.log_end())
    }

    /// Requests an operation.
    pub(crate) async fn ask(&mut self, kind: &str) -> Result<()> {
        let answer = self.send(kind).await?;
        ensure!([200, 202].contains(&answer.status), "{kind}: {answer:?}\n{}", self.stack.log_end());
        self.asked_for(kind).await
    }

    /// Requests an operation from a controller that dies before it answers.
    pub(crate) async fn ask_without_answer(&mut self, kind: &str) -> Result<()> {
        let answer = self.send(kind).await;
        ensure!(answer.is_err(), "the controller answered: {answer:?}");
        Ok(())
    }

    async fn send(&mut self, kind: &str) -> Result<Answer> {
        self.asked += 1;
        if kind == "create_instance" {
            let mut order = self.engine.order("swept");
            if self.grouped {
                order["instance"]["configuration"] = self.group().await?.into();
            }
            return self.api.post("/instances", &order).await;
        }
        if kind == "restore_instance" {
            // A smaller flavor and no more accounts than those of the backup.
            let order = json!({"instance": {
                "name": "restored", "flavorRef": "1", "volume": {"size": 1},
                "restorePoint": {"backupRef": self.backup()?}}});
            return self.api.post("/instances", &order).await;
        }
        let path = format!("/instances/{}", self.id()?);
        let action = format!("{path}/action");
        let to = self.sizes.after(kind);
        match kind {
            "delete_instance" => self.api.send(Method::DELETE, &path, None).await,
            "restart_instance" => self.api.post(&action, &json!({"restart": {}})).await,
            "create_backup" => {
                let body = json!({"backup": {"name": "swept", "instance": self.id()?}});
                self.api.post("/backups", &body).await
            }
            "verify_backup" => {
                self.api.post(&format!("/backups/{}/action", self.backup()?), &json!({"verify": {}})).await
            }
            "change_accounts" => {
                let (name, password) = self.newcomer();
                let body = json!({"users": [self.engine.user(&name, &password)]});
                self.api.post(&format!("{path}/users"), &body).await
            }
            "resize_flavor" => self.api.post(&action, &json!({"resize": {"flavorRef": to.flavor.to_string()}})).await,
            "resize_volume" => self.api.post(&action, &json!({"resize": {"volume": {"size": to.volume}}})).await,
            "apply_configuration" => {
                let (group, value) = (self.group().await?, 10 + self.asked as u64);
                self.group = Some((group.clone(), value));
                let body = json!({"configuration": {"values": {self.engine.parameter(): value}}});
                self.api.send(Method::PATCH, &format!("/configurations/{group}"), Some(&body)).await
            }
            "upgrade_instance" => {
                let versions = self.versions.as_ref().context("two versions")?;
                let body = json!({"instance": {"datastore_version": versions[to.version]}});
                self.api.send(Method::PATCH, &path, Some(&body)).await
            }
            "stop_instance" => self.admin.post(&format!("/mgmt{action}"), &json!({"stop": {}})).await,
            "reboot_instance" => self.admin.post(&format!("/mgmt{action}"), &json!({"reboot": {}})).await,
            other => bail!("how {other} is asked for is not known here"),
        }
    }

    /// Makes the configuration group if needed, and returns its id.
    async fn group(&mut self) -> Result<String> {
        if self.group.is_none() {
            let (datastore, values) = (self.engine.datastore(), json!({self.engine.parameter(): 9}));
            let group = json!({"name": "swept", "datastore": {"type": datastore}, "values": values});
            let made = self.api.post("/configurations", &json!({"configuration": group})).await?;
            let id = made.body["configuration"]["id"].as_str().with_context(|| format!("{made:?}"))?;
            self.group = Some((id.to_owned(), 9));
        }
        self.group.as_ref().map(|(id, _)| id.clone()).context("a group")
    }

    /// Registers the engine a second time, and returns the names of both versions.
    async fn register_again(&self) -> Result<[String; 2]> {
        let all = self.admin.get("/mgmt/datastore-versions").await?.body;
        let is_it =
            |version: &&Value| version["datastore_name"] == self.engine.datastore() && version["default"] == true;
        let first = all["versions"].as_array().into_iter().flatten().find(is_it).with_context(|| format!("{all}"))?;
        let text = |name: &str| first[name].as_str().with_context(|| format!("{name} in {first}"));
        let bindir = by_another_path(Path::new(text("bindir")?)).context("another path")?;
        let mut command = Command::new(program("trove-controller")?);
        command.args(["datastore", "register", "--name", "another", "--datastore", self.engine.datastore()]);
        command.arg("--bindir").arg(bindir).arg("--state").arg(self.stack.state());
        command.arg("--config").arg(self.stack.config()).envs(self.stack.environment());
        let output = command.output()?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Ok([text("name")?.to_owned(), "another".to_owned()])
    }

    /// The user created by the last `change_accounts`.
    fn newcomer(&self) -> (String, String) {
        (format!("user{}", self.asked), format!("secret-{}", self.asked))
    }

    /// Finds the instance that was created, with or without an answer.
    pub(crate) async fn asked_for(&mut self, kind: &str) -> Result<()> {
        if kind == "create_instance" {
            let list = self.api.get("/instances").await?.body;
            let id = list["instances"][0]["id"].as_str().with_context(|| format!("one instance in {list}"))?;
            (self.id, self.written, self.sizes) = (Some(id.to_owned()), Vec::new(), SMALLEST);
        }
        if kind == "restore_instance" {
            let list = self.api.get("/instances").await?.body;
            let id = list["instances"][0]["id"].as_str().with_context(|| format!("one instance in {list}"))?;
            (self.id, self.sizes) = (Some(id.to_owned()), SMALLEST);
        }
        if kind == "create_backup" {
            let list = self.api.get("/backups").await?.body;
            let id = list["backups"][0]["id"].as_str().with_context(|| format!("one backup in {list}"))?;
            self.backup = Some((id.to_owned(), self.written.clone()));
        }
        Ok(())
    }

    /// What the backup shows of its verification.
    pub(crate) async fn verification(&self) -> Result<Value> {
        self.api.await_verification(self.backup()?).await
    }

    /// Waits until the backup is completed or has failed.
    pub(crate) async fn backup_at_its_end(&self) -> Result<Value> {
        self.api.await_backup(self.backup()?).await
    }

    /// Deletes the backup and asserts that no object of it is left.
    pub(crate) async fn remove_backup(&mut self) -> Result<()> {
        let (id, _) = self.backup.take().context("a backup")?;
        self.api.remove_backup(&id).await.with_context(|| self.stack.log_end())?;
        let left = self.stack.objects(&id)?;
        ensure!(left.is_empty(), "{left:?} is left of a backup that was deleted");
        Ok(())
    }

    /// Asserts that the backup is completed, and that its objects are those of one run.
    async fn assert_backed_up(&mut self) -> Result<()> {
        let view = self.backup_at_its_end().await?;
        ensure!(view["status"] == "COMPLETED", "{view}\n{}", self.stack.log_end());
        let objects = self.stack.objects(self.backup()?)?;
        let manifests = objects.iter().filter(|path| path.ends_with("manifest.json")).count();
        let runs: BTreeSet<_> = objects.iter().filter_map(|path| path.parent()).collect();
        ensure!(manifests == 1 && runs.len() == 1, "{objects:?}");
        self.remove_backup().await
    }

    /// Runs an operation without a fault and returns its steps, as listed by the service.
    pub(crate) async fn steps(&mut self, kind: &str) -> Result<Vec<String>> {
        self.prepare(kind).await?;
        self.ask(kind).await?;
        // The operations of a deleted instance cannot be listed, so list them during the deletion.
        let path = match kind {
            "verify_backup" => format!("/backups/{}/operations", self.backup()?),
            _ => format!("/instances/{}/operations", self.id()?),
        };
        let seen = poll(
            "the operation",
            Duration::from_secs(10),
            async || Ok(self.api.get(&path).await?.body["operations"][0].clone()),
            |operation: &Value| operation["kind"] == kind,
        )
        .await?;
        let steps = seen["steps"].as_array().with_context(|| format!("steps in {seen}"))?;
        let names = steps.iter().filter_map(|step| step["name"].as_str().map(str::to_owned)).collect();
        self.assert_done(kind).await?;
        Ok(names)
    }

    /// Asserts that the operation had its effect, and that everything else is unchanged.
    pub(crate) async fn assert_done(&mut self, kind: &str) -> Result<()> {
        if kind == "delete_instance" {
            return self.assert_gone().await;
        }
        let last = self.last_operation(kind).await?;
        ensure!(last["status"] == "done", "{last}\n{}", self.stack.log_end());
        self.sizes = self.sizes.after(kind);
        if kind == "stop_instance" {
            self.assert_stopped().await?;
            self.ask("restart_instance").await?;
        }
        let view = self.assert_well().await?;
        ensure!(view["fault"].is_null(), "{view}");
        // A backup is of the data: whoever restores it names a group anew.
        let group = self.group.as_ref().filter(|_| self.grouped && kind != "restore_instance");
        if let (Some((_, value)), Some(now)) = (group, self.engine.value(&view).await?) {
            ensure!(now == value.to_string(), "the engine runs with {now}, the group says {value}");
        }
        match kind {
            "change_accounts" => {
                let (name, password) = self.newcomer();
                self.engine.log_in(&view, &name, &password).await
            }
            "create_instance" | "restore_instance" => self.remove().await,
            "create_backup" => self.assert_backed_up().await,
            "verify_backup" => {
                let verified = self.verification().await?;
                ensure!(verified["state"] == "passed" && verified["fault"].is_null(), "{verified}");
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Waits until all operations have ended, and returns the last one of a kind.
    pub(crate) async fn last_operation(&self, kind: &str) -> Result<Value> {
        let all = match kind {
            "verify_backup" => self.api.await_backup_operations(self.backup()?).await?,
            _ => self.api.await_operations(self.id()?).await?,
        };
        let found = all.as_array().into_iter().flatten().find(|operation| operation["kind"] == kind).cloned();
        found.with_context(|| format!("an operation {kind} in {all}"))
    }

    /// Asserts that there are one engine and one agent, and that sizes, logins and acknowledged data are right.
    pub(crate) async fn assert_well(&self) -> Result<Value> {
        let id = self.id()?;
        self.api.await_operations(id).await?;
        let view = self.await_usable().await?;
        let (engines, agents) = (leftovers::engines(id), leftovers::agents(id));
        ensure!(engines.len() == 1 && agents.len() == 1, "engines {engines:?}, agents {agents:?}");
        ensure!(self.stack.instances() == [id], "hosts {:?}", self.stack.instances());
        let Sizes { flavor, volume, version } = self.sizes;
        let is_other = view["datastore"]["version"] == "another";
        ensure!(is_other == (version == 1), "{view}");
        ensure!(view["flavor"]["id"] == *flavor.to_string() && view["volume"]["size"] == volume, "{view}");
        self.assert_use(1, 512 * flavor, volume).await?;
        let refused = self.engine.log_in(&view, APP.0, "wrong").await;
        ensure!(refused.is_err(), "a wrong password was accepted");
        let read = self.engine.read(&view).await.with_context(|| self.stack.log_end())?;
        ensure!(read == self.written, "acknowledged was {:?}, there is {read:?}", self.written);
        Ok(view)
    }

    /// Asserts that the engine is stopped and the agent is running.
    pub(crate) async fn assert_stopped(&self) -> Result<()> {
        let id = self.id()?;
        let stopped = |view: &Value| view["operating_status"] == "SHUTDOWN";
        poll("SHUTDOWN", Duration::from_secs(60), async || self.api.instance(id).await, stopped).await?;
        let (engines, agents) = (leftovers::engines(id), leftovers::agents(id));
        ensure!(engines.is_empty() && agents.len() == 1, "engines {engines:?}, agents {agents:?}");
        Ok(())
    }

    /// Asserts the project's use of its quota.
    pub(crate) async fn assert_use(&self, instances: u64, ram: u64, volumes: u64) -> Result<()> {
        let quotas = self.admin.get(&format!("/mgmt/quotas/{}", self.api.project)).await?.body;
        let all = quotas["quotas"].as_array().cloned().unwrap_or_default();
        for (resource, used) in [("instances", instances), ("ram", ram), ("volumes", volumes)] {
            let quota = all.iter().find(|quota| quota["resource"] == resource);
            ensure!(quota.is_some_and(|quota| quota["in_use"] == used), "{used} of {resource} in {quotas}");
        }
        Ok(())
    }

    /// Deletes the instance and asserts that nothing is left.
    pub(crate) async fn remove(&mut self) -> Result<()> {
        self.ask("delete_instance").await?;
        self.assert_gone().await
    }

    async fn assert_gone(&mut self) -> Result<()> {
        let id = self.id.take().context("an instance")?;
        self.api.await_gone(&id).await.with_context(|| self.stack.log_end())?;
        leftovers::assert_nothing_of(&id, &self.stack.host(&id), &[])?;
        ensure!(self.stack.instances().is_empty(), "hosts {:?}", self.stack.instances());
        self.assert_use(0, 0, 0).await
    }
}

/// The name in failpoints of the request that starts an operation of this kind.
pub(crate) fn committed_as(kind: &str) -> &str {
    match kind {
        // The sweep changes the group, which reaches its instances.
        "apply_configuration" => "change_configuration",
        kind => kind,
    }
}
