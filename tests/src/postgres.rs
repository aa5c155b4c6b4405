//! PostgreSQL as tenants use it, also those who have its root and so a shell as the account of their engine.

use std::net::IpAddr;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

use crate::api::Api;

/// Connects to an instance over TCP with a password.
pub async fn connect(view: &Value, user: &str, password: &str, database: &str) -> Result<Client> {
    let address: IpAddr = view["ip"][0].as_str().with_context(|| format!("an address in {view}"))?.parse()?;
    let (client, connection) = tokio_postgres::Config::new()
        .host(address.to_string())
        .port(5432)
        .user(user)
        .password(password)
        .dbname(database)
        .connect_timeout(std::time::Duration::from_secs(5))
        .connect(NoTls)
        .await?;
    tokio::spawn(connection);
    Ok(client)
}

/// The rows of a statement, each with its columns as text, joined by `|`.
pub async fn rows(client: &Client, sql: &str) -> Result<Vec<String>> {
    let messages = client.simple_query(sql).await?;
    let row = |message| match message {
        SimpleQueryMessage::Row(row) => {
            let columns: Vec<&str> = (0..row.len()).map(|n| row.get(n).unwrap_or("")).collect();
            Some(columns.join("|"))
        }
        _ => None,
    };
    Ok(messages.into_iter().filter_map(row).collect())
}

/// Enables root, and connects as root.
pub async fn root(api: &Api, id: &str, database: &str) -> Result<Client> {
    let enabled = api.post(&format!("/instances/{id}/root"), &json!({})).await?;
    let password = enabled.body["user"]["password"].as_str().with_context(|| format!("{enabled:?}"))?;
    connect(&api.instance(id).await?, "root", password, database).await
}

/// Runs a script in the shell of a tenant who is superuser of the server, and returns its output.
pub async fn in_shell(client: &Client, script: &str) -> Result<String> {
    let program = format!("({script}) 2>&1 | tr -cd '[:print:]\\n'").replace('\'', "''");
    rows(client, "create table if not exists said (line text); truncate said").await?;
    let copy = format!("copy said from program '{program}' (format csv, delimiter e'\\x01', quote e'\\x02')");
    rows(client, &copy).await.context(program)?;
    Ok(rows(client, "select line from said").await?.join("\n"))
}
