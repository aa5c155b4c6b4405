//! The data directory, made by a server that listens nowhere and checks nobody's rights.

use std::path::PathBuf;
use std::time::Duration;

use trove_strategy::{Command, Directory, EngineError, File, HostError, Kind, Location, Owner, SecretString, Site};

use crate::client::literal;
use crate::{Flavour, config, names};

const LIMIT: Duration = Duration::from_secs(180);

/// Where the data directory is made before it gets its name.
pub(crate) fn unfinished() -> Location {
    Directory::Data.join("data.new")
}

/// The data directory is made whole: with the agent's account, and no other that can log in.
pub(crate) async fn initialise(flavour: Flavour, site: &Site) -> Result<(), EngineError> {
    if site.host.exists(&Directory::Data.join("data/mysql")).await? {
        return Ok(());
    }
    let new = unfinished();
    site.host.remove(&new).await?;
    site.host.make_directory(&new, 0o700, Owner::Engine).await?;
    for at in config::empty() {
        site.host.make_directory(&at, 0o750, Owner::Agent).await?;
    }
    site.host.make_directory(&config::temporary(), 0o700, Owner::Engine).await?;
    if flavour.is_mariadb() {
        mariadb(flavour, site).await?
    } else {
        mysql_server(flavour, site).await?
    }
    Ok(site.host.rename(&new, &Directory::Data.join("data")).await?)
}

/// A program of the packages', beside the server's or where Debian has those that are no servers.
pub(crate) async fn program(site: &Site, name: &str) -> Result<PathBuf, EngineError> {
    let bindir = &site.installation.bindir;
    let parent = bindir.parent().unwrap_or(bindir);
    for directory in [bindir.clone(), parent.join("bin"), parent.join("scripts")] {
        let program = directory.join(name);
        if site.host.has_program(&program).await? {
            return Ok(program);
        }
    }
    let reason = format!("look for the server's programs: {name} is neither in {} nor beside it", bindir.display());
    Err(EngineError::new(Kind::Fatal, reason))
}

pub(crate) fn argument(name: &str, site: &Site, at: &Location) -> String {
    format!("--{name}={}", site.path(at).display())
}

async fn mariadb(flavour: Flavour, site: &Site) -> Result<(), EngineError> {
    let mut make = Command::engine(program(site, "mariadb-install-db").await?).deadline(LIMIT);
    for arg in ["--no-defaults", "--auth-root-authentication-method=socket", "--skip-test-db", "--skip-name-resolve"] {
        make = make.arg(arg);
    }
    // It looks up the machine's name, which decides nothing here.
    make = make.arg("--force").arg(format!("--auth-root-socket-user={}", names::admin(flavour, site)));
    make = make.arg(argument("datadir", site, &unfinished())).arg(argument("tmpdir", site, &config::temporary()));
    make = make.arg(format!("--innodb-log-file-size={}M", config::redo_mib(site)));
    site.host.run(with_modes(make)).await?;
    // It may have made others than the agent's account: root, mysql, those without a name, from this machine's names.
    let statements = [
        "delete from mysql.global_priv where not (user = 'mariadb.sys' and host = 'localhost');".to_owned(),
        "delete from mysql.proxies_priv;".to_owned(),
        "delete from mysql.roles_mapping;".to_owned(),
        "delete from mysql.db where user <> 'mariadb.sys';".to_owned(),
        restored(flavour, site),
        format!(
            "if (select count(*) from mysql.global_priv where {} or user = 'mariadb.sys' and host = 'localhost' and \
             json_value(priv, '$.account_locked') = 1) <> 2 or (select count(*) from mysql.global_priv) <> 2 or exists \
             (select * from information_schema.schemata where schema_name not in ('mysql', 'sys', 'performance_schema', \
             'information_schema')) then signal sqlstate '45000' set message_text = 'there are other accounts or \
             databases'; end if;",
            is_in_order(flavour, site)
        ),
    ];
    bootstrap(flavour, site, &unfinished(), &statements, LIMIT).await.map(drop)?;
    Ok(())
}

/// What the agent's account is made of.
const MADE_AS: &str = r#"{"access":18446744073709551615,"plugin":"unix_socket"}"#;

pub(crate) fn restored(flavour: Flavour, site: &Site) -> String {
    let admin = literal(names::admin(flavour, site));
    format!("replace into mysql.global_priv values ('localhost', {admin}, {});", literal(MADE_AS))
}

pub(crate) fn is_in_order(flavour: Flavour, site: &Site) -> String {
    let admin = literal(names::admin(flavour, site));
    format!("host = 'localhost' and user = {admin} and priv = {}", literal(MADE_AS))
}

/// Files of the server are its account's alone.
pub(crate) fn with_modes(mut command: Command) -> Command {
    command.env.extend(modes());
    command
}

/// As its environment says so.
pub(crate) fn modes() -> Vec<(String, String)> {
    [("UMASK", "0600"), ("UMASK_DIR", "0700")].map(|(name, mode)| (name.to_owned(), mode.to_owned())).to_vec()
}

/// Runs statements, one a line; the first that fails ends it.
pub(crate) async fn bootstrap(
    flavour: Flavour,
    site: &Site,
    data: &Location,
    statements: &[String],
    limit: Duration,
) -> Result<(), HostError> {
    let [plugins, no_files] = config::empty();
    let mut command = Command::engine(flavour.program(site)).arg("--no-defaults").arg("--bootstrap");
    let places = [
        ("datadir", data),
        ("tmpdir", &config::temporary()),
        ("plugin-dir", &plugins),
        ("secure-file-priv", &no_files),
    ];
    for (name, at) in places {
        command = command.arg(argument(name, site, at));
    }
    command = command.arg(format!("--innodb-log-file-size={}M", config::redo_mib(site)));
    command = command.arg("--innodb-buffer-pool-size=64M").stdin(SecretString::from(statements.join("\n") + "\n"));
    site.host.run(with_modes(command).deadline(limit)).await.map(drop)
}

async fn mysql_server(flavour: Flavour, site: &Site) -> Result<(), EngineError> {
    let mut statements = vec!["INSTALL PLUGIN auth_socket SONAME 'auth_socket.so';".to_owned()];
    statements.extend(made_for(site, "CREATE USER"));
    statements.push("DROP USER root@localhost;".to_owned());
    let at = write_statements(site, "initialise.sql", &statements).await?;
    let make = Command::engine(flavour.program(site)).arg("--no-defaults").arg("--initialize-insecure").deadline(LIMIT);
    let make = make.arg(argument("datadir", site, &unfinished())).arg(argument("init-file", site, &at));
    let make = make.arg(argument("tmpdir", site, &config::temporary())).arg("--secure-file-priv=NULL");
    let make = make.arg(format!("--innodb-redo-log-capacity={}M", config::redo_mib(site)));
    site.host.run(with_modes(make)).await?;
    Ok(site.host.remove(&at).await?)
}

/// Statements, one a line, in a file for the server to begin with.
pub(crate) async fn write_statements(site: &Site, name: &str, statements: &[String]) -> Result<Location, EngineError> {
    let file = File::config(name, statements.join("\n") + "\n");
    let at = file.at.clone();
    site.host.write(file).await?;
    Ok(at)
}

/// The account of MySQL's agent: in the system's list it is the engine's.
pub(crate) fn made_for(site: &Site, verb: &str) -> [String; 2] {
    let account = text(&site.engine_account);
    let admin = format!("{}@{}", names::ADMIN, names::LOCAL);
    [
        format!("{verb} {admin} IDENTIFIED WITH auth_socket AS {account};"),
        format!("GRANT ALL ON *.* TO {admin} WITH GRANT OPTION;"),
    ]
}

/// A text where no number can stand for it.
pub(crate) fn text(text: &str) -> String {
    format!("'{}'", text.replace('\\', "\\\\").replace('\'', "''"))
}
