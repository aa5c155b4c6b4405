//! Who gets in.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use trove_strategy::{Database, Grantee, NewUser, UserTraits};

use crate::bench::Bench;
use crate::{Login, Session, Tenant, plain};

/// In every password of the suite, so that one is known wherever it turns up.
pub(crate) const MARK: &str = "s3same";

/// The agent's own account, in every engine that has accounts.
const AGENT: &str = "os_admin";

/// The name of an account, with the database that it belongs to where names have that.
pub(crate) fn account_name(traits: &UserTraits, database: &str, name: &str) -> String {
    if traits.qualified { format!("{database}.{name}") } else { name.to_owned() }
}

/// Whether the login works.
pub(crate) async fn enters(bench: &Bench<'_>, tenant: &dyn Tenant, login: &Login) -> bool {
    let Ok(mut session) = tenant.connect(&bench.site, login).await else { return false };
    session.ask().await.is_ok()
}

/// A login that works: of an account that is made for it, where there are accounts.
pub(crate) async fn login(bench: &Bench<'_>) -> Result<Login> {
    let (datastore, site, password) = (bench.datastore, &bench.site, format!("{MARK}-keeper"));
    let mut databases = Vec::new();
    if let Some(all) = datastore.databases() {
        all.create(site, &Database::named("keeper")).await.map_err(plain)?;
        databases.push("keeper".to_owned());
    }
    if let Some(users) = datastore.users() {
        let name = account_name(&datastore.identity().users, "keeper", "keeper");
        let user = NewUser { id: Grantee::named(&name), password: password.clone().into(), databases };
        users.create(site, &user).await.map_err(plain)?;
        return Ok(Login::new(&name, &password, "keeper"));
    }
    if let Some(root) = datastore.root() {
        root.enable(site, &password.clone().into()).await.map_err(plain)?;
        return Ok(Login::new(&datastore.identity().root_user, &password, ""));
    }
    Ok(Login::new("", "", ""))
}

/// Before anybody was made, nobody gets in: not without an account, not as one of the engine's or the agent's own.
pub(crate) async fn refuses_strangers(bench: &Bench<'_>, tenant: &dyn Tenant) -> Result<()> {
    ensure!(!enters(bench, tenant, &Login::new("", "", "")).await, "whoever gives no account is let in");
    let identity = bench.datastore.identity();
    let reserved = identity.users.names.reserved.iter().map(String::as_str);
    for user in [AGENT, &identity.root_user, "nobody"].into_iter().chain(reserved).filter(|user| !user.is_empty()) {
        for password in ["", "wrong", user] {
            let login = Login::new(user, password, "");
            ensure!(!enters(bench, tenant, &login).await, "{user:?} is let in with the password {password:?}");
        }
    }
    Ok(())
}

/// A datastore without accounts lets in whoever comes; that it says so is why an operator has to allow it.
pub(crate) async fn lets_everybody_in(bench: &Bench<'_>, tenant: &dyn Tenant) -> Result<()> {
    ensure!(enters(bench, tenant, &Login::new("", "", "")).await, "there are no accounts, and nobody is let in");
    Ok(())
}

/// A session that was open is at its end soon.
pub(crate) async fn is_cut(mut session: Box<dyn Session>) -> bool {
    let end = Instant::now() + Duration::from_secs(5);
    loop {
        match tokio::time::timeout(Duration::from_secs(5), session.ask()).await {
            Ok(Ok(())) if Instant::now() < end => tokio::time::sleep(Duration::from_millis(20)).await,
            Ok(Ok(())) => return false,
            Ok(Err(_)) | Err(_) => return true,
        }
    }
}
