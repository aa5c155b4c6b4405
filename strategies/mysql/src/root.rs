//! The all-powerful account that a tenant may ask for: `root` from any host. It may do everything with data and accounts, and
//! not what is the service's: files, the server's settings, its end, its log of changes, other accounts' names for objects.

use async_trait::async_trait;
use secrecy::SecretString;
use trove_strategy::{EngineError, Grantee, Kind, Root, Site};

use crate::accounts::{self, account, is_locked};
use crate::client::{Session, identifier, literal, matches, pattern};
use crate::names::{ANY_HOST, LOCAL, ROOT, SYSTEM};
use crate::users::verified_by;
use crate::{Flavour, Mysql, access, names, sessions};

/// Rights that root does not get.
const KEPT: &[&str] = &[
    "BINLOG ADMIN",
    "BINLOG REPLAY",
    "CONNECTION ADMIN",
    "CREATE TABLESPACE",
    "FEDERATED ADMIN",
    "FILE",
    "READ_ONLY ADMIN",
    "REPLICATION MASTER ADMIN",
    "REPLICATION SLAVE ADMIN",
    "SET USER",
    "SHUTDOWN",
    "SUPER",
];

/// Rights of MySQL that root gets, of those that are not for single databases: it has many that are the server's.
const GIVEN: &[&str] =
    &["APPLICATION_PASSWORD_ADMIN", "FLUSH_STATUS", "FLUSH_TABLES", "ROLE_ADMIN", "SHOW_ROUTINE", "XA_RECOVER_ADMIN"];

/// What MySQL's root may not do with the server's own tables: with them it could give itself all rights.
const KEPT_ON_TABLES: &str = "insert, update, delete, create, drop, alter, index, references, trigger, lock tables, \
                              create view, create routine, alter routine, execute, event, create temporary tables";

/// How often it is looked for what root left, at most: whoever still has its rights can make more meanwhile.
const ROUNDS: u32 = 5;

fn root() -> Grantee {
    Grantee { name: ROOT.to_owned(), host: ANY_HOST.to_owned() }
}

#[async_trait]
impl Root for Mysql {
    async fn is_enabled(&self, site: &Site) -> Result<bool, EngineError> {
        let mut session = self.session(site).await?;
        Ok(accounts::shown(&mut session, &root()).await?.is_some_and(|shown| !is_locked(&shown)))
    }

    async fn enable(&self, site: &Site, password: &SecretString) -> Result<(), EngineError> {
        let attempt = "enable root";
        let mut session = self.session(site).await?;
        let (id, verified) = (account(&root()), verified_by(self.flavour, password));
        session.run(attempt, &format!("create user if not exists {id} {verified}")).await?;
        let rights = given(self.flavour, site, &mut session).await?.join(", ");
        session.run(attempt, &format!("grant {rights} on *.* to {id} with grant option")).await?;
        if !self.flavour.is_mariadb() {
            session.run(attempt, &format!("revoke {KEPT_ON_TABLES} on mysql.* from {id}")).await?;
        }
        session.run(attempt, &format!("alter user {id} {verified} require none account unlock")).await
    }

    async fn disable(&self, site: &Site) -> Result<(), EngineError> {
        let attempt = "disable root";
        let mut error = EngineError::new(Kind::Busy, format!("{attempt}: powers come back while they are taken away"));
        for round in 0..ROUNDS {
            match take_away(self, site, attempt).await {
                // The round before cut the sessions that had rights: what they made until then is found by this one.
                Ok(false) if round > 0 => return Ok(()),
                Ok(_) => {}
                Err(refused) => error = refused,
            }
        }
        Err(error)
    }
}

/// The rights that root gets, of those that the agent has on this server.
async fn given(flavour: Flavour, site: &Site, session: &mut Session<'_>) -> Result<Vec<String>, EngineError> {
    let admin = format!("'{}'@'{}'", names::admin(flavour, site), LOCAL);
    let sql =
        format!("select privilege_type from information_schema.user_privileges where grantee = {}", literal(&admin));
    let rows = session.rows("list rights", &sql).await?;
    let all = rows.into_iter().filter_map(|row| row.into_iter().next());
    // Those with an underscore are MySQL's that are no part of any database's.
    let is_given = |right: &String| {
        let is_dynamic = right.contains('_') && !flavour.is_mariadb();
        !KEPT.contains(&right.as_str()) && (!is_dynamic || GIVEN.contains(&right.as_str()))
    };
    Ok(all.filter(is_given).collect())
}

/// Accounts besides the agent's that have more than rights on single databases of tenants, or that only root can have made;
/// `root` itself unless it is shut out.
pub(crate) async fn others(
    flavour: Flavour,
    site: &Site,
    session: &mut Session<'_>,
) -> Result<Vec<Grantee>, EngineError> {
    let attempt = "look for accounts with powers";
    let wide = "select distinct grantee from information_schema.user_privileges where privilege_type <> 'USAGE' or \
                is_grantable = 'YES'";
    let mut powerful: Vec<String> = session.rows(attempt, wide).await?.concat();
    for (table, column) in [("schema_privileges", "table_schema"), ("table_privileges", "table_schema")] {
        let sql = format!("select distinct grantee, {column}, is_grantable from information_schema.{table}");
        for row in session.rows(attempt, &sql).await? {
            let [grantee, database, grantable] = <[String; 3]>::try_from(row)
                .map_err(|_| EngineError::new(Kind::Fatal, format!("{attempt}: a row has other columns")))?;
            let is_wide = table == "schema_privileges" && crate::client::meant(flavour, &database).is_none();
            let reaches = |system: &&str| {
                flavour.is_mariadb() && matches(&database, system) || database.eq_ignore_ascii_case(system)
            };
            if is_wide || grantable == "YES" || SYSTEM.iter().any(reaches) {
                powerful.push(grantee);
            }
        }
    }
    let mut found = Vec::new();
    for id in accounts::all(session).await? {
        let is_ours = id.host == LOCAL && id.name == names::admin(flavour, site);
        if is_ours || is_systems(&id) {
            continue;
        }
        let made = id == root();
        let is_odd = names::is_reserved(flavour, site, &id.name, &id.host) && !made;
        let is_in = made && accounts::shown(session, &id).await?.is_some_and(|shown| !is_locked(&shown));
        if is_odd || is_in || powerful.contains(&format!("'{}'@'{}'", id.name, id.host)) {
            found.push(id);
        }
    }
    Ok(found)
}

/// Accounts that the server makes for itself, which cannot log in.
fn is_systems(id: &Grantee) -> bool {
    id.host == LOCAL && ["mariadb.sys", "mysql.sys", "mysql.session", "mysql.infoschema"].contains(&id.name.as_str())
}

/// Takes all powers away, and cuts all sessions. Answers whether there was something to take.
async fn take_away(mysql: &Mysql, site: &Site, attempt: &str) -> Result<bool, EngineError> {
    let (flavour, mut session) = (mysql.flavour, mysql.session(site).await?);
    let own = names::admin(flavour, site);
    // Whoever is in goes on with what he had.
    sessions::cut(&mut session, |open| open.user != own).await?;
    let mut found = false;
    if flavour.is_mariadb() {
        found |= without_roles(&mut session, attempt).await?;
    } else {
        found |= without_the_services_as_roles(flavour, site, &mut session, attempt).await?;
    }
    // What was written into the tables of accounts is found below.
    session.run(attempt, "flush privileges").await?;
    found |= own_accounts_as_made(flavour, site, &mut session, attempt).await?;
    let others = others(flavour, site, &mut session).await?;
    found |= !others.is_empty();
    let (grants, databases) = (accounts::grants(&mut session).await?, access::names(&mut session).await?);
    for id in others {
        strip(flavour, site, &mut session, attempt, &id, &accounts::entered(flavour, &id, &grants, &databases)).await?;
    }
    found |= without_objects(flavour, site, &mut session, attempt).await?;
    sessions::cut(&mut session, |open| open.user != own).await?;
    Ok(found)
}

/// One account is left with the databases that it may enter. `root` may enter all of them and is shut out: what it made runs with
/// its rights, and goes on doing so.
async fn strip(
    flavour: Flavour,
    site: &Site,
    session: &mut Session<'_>,
    attempt: &str,
    id: &Grantee,
    entered: &[String],
) -> Result<(), EngineError> {
    let quoted = account(id);
    if *id != root() && names::is_reserved(flavour, site, &id.name, &id.host) {
        return session.run(attempt, &format!("drop user if exists {quoted}")).await;
    }
    session.run(attempt, &format!("revoke all privileges, grant option from {quoted}")).await?;
    let mut entered = entered.to_vec();
    if *id == root() {
        let random = SecretString::from(hex::encode(rand::random::<[u8; 32]>()));
        let verified = verified_by(flavour, &random);
        session.run(attempt, &format!("alter user {quoted} {verified} account lock")).await?;
        entered = access::names(session).await?;
    }
    for database in entered.iter().filter(|name| !names::is_reserved_database(flavour, name)) {
        session.run(attempt, &access::statement("grant", &pattern(flavour, database), "to", id)).await?;
    }
    Ok(())
}

/// The agent's account logs in as it was made, and the server's own do not.
async fn own_accounts_as_made(
    flavour: Flavour,
    site: &Site,
    session: &mut Session<'_>,
    attempt: &str,
) -> Result<bool, EngineError> {
    let mut found = false;
    let own = Grantee { name: names::admin(flavour, site).to_owned(), host: LOCAL.to_owned() };
    let shown = accounts::shown(session, &own).await?.unwrap_or_default();
    if flavour.is_mariadb() && shown.trim() != format!("CREATE USER {} IDENTIFIED VIA unix_socket", account(&own)) {
        session.run(attempt, &format!("alter user {} identified via unix_socket require none", account(&own))).await?;
        found = true;
    }
    for id in accounts::all(session).await?.iter().filter(|id| is_systems(id)) {
        if !accounts::shown(session, id).await?.is_some_and(|shown| is_locked(&shown)) {
            session.run(attempt, &format!("alter user {} account lock", account(id))).await?;
            found = true;
        }
    }
    Ok(found)
}

/// Roles with more than a database's rights are gone, and nobody logs in as another by a proxy. Both are known only to tables of
/// the server's, which have to be its own.
async fn without_roles(session: &mut Session<'_>, attempt: &str) -> Result<bool, EngineError> {
    let own = "select count(*) from information_schema.tables where table_schema = 'mysql' and table_type = 'BASE TABLE' \
               and engine in ('Aria', 'MyISAM', 'InnoDB') and table_name in ('global_priv', 'proxies_priv')";
    if session.value(attempt, own).await?.as_deref() != Some("2") {
        let reason = format!("{attempt}: the server's tables of accounts are no tables any more");
        return Err(EngineError::new(Kind::Fatal, reason));
    }
    let roles = "select user from mysql.global_priv where json_value(priv, '$.is_role') = 1 and \
                 (json_value(priv, '$.access') <> 0 or user in (select user from mysql.db where host = '' and \
                 db in ('mysql', 'sys', '%')))";
    let roles = session.rows(attempt, roles).await?.concat();
    for role in &roles {
        session.run(attempt, &format!("drop role if exists {}", identifier(role))).await?;
    }
    let proxies = session.rows(attempt, "select user from mysql.proxies_priv").await?;
    session.run(attempt, "delete from mysql.proxies_priv").await?;
    Ok(!roles.is_empty() || !proxies.is_empty())
}

/// In MySQL each account can be a role of others: nobody has the rights of the agent's or of the server's own so. Roles of
/// tenants lose their powers as their accounts do.
async fn without_the_services_as_roles(
    flavour: Flavour,
    site: &Site,
    session: &mut Session<'_>,
    attempt: &str,
) -> Result<bool, EngineError> {
    let edges = "select from_user, from_host, to_user, to_host from mysql.role_edges";
    let mut found = false;
    for row in session.rows(attempt, edges).await? {
        let [role, role_host, name, host] = <[String; 4]>::try_from(row)
            .map_err(|_| EngineError::new(Kind::Fatal, format!("{attempt}: a row has other columns")))?;
        if names::is_reserved(flavour, site, &role, &role_host) {
            let (role, to) = (Grantee { name: role, host: role_host }, Grantee { name, host });
            session.run(attempt, &format!("revoke {} from {}", account(&role), account(&to))).await?;
            found = true;
        }
    }
    Ok(found)
}

/// Routines, views, triggers and events that one with all rights made in the agent's name run with the agent's rights: they are
/// removed. Nobody makes them so but to come back.
async fn without_objects(
    flavour: Flavour,
    site: &Site,
    session: &mut Session<'_>,
    attempt: &str,
) -> Result<bool, EngineError> {
    let definer = literal(&format!("{}@{LOCAL}", names::admin(flavour, site)));
    let sql = format!(
        "select routine_type, routine_schema, routine_name from information_schema.routines where definer = {definer} \
         union all select 'VIEW', table_schema, table_name from information_schema.views where definer = {definer} \
         union all select 'TRIGGER', trigger_schema, trigger_name from information_schema.triggers where definer = \
         {definer} union all select 'EVENT', event_schema, event_name from information_schema.events where definer = \
         {definer}"
    );
    let mut found = false;
    for row in session.rows(attempt, &sql).await? {
        let [kind, schema, name] = <[String; 3]>::try_from(row)
            .map_err(|_| EngineError::new(Kind::Fatal, format!("{attempt}: a row has other columns")))?;
        let kind = match kind.as_str() {
            "FUNCTION" | "PROCEDURE" | "VIEW" | "TRIGGER" | "EVENT" | "PACKAGE" => kind.to_lowercase(),
            _ => continue,
        };
        let of = format!("{}.{}", identifier(&schema), identifier(&name));
        session.run(attempt, &format!("drop {kind} if exists {of}")).await?;
        found = true;
    }
    Ok(found)
}
