//! Every kind of write that the API takes, with things for each to act on.

use anyhow::{Context, Result, ensure};
use reqwest::Method;
use serde_json::{Value, json};
use trove_tests::{Answer, Api, order_body};

/// What writes act on. Some are deleted by them.
#[derive(Clone, Debug)]
pub(crate) struct Things {
    /// An instance with the accounts `changed` and `gone`, which enter `app`, and the database `gone`.
    pub(crate) kept: String,
    /// An instance with root, a strategy, and the group `attached`.
    pub(crate) doomed: String,
    /// Configuration groups; `spare` is deleted.
    free: String,
    attached: String,
    spare: String,
    /// Backups; the second is deleted.
    pub(crate) backup: String,
    old_backup: String,
    /// A schedule, which is deleted.
    schedule: String,
    /// A token, which is revoked.
    pub(crate) token: String,
    /// A datastore version that no instance has.
    version: String,
}

/// The id in an answer, under the name of what was made.
fn id_of(answer: &Answer, name: &str) -> Result<String> {
    let id = answer.body[name]["id"].as_str().filter(|_| answer.status < 300);
    Ok(id.with_context(|| format!("make a {name}: {answer:?}"))?.to_owned())
}

fn group(name: &str) -> Value {
    json!({"configuration": {"name": name, "values": {"deadlock_timeout": 777}, "datastore": {"type": "postgresql"}}})
}

fn schedule(instance: &str) -> Value {
    json!({"backup_schedule": {"instance": instance, "cron": "0 3 1 1 *", "keep": {"count": 3}}})
}

fn strategy(instance: &str) -> Value {
    json!({"backup_strategy": {"swift_container": "backups", "instance_id": instance}})
}

fn token(of: &Api) -> Value {
    json!({"auth": {"identity": {"methods": ["token"], "token": {"id": of.token()}}}})
}

impl Things {
    /// Makes all of them. `n` is part of names.
    pub(crate) async fn make(member: &Api, admin: &Api, n: usize) -> Result<Self> {
        let mut groups = Vec::new();
        for name in ["free", "attached", "spare"] {
            groups.push(id_of(&member.post("/configurations", &group(&format!("{name}{n}"))).await?, "configuration")?);
        }
        let [free, attached, spare] = <[String; 3]>::try_from(groups).ok().context("three groups")?;
        let mut order = order_body(&format!("doomed{n}"));
        order["instance"]["configuration"] = json!(attached);
        let (kept, doomed) = (member.order(&format!("kept{n}")).await?, member.create(&order).await?);
        for id in [&kept, &doomed] {
            member.await_active(id).await?;
        }
        let backup = member.back_up(&kept, &format!("backup{n}")).await?;
        let old_backup = member.back_up(&doomed, &format!("old{n}")).await?;
        let users = ["changed", "gone"]
            .map(|name| json!({"name": name, "password": "secret-1", "databases": [{"name": "app"}]}));
        for (path, body) in [
            (format!("/instances/{kept}/databases"), json!({"databases": [{"name": "gone"}]})),
            (format!("/instances/{kept}/users"), json!({"users": users})),
            (format!("/instances/{doomed}/root"), json!({})),
            ("/backup_strategies".to_owned(), strategy(&doomed)),
        ] {
            let answer = member.post(&path, &body).await?;
            ensure!(answer.status < 300, "{path}: {answer:?}");
        }
        let schedule = id_of(&member.post("/backup_schedules", &schedule(&kept)).await?, "backup_schedule")?;
        for id in [&backup, &old_backup] {
            let view = member.await_backup(id).await?;
            ensure!(view["status"] == "COMPLETED", "{view}");
        }
        for id in [&kept, &doomed] {
            member.await_operations(id).await?;
        }
        let issued = member.send_to(Method::POST, "/identity/v3/auth/tokens", Some(&token(member))).await?;
        let token = issued.headers.get("x-subject-token").context("a token")?.to_str()?.to_owned();
        let versions = admin.get("/mgmt/datastore-versions").await?.body;
        let of_redis = |version: &&Value| version["datastore_name"] == "redis";
        let version = versions["versions"].as_array().into_iter().flatten().find(of_redis);
        let version = version.and_then(|version| version["id"].as_str()).context("a version of Redis")?.to_owned();
        Ok(Self { kept, doomed, free, attached, spare, backup, old_backup, schedule, token, version })
    }

    /// What the API shows of them, without what changes by itself.
    pub(crate) async fn shown(&self, member: &Api, admin: &Api) -> Result<Vec<Value>> {
        let mut shown = Vec::new();
        for id in [&self.kept, &self.doomed] {
            let view = member.instance(id).await?;
            shown.push(["name", "status", "flavor", "configuration"].iter().map(|part| view[part].clone()).collect());
            shown.push(view["volume"]["size"].clone());
            for part in ["operations", "users", "databases", "root", "recovery-window"] {
                shown.push(member.get(&format!("/instances/{id}/{part}")).await?.body);
            }
        }
        for path in ["/configurations", "/backups", "/backup_strategies", "/backup_schedules"] {
            shown.push(member.get(path).await?.body);
        }
        for id in [&self.free, &self.attached] {
            for path in [format!("/configurations/{id}"), format!("/configurations/{id}/instances")] {
                shown.push(member.get(&path).await?.body);
            }
        }
        for path in ["/mgmt/datastore-versions", &format!("/mgmt/datastores/versions/{}/parameters", self.version)] {
            shown.push(admin.get(path).await?.body);
        }
        let quotas = admin.get(&format!("/mgmt/quotas/{}", member.project)).await?.body;
        shown.extend(quotas["quotas"].as_array().into_iter().flatten().map(|quota| quota["limit"].clone()));
        shown.push(json!(member.with_token(&self.token).get("/limits").await?.status));
        Ok(shown)
    }
}

/// Who sends a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum By {
    Member,
    Admin,
    /// The identity is asked, by the member.
    Identity,
    /// The owner of the token, who revokes it.
    Owner,
}

/// A write of some kind.
pub(crate) struct Write {
    pub(crate) kind: &'static str,
    by: By,
    method: Method,
    path: String,
    body: Option<Value>,
}

impl Write {
    pub(crate) async fn send(&self, member: &Api, admin: &Api) -> Result<Answer> {
        let (method, body) = (self.method.clone(), self.body.as_ref());
        match self.by {
            By::Member => member.send(method, &self.path, body).await,
            By::Admin => admin.send(method, &self.path, body).await,
            By::Identity => member.send_to(method, &self.path, body).await,
            By::Owner => member.revoke(&self.path).await,
        }
    }
}

fn write(kind: &'static str, by: By, method: Method, path: String, body: impl Into<Option<Value>>) -> Write {
    Write { kind, by, method, path, body: body.into() }
}

impl Things {
    /// One write of each kind. All can be done one after the other. `n` makes names unique.
    pub(crate) fn writes(&self, member: &Api, n: usize) -> Vec<Write> {
        let mut all = vec![
            write("a token", By::Identity, Method::POST, "/identity/v3/auth/tokens".to_owned(), token(member)),
            write("a revocation", By::Owner, Method::DELETE, self.token.clone(), None),
            write("an order", By::Member, Method::POST, "/instances".to_owned(), order_body(&format!("n{n}"))),
        ];
        all.extend(self.of_backups(n));
        all.extend(self.of_accounts(n));
        all.extend(self.of_groups(n));
        all.extend(self.of_administrators(member, n));
        all.extend(self.of_instances(n));
        all
    }

    fn of_backups(&self, n: usize) -> Vec<Write> {
        let Self { kept, doomed, backup, old_backup, .. } = self;
        let schedules = "/backup_schedules".to_owned();
        let one = format!("{schedules}/{}", self.schedule);
        let verify = format!("/backups/{backup}/action");
        let order = json!({"backup": {"name": format!("b{n}"), "instance": kept}});
        let strategies = "/backup_strategies";
        let window = json!({"recovery_window": {"keep_seconds": 86400}});
        let paused = json!({"backup_schedule": {"paused": true}});
        vec![
            write("a backup", By::Member, Method::POST, "/backups".to_owned(), order),
            write("a verification", By::Member, Method::POST, verify, json!({"verify": {}})),
            write("a backup's end", By::Member, Method::DELETE, format!("/backups/{old_backup}"), None),
            write("a schedule", By::Member, Method::POST, schedules, schedule(kept)),
            write("a schedule's change", By::Member, Method::PATCH, one.clone(), paused),
            write("a schedule's end", By::Member, Method::DELETE, one, None),
            write("a strategy", By::Member, Method::POST, strategies.to_owned(), strategy(kept)),
            write("a strategy's end", By::Member, Method::DELETE, format!("{strategies}?instance_id={doomed}"), None),
            write("a window", By::Member, Method::PUT, format!("/instances/{kept}/recovery-window"), window),
        ]
    }

    fn of_accounts(&self, n: usize) -> Vec<Write> {
        let (kept, doomed) = (format!("/instances/{}", self.kept), format!("/instances/{}", self.doomed));
        let (users, databases) = (format!("{kept}/users"), format!("{kept}/databases"));
        let changed = format!("{users}/changed");
        let user = json!({"users": [{"name": format!("u{n}"), "password": "secret-1", "databases": []}]});
        let password = json!({"users": [{"name": "changed", "password": "secret-2"}]});
        let another = json!({"user": {"password": "secret-3"}});
        let database = json!({"databases": [{"name": format!("d{n}")}]});
        let access = json!({"databases": [{"name": "gone"}]});
        vec![
            write("a database", By::Member, Method::POST, databases.clone(), database),
            write("accounts", By::Member, Method::POST, users.clone(), user),
            write("passwords", By::Member, Method::PUT, users.clone(), password),
            write("an account's change", By::Member, Method::PUT, changed.clone(), another),
            write("access", By::Member, Method::PUT, format!("{changed}/databases"), access),
            write("access' end", By::Member, Method::DELETE, format!("{changed}/databases/app"), None),
            write("an account's end", By::Member, Method::DELETE, format!("{users}/gone"), None),
            write("a database's end", By::Member, Method::DELETE, format!("{databases}/gone"), None),
            write("root", By::Member, Method::POST, format!("{kept}/root"), json!({})),
            write("root's end", By::Member, Method::DELETE, format!("{doomed}/root"), None),
        ]
    }

    fn of_groups(&self, n: usize) -> Vec<Write> {
        let Self { kept, doomed, free, spare, .. } = self;
        let values = json!({"configuration": {"values": {"deadlock_timeout": 888}}});
        let (attach, detach) =
            (json!({"instance": {"configuration": free}}), json!({"instance": {"configuration": null}}));
        vec![
            write("a group", By::Member, Method::POST, "/configurations".to_owned(), group(&format!("g{n}"))),
            write("a group's change", By::Member, Method::PATCH, format!("/configurations/{free}"), values),
            write("a group's end", By::Member, Method::DELETE, format!("/configurations/{spare}"), None),
            write("an attachment", By::Member, Method::PUT, format!("/instances/{kept}"), attach),
            write("a detachment", By::Member, Method::PUT, format!("/instances/{doomed}"), detach),
        ]
    }

    fn of_administrators(&self, member: &Api, n: usize) -> Vec<Write> {
        let version = format!("/mgmt/datastore-versions/{}", self.version);
        let parameters = format!("/mgmt/datastores/versions/{}/parameters", self.version);
        let rule = json!({"configuration-parameter": {"name": "maxmemory-samples", "data_type": "integer",
            "restart_required": 0, "min_size": 1, "max_size": 10 + n}});
        let quotas = (format!("/mgmt/quotas/{}", member.project), json!({"quotas": {"instances": 20 + n}}));
        vec![
            write("a quota", By::Admin, Method::PUT, quotas.0, quotas.1),
            write("a version", By::Admin, Method::PATCH, version, json!({"name": format!("v{n}")})),
            write("a rule", By::Admin, Method::PUT, format!("{parameters}/maxmemory-samples"), rule),
            write("a rule's end", By::Admin, Method::DELETE, format!("{parameters}/maxmemory-samples"), None),
        ]
    }

    fn of_instances(&self, n: usize) -> Vec<Write> {
        let Self { kept, doomed, .. } = self;
        let action = |id: &str| format!("/instances/{id}/action");
        let managed = |id: &str| format!("/mgmt/instances/{id}/action");
        let name = json!({"instance": {"name": format!("named-{n}")}});
        let flavor = json!({"resize": {"flavorRef": "2"}});
        let volume = json!({"resize": {"volume": {"size": 2}}});
        vec![
            write("a name", By::Member, Method::PATCH, format!("/instances/{kept}"), name),
            write("a restart", By::Member, Method::POST, action(kept), json!({"restart": {}})),
            write("a flavor", By::Member, Method::POST, action(kept), flavor),
            write("a volume", By::Member, Method::POST, action(kept), volume),
            write("a reboot", By::Admin, Method::POST, managed(kept), json!({"reboot": {}})),
            write("a stop", By::Admin, Method::POST, managed(doomed), json!({"stop": {}})),
            write("a reset", By::Admin, Method::POST, action(doomed), json!({"reset_status": {}})),
            write("a reset of the task", By::Admin, Method::POST, managed(doomed), json!({"reset-task-status": {}})),
            write("a deletion", By::Member, Method::DELETE, format!("/instances/{doomed}"), None),
        ]
    }
}
