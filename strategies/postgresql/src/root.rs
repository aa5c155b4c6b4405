//! The superuser that a tenant may ask for: the role `root`, as Trove names it.

use std::time::Duration;

use async_trait::async_trait;
use secrecy::SecretString;
use trove_strategy::{EngineError, Kind, Root, Site};

use crate::Postgresql;
use crate::access;
use crate::catalog::{self, Place};
use crate::client::{Session, each, scram_verifier, sql_literal};

/// Nobody is a member of this role: it gets what a superuser made that would run with a superuser's rights.
const CLOSED: &str = "trove_access_closed";

/// Attributes that only a superuser can give, and that reach further than a database.
const POWERS: &str = "rolsuper or rolcreaterole or rolcreatedb or rolreplication or rolbypassrls";

/// Roles whose members have the rights of the server's own account on its files, or a shell, or are superusers, and the
/// one of nobody. By their numbers (`pg_read_server_files`, `pg_write_server_files`, `pg_execute_server_program`), since
/// a superuser can rename them.
const POWERFUL: &str = "g.oid in (10, 4569, 4570, 4571) or g.rolname in ('root', 'trove_access_closed')";

/// How often it is looked for what superusers left, at most: whoever still has their rights can make more meanwhile.
const ROUNDS: u32 = 5;

/// How long sessions that were cut take to end.
const CUT: Duration = Duration::from_secs(10);

/// Settings of a role or a database that load a library into its sessions.
const LIBRARIES: [&str; 3] = ["session_preload_libraries", "local_preload_libraries", "dynamic_library_path"];

#[async_trait]
impl Root for Postgresql {
    async fn is_enabled(&self, site: &Site) -> Result<bool, EngineError> {
        let home = catalog::home(site).await?;
        home.any("look for root", "select 1 from pg_authid where rolname = 'root' and rolcanlogin").await
    }

    async fn enable(&self, site: &Site, password: &SecretString) -> Result<(), EngineError> {
        let home = catalog::home(site).await?;
        let known = home.any("look for root", "select 1 from pg_authid where rolname = 'root'").await?;
        let verb = if known { "alter" } else { "create" };
        let verifier = sql_literal(&scram_verifier(password));
        let sql = format!(
            "{verb} role root superuser createdb createrole replication login connection limit -1 valid until 'infinity' \
             password {verifier}"
        );
        home.run("enable root", &sql).await
    }

    async fn disable(&self, site: &Site) -> Result<(), EngineError> {
        let attempt = "disable root";
        let mut error =
            EngineError::new(Kind::Busy, format!("{attempt}: superusers come back while their rights are taken"));
        for round in 0..ROUNDS {
            match take_away(site, attempt).await {
                // The round before cut the sessions that had rights, and what they made until then would be found by this one.
                Ok(false) if round > 0 => return Ok(()),
                Ok(_) => {}
                Err(refused) => error = refused,
            }
        }
        Err(error)
    }
}

/// Takes the rights away everywhere, and cuts all sessions. Answers whether there was something to take.
async fn take_away(site: &Site, attempt: &str) -> Result<bool, EngineError> {
    let home = catalog::home(site).await?;
    cut_all(&home).await?;
    home.work(attempt, &without_powers(site)).await?;
    let mut found = home.found(attempt).await?;
    let closed = access::ensure_role(&home, CLOSED, "nobody").await?;
    for place in catalog::places(&home).await? {
        found |= close(site, &home, &place, &closed).await?;
    }
    let template = "select 'alter database template0 allow_connections false' from pg_database \
                    where datname = 'template0' and datallowconn";
    home.work(attempt, &each(template)).await?;
    cut_all(&home).await?;
    Ok(found)
}

/// Ends all sessions but the agent's, and waits for their end: one that runs a function of a superuser's goes on with its
/// rights until then, whoever it is.
async fn cut_all(home: &Session) -> Result<(), EngineError> {
    let attempt = "cut all sessions";
    let cut = "select pid, pg_terminate_backend(pid) from pg_stat_get_activity(null) where usesysid <> 10";
    let pids: Vec<String> =
        home.rows(attempt, cut).await?.into_iter().filter_map(|row| row.into_iter().next()).collect();
    if pids.is_empty() {
        return Ok(());
    }
    let left = format!("select 1 from pg_stat_get_activity(null) where pid in ({})", pids.join(", "));
    let ended = async {
        while home.any(attempt, &left).await? {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    };
    let late = |_| EngineError::new(Kind::Busy, format!("{attempt}: they do not end within 10 s"));
    tokio::time::timeout(CUT, ended).await.map_err(late)?
}

/// What leaves no account but the agent's with more rights than an ordinary one: a superuser can have made any number.
fn without_powers(site: &Site) -> String {
    // ALTER ROLE does not touch roles whose name begins with `pg_`, which a superuser can give to any.
    let strip = format!(
        "select format('update pg_authid set rolsuper = false, rolcreaterole = false, rolcreatedb = false, \
         rolreplication = false, rolbypassrls = false where oid = %s', oid) from pg_authid where oid <> 10 and ({POWERS})"
    );
    let out = format!(
        "select format('update pg_authid set rolcanlogin = false, rolpassword = null where oid = %s', oid) \
         from pg_authid where oid <> 10 and (oid < 16384 or rolname in ('root', '{CLOSED}')) \
         and (rolcanlogin or rolpassword is not null)"
    );
    let reserved = "select format('delete from pg_db_role_setting where setrole = %s', oid) from pg_authid \
                    where rolname ~ '^pg_' and oid in (select setrole from pg_db_role_setting)";
    let libraries = LIBRARIES.map(|name| format!("'{name}'")).join(", ");
    let settings = format!(
        "select case when s.setrole = 0 then format('alter database %I', d.datname) when s.setdatabase = 0 then \
         format('alter role %I', r.rolname) else format('alter role %I in database %I', r.rolname, d.datname) end \
         || ' reset ' || name from pg_db_role_setting s left join pg_database d on d.oid = s.setdatabase \
         left join pg_authid r on r.oid = s.setrole, unnest(array[{libraries}]) name \
         where (s.setrole <> 0 or s.setdatabase <> 0) \
         and exists (select from unnest(s.setconfig) c where c like name || '=%')"
    );
    let for_all = format!(
        "select 'alter role all reset ' || name from pg_db_role_setting s, unnest(array[{libraries}]) name \
         where s.setrole = 0 and s.setdatabase = 0 \
         and exists (select from unnest(s.setconfig) c where c like name || '=%')"
    );
    let mut all = vec![each(&strip), each(&out), access::membership(POWERFUL), each(reserved), each(&settings)];
    all.push(each(&for_all));
    if site.installation.major.parse().is_ok_and(|major: u32| major >= 15) {
        // Who may set parameters that only a superuser may set.
        let granted = |what: &str| format!("select '{what}' where exists (select from pg_parameter_acl)");
        let class = "pg_shdepend where classid = ''pg_parameter_acl''::regclass";
        all.push(each(&granted(&format!("with gone as (delete from {class}) delete from pg_parameter_acl"))));
    }
    all.concat()
}

/// Finds what is left in a database of those that had all rights: event triggers, which run in everybody's sessions, are
/// shut off and become the agent's; what runs with the rights of the agent's account, or in a language that reaches the
/// server's own account, becomes the role's of nobody, and nobody else may use it. What extensions brought stays.
///
/// Answers whether there was something.
async fn close(site: &Site, home: &Session, place: &Place, closed: &str) -> Result<bool, EngineError> {
    let attempt = format!("close what superusers left in {:?}", place.name);
    let inside = catalog::enter(site, home, place).await?;
    access::quiet_triggers(&inside, &attempt, "(evtenabled <> 'D' or evtowner <> 10)").await?;
    let extension = |class: &str, oid: &str| {
        format!(
            "exists (select from pg_depend x where x.classid = '{class}'::regclass and x.objid = {oid} and x.deptype = 'e')"
        )
    };
    let routines = format!(
        "from pg_proc p join pg_namespace n on n.oid = p.pronamespace join pg_language l on l.oid = p.prolang, \
         pg_authid c where c.oid = {closed} and p.oid >= 16384 and not {} and (p.proowner = 10 and p.prosecdef or not \
         l.lanpltrusted) and p.prokind <> 'a'",
        extension("pg_proc", "p.oid")
    );
    let arguments = "n.nspname, p.proname, pg_get_function_identity_arguments(p.oid)";
    let relations = format!(
        "from pg_class t join pg_namespace n on n.oid = t.relnamespace, pg_authid c where c.oid = {closed} and \
         t.relowner = 10 and t.oid >= 16384 and t.relkind in ('r', 'v', 'm', 'f', 'p') and t.relpersistence <> 't' and not {}",
        extension("pg_class", "t.oid")
    );
    let languages = "select 'update pg_language set lanpltrusted = false where oid in (12, 13)' from pg_language \
                     where oid in (12, 13) and lanpltrusted limit 1";
    let subscriptions = "select format('alter subscription %I disable', s.subname) from pg_subscription s \
                         join pg_database d on d.oid = s.subdbid and d.datname = current_database() \
                         where s.subowner = 10 and s.subenabled";
    let steps = [
        each(languages),
        each(subscriptions),
        as_made("pg_proc", "proacl"),
        as_made("pg_class", "relacl"),
        each(&format!(
            "select format('revoke all on routine %I.%I(%s) from public', {arguments}) {routines} \
             and (p.proacl is null or exists (select from aclexplode(p.proacl) x where x.grantee = 0))"
        )),
        each(&format!(
            "select format('revoke all on routine %I.%I(%s) from %I cascade', {arguments}, g.rolname) \
             from (select p.oid, x.grantee {routines_acl}) y join pg_proc p on p.oid = y.oid \
             join pg_namespace n on n.oid = p.pronamespace join pg_authid g on g.oid = y.grantee",
            routines_acl = routines.replacen("pg_authid c where", "pg_authid c, aclexplode(p.proacl) x where", 1)
        )),
        each(&format!(
            "select format('alter routine %I.%I(%s) owner to %I', {arguments}, c.rolname) {routines} and p.proowner <> c.oid"
        )),
        each(&format!("select format('alter table %I.%I owner to %I', n.nspname, t.relname, c.rolname) {relations}")),
    ];
    inside.work(&attempt, &steps.concat()).await?;
    inside.found(&attempt).await
}

/// What gives back to the server's own functions or relations the rights that they were made with: whoever may call
/// `pg_read_file` or `lo_import` reads the server's files.
fn as_made(class: &str, rights: &str) -> String {
    let made = format!(
        "pg_init_privs i where i.classoid = ''{class}''::regclass and i.objsubid = 0 and i.privtype = ''i'' and i.objoid"
    );
    each(&format!(
        "select format('with gone as (delete from pg_shdepend where classid = ''{class}''::regclass and objid = %1$s and \
         deptype = ''a'' and dbid = (select d.oid from pg_database d where d.datname = current_database())) \
         update {class} set {rights} = (select initprivs from {made} = %1$s) where oid = %1$s', o.oid) \
         from {class} o where o.oid < 16384 and o.{rights} is distinct from (select initprivs from {} = o.oid)",
        made.replace("''", "'")
    ))
}
