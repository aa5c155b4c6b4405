//! Who may enter a database: a role without login for each database holds its grants, and accounts are made members.
//!
//! PostgreSQL has no grant that says "everything that exists and will exist here". A member of the database's owner has
//! what the owner has, and default privileges (manual, ALTER DEFAULT PRIVILEGES) hand on what a member makes. Granting
//! to each account alone would leave every account with tables that no other account of the database can read.

use trove_strategy::{EngineError, Kind, Site};

use crate::catalog::{self, Account, Place, group_of};
use crate::client::{Session, each, sql_identifier};
use crate::names::check_database;

/// The number of a database's role, which is made when it is not there.
pub(crate) async fn ensure_group(home: &Session, place: &Place) -> Result<String, EngineError> {
    ensure_role(home, &place.group(), &place.name).await
}

/// The number of a role without login, which is made when it is not there.
pub(crate) async fn ensure_role(home: &Session, group: &str, database: &str) -> Result<String, EngineError> {
    let attempt = format!("make the role for access to {database:?}");
    let known = format!("select oid from pg_authid where rolname = '{group}'");
    if let Some(oid) = home.rows(&attempt, &known).await?.concat().pop() {
        return Ok(oid);
    }
    home.run(&attempt, &format!("create role {} nologin", sql_identifier(group))).await?;
    let made = home.rows(&attempt, &known).await?.concat().pop();
    made.ok_or_else(|| EngineError::new(Kind::Transient, format!("{attempt}: it is gone again")))
}

/// The database of that name, which has to be the tenant's.
pub(crate) async fn known_place(home: &Session, database: &str) -> Result<Place, EngineError> {
    check_database(database)?;
    let gone = || EngineError::new(Kind::Gone, format!("enter {database:?}: there is no such database"));
    catalog::place(home, database).await?.ok_or_else(gone)
}

/// The account of that name.
pub(crate) async fn known_account(home: &Session, name: &str) -> Result<Account, EngineError> {
    let gone = || EngineError::new(Kind::Gone, format!("look for the account {name:?}: there is no such account"));
    catalog::account(home, name).await?.ok_or_else(gone)
}

/// Lets an account into a database: all of it or nothing.
pub(crate) async fn grant(site: &Site, user: &str, database: &str) -> Result<(), EngineError> {
    let attempt = format!("let {user:?} into {database:?}");
    let home = catalog::home(site).await?;
    let (place, account) = (known_place(&home, database).await?, known_account(&home, user).await?);
    let inside = catalog::enter(site, &home, &place).await?;
    let group = ensure_group(&home, &place).await?;
    let (database, user) = (&place.oid, &account.oid);
    let roles = format!("pg_authid u, pg_authid g where u.oid = {user} and g.oid = {group}");
    let steps = [
        // For a database that its tenant made by hand: the role is not its owner there, and its schema may be gone.
        each(&format!(
            "select format('grant all on database %I to %I', d.datname, g.rolname) from pg_database d, pg_authid g \
             where d.oid = {database} and g.oid = {group}"
        )),
        each(&format!(
            "select format('grant usage, create on schema %I to %I', n.nspname, g.rolname) from pg_namespace n, \
             pg_authid g where n.nspname = 'public' and g.oid = {group}"
        )),
        each(&format!(
            "select format('alter default privileges for role %I grant all on %s to %I', u.rolname, kind, g.rolname) \
             from unnest(array['tables', 'sequences', 'functions', 'types', 'schemas']) kind, {roles}"
        )),
        each(&format!("select format('grant %I to %I', g.rolname, u.rolname) from {roles}")),
    ];
    inside.work(&attempt, &steps.concat()).await
}

/// Takes that away again; what the account made stays with the database.
pub(crate) async fn revoke(site: &Site, user: &str, database: &str) -> Result<(), EngineError> {
    let attempt = format!("shut {user:?} out of {database:?}");
    let home = catalog::home(site).await?;
    let (place, account) = (known_place(&home, database).await?, known_account(&home, user).await?);
    let inside = catalog::enter(site, &home, &place).await?;
    let group = ensure_group(&home, &place).await?;
    let (database, user) = (&place.oid, &account.oid);
    let out = membership(&format!("m.roleid = {group} and m.member = {user}"));
    quiet_triggers(&inside, &attempt, &format!("evtowner = {user}")).await?;
    inside.work(&attempt, &(leave_but_shared(site, user, &group, database) + &out)).await?;
    cut_sessions(&home, &format!("usesysid = {user} and datid = {database}")).await
}

/// What takes a role out of the database that the session is in: another owns what it owned, and its grants are gone.
pub(crate) fn leave(user: &str, heir: &str) -> String {
    // These cannot belong to an ordinary role; none of them runs with its owner's rights, once subscriptions are disabled.
    let ours = |verb: &str, name: &str, from: &str| {
        each(&format!("select format('alter {verb}', {name}, a.rolname) from {from}, pg_authid a where a.oid = 10"))
    };
    let subscriptions = format!(
        "pg_subscription s join pg_database d on d.oid = s.subdbid and d.datname = current_database() and s.subowner = {user}"
    );
    let wrappers = format!("(select fdwname from pg_foreign_data_wrapper where fdwowner = {user}) w");
    let publications = format!("(select pubname from pg_publication where pubowner = {user}) p");
    [
        each(&format!("select format('alter subscription %I disable', s.subname) from {subscriptions}")),
        ours("subscription %I owner to %I", "s.subname", &subscriptions),
        ours("foreign data wrapper %I owner to %I", "w.fdwname", &wrappers),
        ours("publication %I owner to %I", "p.pubname", &publications),
        leave_the_rest(user, heir),
    ]
    .concat()
}

/// Disables event triggers of a superuser's that is one no more: they run in everybody's sessions. They become the agent's,
/// since nobody else may own them, and so nobody enables them again.
pub(crate) async fn quiet_triggers(inside: &Session, attempt: &str, condition: &str) -> Result<(), EngineError> {
    let steps = [
        each(&format!(
            "select format('alter event trigger %I disable', evtname) from pg_event_trigger where {condition}"
        )),
        each(&format!(
            "select format('alter event trigger %I owner to %I', e.evtname, a.rolname) from pg_event_trigger e, \
             pg_authid a where a.oid = 10 and e.evtowner <> 10 and {condition}"
        )),
    ];
    inside.perform(attempt, &format!("declare step text; begin {} end", steps.concat())).await
}

fn leave_the_rest(user: &str, heir: &str) -> String {
    each(&format!(
        "select format('reassign owned by %I to %I', u.rolname, h.rolname) from pg_authid u, pg_authid h \
         where u.oid = {user} and h.oid = {heir}"
    )) + &each(&format!("select format('drop owned by %I', rolname) from pg_authid where oid = {user}"))
}

/// The same for a role that stays: what it has outside of the database stays as it is, though REASSIGN OWNED and DROP OWNED
/// reach for the databases, tablespaces and parameters of the whole server.
pub(crate) fn leave_but_shared(site: &Site, user: &str, heir: &str, database: &str) -> String {
    let (kept, leave) = (kept_elsewhere(site, user, database), leave(user, heir));
    format!(
        "declare kept text[] := array({kept}); begin {leave} \
         foreach step in array kept loop execute step; end loop; end;\n"
    )
}

/// Gives a database that a role owns to the database's own role.
pub(crate) async fn hand_over(home: &Session, place: &Place, owner: &str) -> Result<(), EngineError> {
    let group = ensure_role(home, &group_of(&place.name), &place.name).await?;
    let sql = format!(
        "select format('alter database %I owner to %I', d.datname, g.rolname) from pg_database d, pg_authid g \
         where d.oid = {} and d.datdba = {owner} and g.oid = {group}",
        place.oid
    );
    home.work(&format!("hand over the database {:?}", place.name), &each(&sql)).await
}

/// What ends the memberships for which the condition holds, whoever granted them.
pub(crate) fn membership(condition: &str) -> String {
    each(&format!(
        "select distinct format('revoke %I from %I', g.rolname, u.rolname) || case when \
         current_setting('server_version_num')::int >= 160000 then format(' granted by %I', b.rolname) else '' end \
         || ' cascade' from pg_auth_members m join pg_authid g on g.oid = m.roleid join pg_authid u on u.oid = m.member \
         left join pg_authid b on b.oid = m.grantor where {condition}"
    ))
}

/// A query for the statements that give back what an account has outside of a database.
fn kept_elsewhere(site: &Site, user: &str, database: &str) -> String {
    let granted = |kind: &str, name: &str, from: &str, acl: &str| {
        format!(
            " union all select format('grant %s on {kind} %I to %I%s', x.privilege_type, {name}, u.rolname, \
             case when x.is_grantable then ' with grant option' else '' end) \
             from {from}, aclexplode({acl}) x, pg_authid u where u.oid = {user} and x.grantee = u.oid"
        )
    };
    let mut query = format!(
        "select format('alter database %I owner to %I', d.datname, u.rolname) from pg_database d, pg_authid u \
         where d.datdba = u.oid and u.oid = {user} and d.oid <> {database} \
         union all select format('alter tablespace %I owner to %I', t.spcname, u.rolname) from pg_tablespace t, \
         pg_authid u where t.spcowner = u.oid and u.oid = {user}"
    );
    query += &granted("database", "d.datname", "pg_database d", "d.datacl");
    query += &format!(" and d.oid <> {database} and d.datdba <> u.oid");
    query += &granted("tablespace", "t.spcname", "pg_tablespace t", "t.spcacl");
    query += " and t.spcowner <> u.oid";
    if site.installation.major.parse().is_ok_and(|major: u32| major >= 15) {
        query += &granted("parameter", "p.parname", "pg_parameter_acl p", "p.paracl");
    }
    query
}

/// Ends the sessions for which the condition holds.
pub(crate) async fn cut_sessions(home: &Session, condition: &str) -> Result<(), EngineError> {
    let sql = format!(
        "select pg_terminate_backend(pid) from pg_stat_get_activity(null) where pid <> pg_backend_pid() and ({condition})"
    );
    home.rows("cut sessions", &sql).await?;
    Ok(())
}
