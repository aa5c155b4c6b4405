//! PostgreSQL as tenants use it.

use std::net::IpAddr;

use anyhow::{Context, Result};
use serde_json::Value;
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

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
