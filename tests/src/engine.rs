//! An engine as a tenant uses it: created with a user `app`, written to, read from.

use anyhow::Result;
use serde_json::{Value, json};

use crate::api::order_body;
use crate::postgres::{connect, rows};
use crate::redis::Redis;

/// The user of a create request, and its password.
pub const APP: (&str, &str) = ("app", "secret-app-1");

/// An engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    /// Created with a database `app`.
    PostgreSql,
    /// Has no databases.
    Redis,
}

impl Engine {
    pub const ALL: [Self; 2] = [Self::PostgreSql, Self::Redis];

    /// Name of its datastore.
    pub fn datastore(self) -> &'static str {
        match self {
            Self::PostgreSql => "postgresql",
            Self::Redis => "redis",
        }
    }

    /// The body of a minimal create request, with the user `app`.
    pub fn order(self, name: &str) -> Value {
        let mut body = order_body(name);
        let instance = &mut body["instance"];
        instance["datastore"] = json!({"type": self.datastore()});
        if self == Self::Redis {
            instance["databases"] = json!([]);
            instance["users"] = json!([self.user(APP.0, APP.1)]);
        }
        body
    }

    /// The body of a user with the same rights as `app`.
    pub fn user(self, name: &str, password: &str) -> Value {
        match self {
            Self::PostgreSql => json!({"name": name, "password": password, "databases": [{"name": "app"}]}),
            Self::Redis => json!({"name": name, "password": password}),
        }
    }

    /// Logs in as a user.
    pub async fn log_in(self, view: &Value, user: &str, password: &str) -> Result<()> {
        match self {
            Self::PostgreSql => connect(view, user, password, "app").await.map(|_| ()),
            Self::Redis => Redis::plain(view)?.run(user, password, &["PING"]).map(|_| ()),
        }
    }

    /// A parameter with small integer values that can be changed while the engine runs.
    pub fn parameter(self) -> &'static str {
        match self {
            Self::PostgreSql => "deadlock_timeout",
            Self::Redis => "maxmemory-samples",
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
            Self::Redis => Ok(None),
        }
    }

    /// Writes a text as `app`, and waits for the engine's acknowledgement.
    pub async fn write(self, view: &Value, text: &str) -> Result<()> {
        match self {
            Self::PostgreSql => {
                let client = connect(view, APP.0, APP.1, "app").await?;
                let statement =
                    format!("create table if not exists kept (text text); insert into kept values ('{text}')");
                rows(&client, &statement).await.map(|_| ())
            }
            Self::Redis => Redis::plain(view)?.run(APP.0, APP.1, &["RPUSH", "kept", text]).map(|_| ()),
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
        }
    }
}
