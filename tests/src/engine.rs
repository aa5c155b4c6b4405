//! An engine as a tenant uses it: created with a user, written to, read from, looked at from inside.

use std::path::Path;
use std::process::{Command, Stdio};

use ::mongodb::bson::{Bson, Document, doc};
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::api::order_body;
use crate::mariadb::MariaDb;
use crate::mongodb::MongoDb;
use crate::postgres::{connect, rows};
use crate::redis::Redis;
use crate::skip::skipped;

/// The user of a create request, and its password; see [`Engine::account`].
pub const APP: (&str, &str) = ("app", "secret-app-1");

/// An engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    /// Created with a database `app`, as all but Redis.
    PostgreSql,
    /// Has no databases.
    Redis,
    MariaDb,
    /// Accounts are named after the database in which they are: here all are in `app`.
    MongoDb,
}

impl Engine {
    pub const ALL: [Self; 4] = [Self::PostgreSql, Self::Redis, Self::MariaDb, Self::MongoDb];

    /// Name of its datastore.
    pub fn datastore(self) -> &'static str {
        match self {
            Self::PostgreSql => "postgresql",
            Self::Redis => "redis",
            Self::MariaDb => "mariadb",
            Self::MongoDb => "mongodb",
        }
    }

    /// The engine of a datastore, if it is installed.
    pub fn installed(datastore: &str) -> Result<Option<Self>> {
        let engine = Self::ALL.into_iter().find(|engine| engine.datastore() == datastore);
        Ok(Some(engine.with_context(|| format!("no engine is called {datastore}"))?)
            .filter(|engine| engine.is_installed()))
    }

    /// Whether it is installed. Of those that `make setup` cannot have everywhere this says that its tests are skipped.
    pub fn is_installed(self) -> bool {
        let places = ["/usr/local/lib/trove-rs/mongodb/bin/mongod", "/usr/local/bin/mongod", "/usr/bin/mongod"];
        let is = self != Self::MongoDb || places.iter().any(|place| Path::new(place).exists());
        if !is {
            skipped("mongod is not installed (make setup fetches it where it can be had)");
        }
        is
    }

    pub fn has_databases(self) -> bool {
        self != Self::Redis
    }

    /// Whether accounts can be given other names.
    pub fn renames(self) -> bool {
        self != Self::MongoDb
    }

    /// An account's whole name in the engine and in the API.
    pub fn account(self, name: &str) -> String {
        if self == Self::MongoDb { format!("app.{name}") } else { name.to_owned() }
    }

    /// The name of root.
    pub fn root(self) -> &'static str {
        match self {
            Self::PostgreSql | Self::MariaDb => "root",
            Self::Redis => "default",
            Self::MongoDb => "admin.root",
        }
    }

    /// The body of a minimal create request, with the user `app`.
    pub fn order(self, name: &str) -> Value {
        let mut body = order_body(name);
        let instance = &mut body["instance"];
        instance["datastore"] = json!({"type": self.datastore()});
        instance["users"] = json!([self.user(APP.0, APP.1)]);
        if !self.has_databases() {
            instance["databases"] = json!([]);
        }
        body
    }

    /// The body of a user with the same rights as `app`.
    pub fn user(self, name: &str, password: &str) -> Value {
        let mut user = json!({"name": self.account(name), "password": password});
        if self.has_databases() {
            user["databases"] = json!([{"name": "app"}]);
        }
        user
    }

    /// Logs in as a user of the database `app`.
    pub async fn log_in(self, view: &Value, user: &str, password: &str) -> Result<()> {
        self.enter(view, user, password, "app").await
    }

    /// Logs in as an account and looks into a database.
    pub async fn enter(self, view: &Value, user: &str, password: &str, database: &str) -> Result<()> {
        let user = self.account(user);
        match self {
            Self::PostgreSql => connect(view, &user, password, database).await.map(|_| ()),
            Self::Redis => Redis::plain(view)?.run(&user, password, &["PING"]).map(|_| ()),
            Self::MariaDb => MariaDb::plain(view)?.run(&user, password, &format!("use `{database}`")).map(|_| ()),
            Self::MongoDb => {
                let look = doc! {"count": "kept"};
                MongoDb::plain(view)?.run(&user, password, database, look).await.map(|_| ())
            }
        }
    }

    /// Logs in with TLS; the certificate has to be signed by `authority`, a file.
    pub async fn log_in_with_tls(self, view: &Value, authority: &Path, user: &str, password: &str) -> Result<()> {
        let user = self.account(user);
        match self {
            Self::PostgreSql => {
                let address = view["ip"][0].as_str().with_context(|| format!("an address in {view}"))?;
                let mut psql = Command::new("psql");
                psql.args(["-X", "-w", "-h", address, "-U", &user, "-d", "app", "-c", "select 1"]);
                psql.env("PGPASSWORD", password).env("PGSSLMODE", "verify-full").env("PGSSLROOTCERT", authority);
                let output = psql.stdin(Stdio::null()).output().context("psql")?;
                ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
                Ok(())
            }
            Self::Redis => Redis::tls(view, authority)?.run(&user, password, &["PING"]).map(|_| ()),
            Self::MariaDb => MariaDb::tls(view, authority)?.run(&user, password, "use app").map(|_| ()),
            Self::MongoDb => {
                let look = doc! {"count": "kept"};
                MongoDb::tls(view, authority)?.run(&user, password, "app", look).await.map(|_| ())
            }
        }
    }

    /// A parameter with small integer values that can be changed while the engine runs.
    pub fn parameter(self) -> &'static str {
        match self {
            Self::PostgreSql => "deadlock_timeout",
            Self::Redis => "maxmemory-samples",
            Self::MariaDb => "max_connect_errors",
            Self::MongoDb => "ttlMonitorSleepSecs",
        }
    }

    /// Value of [`Engine::parameter`] in the engine; `None` if a tenant cannot read it.
    pub async fn value(self, view: &Value) -> Result<Option<String>> {
        match self {
            Self::PostgreSql => {
                let client = connect(view, APP.0, APP.1, "app").await?;
                let asked = "select setting from pg_settings where name = 'deadlock_timeout'";
                Ok(rows(&client, asked).await?.into_iter().next())
            }
            Self::MariaDb => MariaDb::plain(view)?.run(APP.0, APP.1, "select @@global.max_connect_errors").map(Some),
            Self::Redis | Self::MongoDb => Ok(None),
        }
    }

    /// Value of a parameter as the engine itself shows it to root.
    pub async fn value_of(self, view: &Value, root_password: &str, name: &str) -> Result<String> {
        match self {
            Self::PostgreSql => {
                let client = connect(view, self.root(), root_password, "app").await?;
                Ok(rows(&client, &format!("show {name}")).await?.into_iter().next().unwrap_or_default())
            }
            Self::Redis => {
                let said = Redis::plain(view)?.run(self.root(), root_password, &["CONFIG", "GET", name])?;
                Ok(said.lines().nth(1).unwrap_or_default().to_owned())
            }
            Self::MariaDb => MariaDb::plain(view)?.run(self.root(), root_password, &format!("select @@global.{name}")),
            Self::MongoDb => {
                let asked = doc! {"getParameter": 1, name: 1};
                let said = MongoDb::plain(view)?.run(self.root(), root_password, "admin", asked).await?;
                said.get(name).map(ToString::to_string).with_context(|| format!("{name} in {said}"))
            }
        }
    }

    /// What the engine itself tells root of accounts, their rights and databases: lines that change with any of them. Redis
    /// and MongoDB tell root nothing of accounts.
    pub async fn inside(self, view: &Value, root_password: &str) -> Result<Vec<String>> {
        match self {
            Self::PostgreSql => {
                let client = connect(view, self.root(), root_password, "app").await?;
                let accounts = "select rolname, rolsuper, rolcanlogin, rolpassword from pg_authid order by 1";
                let databases = "select datname, datacl, datcollate from pg_database order by 1";
                Ok([rows(&client, accounts).await?, rows(&client, databases).await?].concat())
            }
            Self::Redis => {
                let said = Redis::plain(view)?.run(self.root(), root_password, &["CONFIG", "GET", "*"])?;
                Ok(said.lines().map(str::to_owned).collect())
            }
            Self::MariaDb => {
                let asked = "select user, host, priv from mysql.global_priv order by 1, 2; \
                             select db, user, host from mysql.db order by 1, 2, 3; show databases";
                let said = MariaDb::plain(view)?.run(self.root(), root_password, asked)?;
                Ok(said.lines().map(str::to_owned).collect())
            }
            Self::MongoDb => {
                let asked = doc! {"listDatabases": 1, "nameOnly": true};
                let said = MongoDb::plain(view)?.run(self.root(), root_password, "admin", asked).await?;
                Ok(said.get_array("databases")?.iter().map(ToString::to_string).collect())
            }
        }
    }

    /// Writes a text as `app`, and waits for the engine's acknowledgement.
    pub async fn write(self, view: &Value, text: &str) -> Result<()> {
        let user = self.account(APP.0);
        match self {
            Self::PostgreSql => {
                let client = connect(view, APP.0, APP.1, "app").await?;
                let statement =
                    format!("create table if not exists kept (text text); insert into kept values ('{text}')");
                rows(&client, &statement).await.map(|_| ())
            }
            Self::Redis => Redis::plain(view)?.run(APP.0, APP.1, &["RPUSH", "kept", text]).map(|_| ()),
            Self::MariaDb => {
                let sql = format!("{MARIADB_TABLE}; insert into app.kept (text) values ('{text}')");
                MariaDb::plain(view)?.run(APP.0, APP.1, &sql).map(|_| ())
            }
            Self::MongoDb => {
                let insert = doc! {"insert": "kept", "documents": [{"text": text}]};
                let said = MongoDb::plain(view)?.run(&user, APP.1, "app", insert).await?;
                ensure!(said.get_i32("n")? == 1, "{said}");
                Ok(())
            }
        }
    }

    /// The written texts, in order.
    pub async fn read(self, view: &Value) -> Result<Vec<String>> {
        match self {
            Self::PostgreSql => {
                let client = connect(view, APP.0, APP.1, "app").await?;
                rows(&client, "create table if not exists kept (text text)").await?;
                rows(&client, "select text from kept order by ctid").await
            }
            Self::Redis => {
                let said = Redis::plain(view)?.run(APP.0, APP.1, &["LRANGE", "kept", "0", "-1"])?;
                Ok(said.lines().map(str::to_owned).collect())
            }
            Self::MariaDb => {
                let sql = format!("{MARIADB_TABLE}; select text from app.kept order by n");
                Ok(MariaDb::plain(view)?.run(APP.0, APP.1, &sql)?.lines().map(str::to_owned).collect())
            }
            Self::MongoDb => {
                let find = doc! {"find": "kept", "sort": {"$natural": 1}, "batchSize": 10_000, "singleBatch": true};
                let said = MongoDb::plain(view)?.run(&self.account(APP.0), APP.1, "app", find).await?;
                let batch = said.get_document("cursor")?.get_array("firstBatch")?;
                let text = |found: &Document| found.get_str("text").map(str::to_owned);
                batch.iter().filter_map(Bson::as_document).map(|found| Ok(text(found)?)).collect()
            }
        }
    }
}

const MARIADB_TABLE: &str = "create table if not exists app.kept (n int auto_increment primary key, text varchar(255))";
