//! The enrolment document: what a new guest is told. Its errors never show the token.

use anyhow::{Context, Result, anyhow, bail, ensure};
use toml::{Table, Value};

use crate::config::Config;
use crate::identity::certificates;

/// The paths and the account that every image has; a document may name others.
const IMAGE: [(&str, &str); 7] = [
    ("authority_file", "authority.pem"),
    ("token_file", "token"),
    ("state_dir", "/var/lib/trove-agent"),
    ("volume_dir", "/var/lib/trove-data"),
    ("config_dir", "/etc/trove-engine"),
    ("run_dir", "/run/trove-engine"),
    ("log_dir", "/var/log/trove-engine"),
];
const ENGINE_UID: i64 = 2000;
const LONGEST_TOKEN: usize = 4096;

/// A document that was checked.
pub(super) struct Document {
    pub(super) token: String,
    /// Certificates, PEM.
    pub(super) authority: String,
    /// The contents of agent.toml.
    pub(super) agent: String,
    pub(super) config: Config,
}

impl Document {
    pub(super) fn parse(text: &str) -> Result<Self> {
        // The error of the parser quotes the line, which may hold the token.
        let parsed = text.parse::<Table>().map_err(|error| {
            let line = error.span().map_or(1, |span| text[..span.start.min(text.len())].matches('\n').count() + 1);
            anyhow!("is no TOML: line {line} cannot be read")
        });
        let mut table = parsed?;
        let format = table.remove("format").and_then(|format| format.as_integer());
        ensure!(format == Some(1), "has no `format = 1`, so it is none, or made for another agent");
        let token = text_of(&mut table, "token")?;
        ensure!(
            !token.is_empty() && token.len() <= LONGEST_TOKEN && token.bytes().all(|byte| byte.is_ascii_graphic()),
            "has a token that is empty, too long, or more than one word"
        );
        let authority = text_of(&mut table, "authority")?;
        certificates(authority.as_bytes()).context("has no PEM certificates in `authority`")?;
        let Some(Value::Table(mut agent)) = table.remove("agent") else { bail!("has no table [agent]") };
        if let Some(name) = table.keys().next() {
            bail!("has an option that is not known: {name}");
        }
        for (name, path) in IMAGE {
            agent.entry(name).or_insert_with(|| Value::String(path.to_owned()));
        }
        agent.entry("engine_uid").or_insert(Value::Integer(ENGINE_UID));
        let agent = toml::to_string(&agent).context("write agent.toml")?;
        let config = toml::from_str(&agent).context("has a table [agent] that the agent cannot use")?;
        Ok(Self { token, authority, agent, config })
    }
}

fn text_of(table: &mut Table, name: &str) -> Result<String> {
    match table.remove(name) {
        Some(Value::String(text)) => Ok(text),
        Some(_) => bail!("has a `{name}` that is no text"),
        None => bail!("has no `{name}`"),
    }
}
