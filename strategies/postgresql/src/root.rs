//! The superuser that a tenant may ask for: the role `root`, as Trove names it.

use async_trait::async_trait;
use secrecy::SecretString;
use trove_strategy::{EngineError, Root, Site};

use crate::Postgresql;
use crate::access;
use crate::catalog::{self, Place};
use crate::client::{Session, each, scram_verifier, sql_literal};

/// Nobody is a member of this role: it gets what a superuser made that would run with a superuser's rights.
const CLOSED: &str = "trove_access_closed";

/// Attributes that only a superuser can give, and that reach further than a database.
const POWERS: &str = "rolsuper or rolcreaterole or rolcreatedb or rolreplication or rolbypassrls";

/// Roles whose members have the rights of the server's own account on its files, or a shell, or are superusers.
const POWERFUL: &str = "g.oid = 10 or g.rolname in ('root', 'pg_execute_server_program', 'pg_read_server_files', \
                        'pg_write_server_files')";

/// Settings of a role or a database that load a library into its sessions.
const LIBRARIES: [&str; 3] = ["session_preload_libraries", "local_preload_libraries", "dynamic_library_path"];

#[async_trait]
impl Root for Postgresql {
    async fn is_enabled(&self, site: &Site) -> Result<bool, EngineError> {
        let home = catalog::home(site).await?;
        home.any("look for root", "select 1 from pg_roles where rolname = 'root' and rolcanlogin").await
    }

    async fn enable(&self, site: &Site, password: &SecretString) -> Result<(), EngineError> {
        let home = catalog::home(site).await?;
        let known = home.any("look for root", "select 1 from pg_roles where rolname = 'root'").await?;
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
        let home = catalog::home(site).await?;
        let powerful = "select oid from pg_authid where oid <> 10 and (rolsuper or rolname = 'root')";
        let mut powerful = home.rows(attempt, powerful).await?.concat();
        let members =
            format!("select m.member from pg_auth_members m join pg_authid g on g.oid = m.roleid where {POWERFUL}");
        powerful.extend(home.rows(attempt, &members).await?.concat());
        home.work(attempt, &without_powers()).await?;
        if !powerful.is_empty() {
            access::cut_sessions(&home, &format!("usesysid in ({})", powerful.join(", "))).await?;
        }
        let closed = access::ensure_role(&home, CLOSED, "nobody").await?;
        let places = catalog::places(&home).await?;
        for place in places.iter().filter(|place| place.name != "template0") {
            close(site, &home, place, &closed).await?;
        }
        Ok(())
    }
}

/// What leaves no account but the agent's with more rights than an ordinary one: a superuser can have made any number.
fn without_powers() -> String {
    let strip = format!(
        "select format('alter role %I nosuperuser nocreaterole nocreatedb noreplication nobypassrls', rolname) \
         from pg_authid where oid <> 10 and rolname !~ '^pg_' and ({POWERS})"
    );
    let out = "select 'alter role root nologin password null' from pg_authid where rolname = 'root'";
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
    [each(&strip), each(out), access::membership(POWERFUL), each(&settings), each(&for_all)].concat()
}

/// Finds what is left in a database of those that had all rights: event triggers, which run in everybody's sessions, are
/// shut off and become the agent's; what runs with the rights of the agent's account, or in a language that reaches the
/// server's own account, becomes the role's of nobody, and nobody else may use it. What extensions brought stays.
async fn close(site: &Site, home: &Session, place: &Place, closed: &str) -> Result<(), EngineError> {
    let attempt = format!("close what superusers left in {:?}", place.name);
    let inside = catalog::enter(site, home, place).await?;
    access::quiet_triggers(&inside, &attempt, "true").await?;
    let extension = |class: &str, oid: &str| {
        format!(
            "exists (select from pg_depend x where x.classid = '{class}'::regclass and x.objid = {oid} and x.deptype = 'e')"
        )
    };
    let routines = format!(
        "from pg_proc p join pg_namespace n on n.oid = p.pronamespace join pg_language l on l.oid = p.prolang, \
         pg_authid c where c.oid = {closed} and p.oid >= 16384 and not {} and (p.proowner = 10 and p.prosecdef or not \
         l.lanpltrusted and l.lanname <> 'internal') and p.prokind in ('f', 'p')",
        extension("pg_proc", "p.oid")
    );
    let arguments = "n.nspname, p.proname, pg_get_function_identity_arguments(p.oid)";
    let relations = format!(
        "from pg_class t join pg_namespace n on n.oid = t.relnamespace, pg_authid c where c.oid = {closed} and \
         t.relowner = 10 and t.oid >= 16384 and t.relkind in ('r', 'v', 'm', 'f', 'p') and n.nspname !~ '^pg_' and not {}",
        extension("pg_class", "t.oid")
    );
    let steps = [
        each(&format!("select format('revoke all on routine %I.%I(%s) from public', {arguments}) {routines}")),
        each(&format!(
            "select format('revoke all on routine %I.%I(%s) from %I cascade', {arguments}, g.rolname) \
             from (select p.oid, x.grantee {routines_acl}) y join pg_proc p on p.oid = y.oid \
             join pg_namespace n on n.oid = p.pronamespace join pg_authid g on g.oid = y.grantee",
            routines_acl = routines.replacen("pg_authid c where", "pg_authid c, aclexplode(p.proacl) x where", 1)
        )),
        each(&format!("select format('alter routine %I.%I(%s) owner to %I', {arguments}, c.rolname) {routines}")),
        each(&format!("select format('alter table %I.%I owner to %I', n.nspname, t.relname, c.rolname) {relations}")),
    ];
    inside.work(&attempt, &steps.concat()).await
}
