//! Opens the engine's own client program, as the datastore's manifest says.

use std::ffi::OsString;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

use clap::Args;
use secrecy::ExposeSecret;
use serde_json::Value;

use super::Session;
use crate::error::{Failure, Result};
use crate::secret::PasswordSource;

/// To what, and as whom.
#[derive(Args)]
#[command(
    after_help = "Examples:\n  trovectl connect shop --user app --database app\n  trovectl connect shop --user app \
    --database app --password-file secret.txt -- EXTRA ARGUMENTS OF THE CLIENT"
)]
pub(crate) struct Arguments {
    /// The instance, by name or id.
    instance: String,
    /// The account; the instance's first one when absent.
    #[arg(long)]
    user: Option<String>,
    /// The database; the first that the account may enter when absent.
    #[arg(long)]
    database: Option<String>,
    #[command(flatten)]
    password: PasswordSource,
    /// More arguments for the client program.
    #[arg(last = true)]
    extra: Vec<String>,
}

/// Does it; returns only when it did not work.
pub(crate) async fn run(session: &mut Session, arguments: &Arguments) -> Result<()> {
    let instance = session.api.find_instance(&arguments.instance).await?;
    let id = instance["id"].as_str().unwrap_or_default().to_owned();
    let what = format!("connect to {}", arguments.instance);
    let body = session.api.get(&what, &format!("/instances/{id}/connection")).await?;
    let connection = &body["connection"];
    let client = &connection["client"];
    let plain = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let [address, port, tls_port] = ["address", "port", "tls_port"].map(|name| plain(&connection[name]));
    if client.is_null() {
        return Err(Failure::failed(format!(
            "The datastore of {} has no client program. Use one of yours: address {address}, port {port}.",
            arguments.instance
        )));
    }
    let by_name = client.to_string().contains("{database}");
    let (user, database) = identity(session, arguments, &id, by_name).await?;
    let password = arguments.password.existing(&user)?;
    let ca_file = authority_file(&id, connection["ca_pem"].as_str().unwrap_or_default())?;
    let authority = ca_file.to_string_lossy();
    let mut values = vec![
        ("{address}", address.as_str()),
        ("{port}", &port),
        ("{tls_port}", &tls_port),
        ("{user}", &user),
        ("{database}", &database),
        ("{ca_file}", &authority),
    ];
    let program = plain(&client["program"]);
    let mut command = Command::new(&program);
    let texts = |field: &str| client[field].as_array().into_iter().flatten().filter_map(Value::as_str);
    // Before there is a password: in an argument it would be seen by every account of this machine.
    command.args(texts("args").map(|arg| fill(arg, &values)));
    let kept_from_it = |name: &OsString| {
        let name = name.as_encoded_bytes();
        texts("unset").any(|beginning| name.starts_with(beginning.as_bytes()))
    };
    for (name, _) in std::env::vars_os().filter(|(name, _)| kept_from_it(name)) {
        command.env_remove(name);
    }
    values.push(("{password}", password.expose_secret()));
    for pair in client["env"].as_array().into_iter().flatten() {
        if let (Some(name), Some(value)) = (pair[0].as_str(), pair[1].as_str()) {
            command.env(name, fill(value, &values));
        }
    }
    let error = command.args(&arguments.extra).exec();
    let install = match client["package"].as_str() {
        Some(package) if error.kind() == std::io::ErrorKind::NotFound => {
            format!("The package {package} brings it: install that")
        }
        _ => "Install it".to_owned(),
    };
    Err(Failure::failed(format!(
        "Could not start {program}: {error}. {install}, or use another client: address {address}, port {port}, user \
         {user}, database {database}, authority {}.",
        ca_file.display()
    )))
}

/// Puts values where they belong, in one pass: what stands in a value is never replaced again.
fn fill(template: &str, values: &[(&str, &str)]) -> String {
    let (mut filled, mut rest) = (String::new(), template);
    while let Some(at) = rest.find('{') {
        let (before, found) = rest.split_at(at);
        filled.push_str(before);
        let known = values.iter().find_map(|(name, value)| Some((value, found.strip_prefix(name)?)));
        let (text, after) = known.map_or_else(|| found.split_at(1), |(value, after)| (*value, after));
        filled.push_str(text);
        rest = after;
    }
    filled + rest
}

/// The account and database that are meant; the latter is empty for engines that have none by name.
async fn identity(session: &mut Session, arguments: &Arguments, id: &str, by_name: bool) -> Result<(String, String)> {
    if let (Some(user), Some(database)) = (&arguments.user, &arguments.database) {
        return Ok((user.clone(), database.clone()));
    }
    let users = session.api.list("list the accounts", &format!("/instances/{id}/users"), "users").await?;
    let wanted = |user: &&Value| arguments.user.as_ref().is_none_or(|wanted| user["name"] == wanted.as_str());
    let found = users.iter().find(wanted);
    let name = arguments.user.clone().or_else(|| found?["name"].as_str().map(str::to_owned));
    let user = name.ok_or_else(|| {
        Failure::Usage(format!(
            "The instance has no account yet: make one with `trovectl user create {} NAME`.",
            arguments.instance
        ))
    })?;
    if !by_name {
        return Ok((user, String::new()));
    }
    let entered = found.and_then(|user| user["databases"][0]["name"].as_str()).map(str::to_owned);
    let database = arguments.database.clone().or(entered);
    let database =
        database.ok_or_else(|| Failure::Usage(format!("Which database? {user} may enter none: --database.")))?;
    Ok((user, database))
}

/// The authority in a file of one's own, for the client program.
fn authority_file(id: &str, pem: &str) -> Result<PathBuf> {
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").or_else(|| std::env::var_os("XDG_CACHE_HOME"));
    let runtime = runtime.map(PathBuf::from).or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache")));
    let directory = runtime.unwrap_or_else(std::env::temp_dir).join("trovectl");
    let path = directory.join(format!("{id}.pem"));
    let write = || -> std::io::Result<()> {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&directory)?;
        let mut options = std::fs::File::options();
        options.write(true).create(true).truncate(true).mode(0o600).open(&path)?.write_all(pem.as_bytes())
    };
    write().map_err(|error| Failure::failed(format!("Write {}: {error}.", path.display())))?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_is_filled_in_one_pass() {
        let values = [("{user}", "{database}"), ("{database}", "{user} {ca_file}"), ("{ca_file}", "/c{user}.pem")];
        assert_eq!(fill("--user={user}", &values), "--user={database}");
        assert_eq!(fill("{database}", &values), "{user} {ca_file}");
        assert_eq!(fill("a{ca_file}{user}b", &values), "a/c{user}.pem{database}b");
        assert_eq!(fill("{unknown} {{user} {", &values), "{unknown} {{database} {");
        assert_eq!(fill("", &values), "");
    }
}
