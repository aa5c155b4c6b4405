//! What a tenant's superuser can do so that the agent is kept out, or the server from starting, is mended while the server
//! does not run: by a server of one session, for which the bootstrap superuser is always let in (manual, postgres,
//! "Single-User Mode": no login, no event triggers, no settings of roles and databases).

use secrecy::SecretString;
use trove_strategy::{Directory, EngineError, HostError, Kind, Site};

use crate::client::{ADMIN, HOME};
use crate::config;
use crate::prepared;
use crate::single_user::postgres;

/// What ALTER SYSTEM writes, and what it is called once it was set aside.
const ALTERED: &str = "postgresql.auto.conf";
const SET_ASIDE: &str = "postgresql.auto.conf.refused";
/// More than this is not read of it.
const ALTERED_BYTES: u64 = 4 << 20;

/// Restores the agent's account and database. When not even a server of one session starts, transactions that are prepared
/// are rolled back; and then what ALTER SYSTEM set is set aside, and comes back when it was not to blame.
pub(crate) async fn repair(site: &Site) -> Result<Option<String>, EngineError> {
    let refused = match in_order(site).await {
        Ok(mended) => return Ok(mended),
        Err(error) => error,
    };
    let at = |name: &str| Directory::Data.join(format!("data/{name}"));
    let (altered, aside) = (at(ALTERED), at(SET_ASIDE));
    let text = site.host.read(&altered, ALTERED_BYTES).await?.unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let names = altered_names(&text);
    if names.is_empty() {
        return Err(refused);
    }
    site.host.rename(&altered, &aside).await?;
    match in_order(site).await {
        Ok(mended) => {
            let names = names.join(", ");
            let what = format!(
                "the server did not start with what ALTER SYSTEM had set ({names}), which was set aside as {SET_ASIDE} \
                 in its data directory"
            );
            Ok(Some(also(&what, mended)))
        }
        Err(_) => {
            site.host.rename(&aside, &altered).await?;
            Err(refused)
        }
    }
}

async fn in_order(site: &Site) -> Result<Option<String>, EngineError> {
    let refused = match restored(site).await {
        Ok(mended) => return Ok(mended),
        Err(error) => error,
    };
    match prepared::roll_back(site).await {
        Ok(true) => Ok(Some(also("prepared transactions were rolled back", restored(site).await?))),
        _ => Err(refused),
    }
}

fn also(what: &str, mended: Option<String>) -> String {
    mended.map_or_else(|| what.to_owned(), |mended| format!("{what}; {mended}"))
}

/// Checks that the server would start, and puts its catalogs right.
async fn restored(site: &Site) -> Result<Option<String>, EngineError> {
    // Goes through every check of a start; asking for this needs none of the memory yet.
    let asked = if config::major(site) >= 15 { "shared_memory_size" } else { "max_connections" };
    let mut check = postgres(site).arg("-D").arg(site.data.to_string_lossy()).arg("-C").arg(asked);
    check.args.extend(config::owned(site));
    site.host.run(check).await?;
    let mut last = None;
    // Any of them may have been dropped or renamed, and all three hold the catalogs in question.
    for database in [HOME, "template1", "template0"] {
        let mut single = postgres(site).arg("--single").arg("-D").arg(site.data.to_string_lossy());
        single.args.extend(config::owned(site));
        let run = site.host.run(single.arg(database).stdin(SecretString::from(statements()))).await;
        match run {
            Ok(output) => return found(&output.stdout),
            Err(error @ HostError::Failed { .. }) => last = Some(error),
            Err(error) => return Err(error.into()),
        }
    }
    Err(last.map_or_else(|| EngineError::new(Kind::Fatal, "repair: no database can be entered"), EngineError::from))
}

/// One statement a line, as the server of one session reads them; one that fails does not keep the next from running.
/// Which account is the agent's says its number, 10 since the data directory was made.
fn statements() -> String {
    let lines = [
        format!(
            "select 'the account {ADMIN}' as wrong from pg_catalog.pg_authid where oid = 10 and not (rolname = '{ADMIN}' and \
             rolsuper and rolcanlogin)"
        ),
        format!(
            "select 'the database {HOME}' as wrong where not exists (select from pg_catalog.pg_database where datname = \
             '{HOME}' and datallowconn)"
        ),
        "select 'settings of the account' as wrong from pg_catalog.pg_db_role_setting where setrole = 10 limit 1"
            .to_owned(),
        format!(
            "update pg_catalog.pg_authid set rolname = 'renamed_' || substr(md5(random()::text), 1, 24) where rolname = \
             '{ADMIN}' and oid <> 10"
        ),
        format!(
            "update pg_catalog.pg_authid set rolname = '{ADMIN}', rolsuper = true, rolinherit = true, rolcreaterole = true, \
             rolcreatedb = true, rolcanlogin = true, rolreplication = true, rolbypassrls = true, rolconnlimit = -1, \
             rolpassword = null, rolvaliduntil = null where oid = 10"
        ),
        "delete from pg_catalog.pg_db_role_setting where setrole = 10".to_owned(),
        // Fails when it is there, which is as it should be.
        format!("create database {HOME} template template0"),
        format!(
            "update pg_catalog.pg_database set datallowconn = true, datconnlimit = -1 where datname = '{HOME}' and (not \
             datallowconn or datconnlimit <> -1)"
        ),
        format!(
            "select 'yes' as restored from pg_catalog.pg_authid a, pg_catalog.pg_database d where a.oid = 10 and a.rolname = \
             '{ADMIN}' and a.rolsuper and a.rolcanlogin and d.datname = '{HOME}' and d.datallowconn"
        ),
    ];
    lines.map(|line| line + ";\n").concat()
}

/// Reads lines such as ` 1: wrong = "the account os_admin" (typeid = …`.
fn found(said: &str) -> Result<Option<String>, EngineError> {
    if !said.contains("restored = \"yes\"") {
        return Err(EngineError::new(Kind::Fatal, format!("restore the account {ADMIN:?}: it is not as it was")));
    }
    let wrong = said.lines().filter_map(|line| line.split_once("wrong = \"")?.1.split_once('"'));
    let wrong: Vec<&str> = wrong.map(|(what, _)| what).collect();
    Ok((!wrong.is_empty()).then(|| format!("restored: {}", wrong.join(", "))))
}

/// The names that the file sets.
fn altered_names(text: &str) -> Vec<&str> {
    let lines = text.lines().map(str::trim).filter(|line| !line.starts_with('#'));
    lines
        .filter_map(|line| line.split(|c: char| c == '=' || c.is_whitespace()).next())
        .filter(|name| !name.is_empty())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_wrong_is_read_from_what_the_server_says() {
        let said =
            "backend> \t 1: wrong = \"the account os_admin\"\t(typeid = 25)\n\t 1: restored = \"yes\"\t(typeid = 25)";
        assert_eq!(found(said).unwrap().as_deref(), Some("restored: the account os_admin"));
        assert_eq!(found("1: restored = \"yes\"").unwrap(), None);
        assert!(found("backend> ").is_err());
        assert_eq!(altered_names("# x\nport = '1'\n\nwork_mem='2'\n"), ["port", "work_mem"]);
    }
}
