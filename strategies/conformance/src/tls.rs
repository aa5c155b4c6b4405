//! Connections in clear and encrypted, and certificates that are renewed.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use trove_strategy::{Settings, StartMode, TlsMode};

use crate::access::enters;
use crate::bench::{Bench, Running};
use crate::{Login, Tenant, plain};

/// Both modes, on both ports where there are two, and another certificate without a restart.
pub(crate) async fn speaks_tls(
    bench: &Bench<'_>,
    tenant: &dyn Tenant,
    login: &Login,
    running: Running,
) -> Result<Running> {
    let engine = bench.datastore.engine();
    let by = |authority: &str| Login { authority: Some(bench.scratch().join(authority)), ..login.clone() };
    bench.keep_authority("first.pem")?;
    ensure!(enters(bench, tenant, login).await, "in mode basic nobody is let in in clear");
    ensure!(enters(bench, tenant, &by("first.pem")).await, "in mode basic nobody is let in with TLS");

    bench.renew_certificate().await?;
    bench.keep_authority("second.pem")?;
    ensure!(!enters(bench, tenant, &by("second.pem")).await, "a client does not look at the server's certificate");
    engine.reload(&bench.site, &Settings::default()).await.map_err(plain)?;
    let end = Instant::now() + Duration::from_secs(5);
    while !enters(bench, tenant, &by("second.pem")).await {
        ensure!(Instant::now() < end, "a renewed certificate is not served after a reload");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    ensure!(!enters(bench, tenant, &by("first.pem")).await, "the old certificate is served after a reload");

    let mut enforced = Settings::default();
    enforced.tls = TlsMode::Enforced;
    bench.take_up(&enforced).await.map_err(plain)?;
    running.stop(bench).await?;
    let mut running = bench.spawn_with(StartMode::Normal, &enforced)?;
    bench.await_answer(&mut running).await?;
    ensure!(!enters(bench, tenant, login).await, "in mode enforced somebody is let in in clear");
    ensure!(enters(bench, tenant, &by("second.pem")).await, "in mode enforced nobody is let in with TLS");
    bench.take_up(&Settings::default()).await.map_err(plain)?;
    running.stop(bench).await?;
    let mut running = bench.spawn(StartMode::Normal)?;
    bench.await_answer(&mut running).await?;
    ensure!(enters(bench, tenant, login).await, "back in mode basic nobody is let in in clear");
    Ok(running)
}
