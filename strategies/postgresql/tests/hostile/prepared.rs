//! Transactions that a tenant prepared when that was allowed, and that are there when it no longer is.

use std::time::Duration;

use anyhow::{Result, ensure};
use secrecy::SecretString;
use trove_conformance::Bench;
use trove_strategy::{Command, Datastore, HostError, StartMode};

use super::{POSTGRESQL, make_database, make_user, plain, users};

/// Lets a server of one session that allows prepared transactions run these statements.
async fn single(bench: &Bench<'_>, database: &str, lines: &str, deadline: Duration) -> Result<(), HostError> {
    let spec = POSTGRESQL.engine().start_spec(&bench.site, &Default::default(), StartMode::Private);
    let mut command = Command::engine(spec.program).arg("--single").deadline(deadline);
    command.args.extend(spec.args);
    let command = command.arg("-c").arg("max_prepared_transactions=4").arg(database);
    bench.site.host.run(command.stdin(SecretString::from(lines))).await.map(drop)
}

#[tokio::test]
async fn a_server_comes_up_though_transactions_are_prepared() -> Result<()> {
    let prepare = "begin;\ncreate table lost (n int);\ninsert into kept values (2);\nprepare transaction 'it''s';\n";
    let lock = "begin;\nlock table pg_catalog.pg_authid;\nprepare transaction 'lock';\n";
    // The second crashes: what it prepared stands in its log alone.
    for after in ["", "select pg_sleep(60);\n"] {
        let bench = Bench::new(&POSTGRESQL).await?;
        let running = bench.start().await?;
        make_database(&bench.site, "d").await?;
        let password = make_user(&bench.site, "u", &["d"]).await?;
        running.stop(&bench).await?;
        single(&bench, "d", "create table kept (n int);\ninsert into kept values (1);\n", Duration::from_secs(60))
            .await?;
        let ended = single(&bench, "d", &format!("{prepare}{lock}{after}"), Duration::from_secs(8)).await;
        ensure!(matches!(ended, Err(HostError::Late { .. })) == !after.is_empty(), "{ended:?}");

        let mut running = bench.spawn(StartMode::Normal)?;
        ensure!(
            bench.await_answer(&mut running).await.is_err(),
            "it starts with prepared transactions: {}",
            bench.log()
        );
        POSTGRESQL.engine().forget_earlier_life(&bench.site).await.map_err(plain)?;
        let mended = POSTGRESQL.engine().repair(&bench.site).await.map_err(plain)?.unwrap_or_default();
        ensure!(mended.contains("prepared transactions"), "{mended:?}");
        let mut running = bench.spawn(StartMode::Normal)?;
        bench.await_answer(&mut running).await?;
        let tenant = super::as_root(&bench.site, "d").await?;
        ensure!(
            super::text(&tenant, "select string_agg(n::text, ' ') from kept").await? == "1",
            "it was not rolled back"
        );
        ensure!(tenant.batch_execute("select from lost").await.is_err(), "what it made is there");
        tenant.batch_execute("create table lost (n int)").await?;
        tenant.batch_execute("vacuum full kept").await?;
        ensure!(super::text(&tenant, "select count(*) from pg_prepared_xacts").await? == "0");
        users().delete(&bench.site, &super::id("u")).await.map_err(plain)?;
        drop((tenant, password));
        running.stop(&bench).await?;
        let again = POSTGRESQL.engine().repair(&bench.site).await.map_err(plain)?;
        ensure!(again.is_none(), "{again:?}");
    }
    Ok(())
}
