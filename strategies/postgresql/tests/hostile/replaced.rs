//! What the agent asks a server, when a tenant's superuser has replaced what answers.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tokio_postgres::Client;
use trove_conformance::Bench;
use trove_strategy::{Applied, Datastore, Engine, EngineError, Parameters, Settings, Site};

use super::{POSTGRESQL, as_root, plain, text, with};

/// Puts a function of the tenant's where one of the server's is found by its name.
async fn replace(superuser: &Client, function: &str, arguments: &str, returns: &str, body: &str) -> Result<()> {
    let statements = [
        format!("update pg_catalog.pg_proc set proname = 'moved_' || proname where proname = '{function}'"),
        format!(
            "create or replace function pg_catalog.{function}({arguments}) returns {returns} volatile language plpgsql as $_$ begin {body} end $_$"
        ),
    ];
    for statement in statements {
        superuser.batch_execute(&statement).await.context(statement)?;
    }
    Ok(())
}

async fn restore(superuser: &Client, function: &str, arguments: &str) -> Result<()> {
    let gone = format!("drop function pg_catalog.{function}({arguments})");
    superuser.batch_execute(&gone).await.context(gone)?;
    let back = format!("update pg_catalog.pg_proc set proname = '{function}' where proname = 'moved_{function}'");
    Ok(superuser.batch_execute(&back).await?)
}

/// Everything that the agent asks of a server by itself, and for parameters.
async fn ask_all(site: &Site) -> [Result<(), EngineError>; 4] {
    let parameters: &dyn Parameters = &POSTGRESQL;
    [
        Engine::metrics(&POSTGRESQL, site).await.map(drop),
        Engine::reload(&POSTGRESQL, site, &Settings::default()).await,
        parameters.values(site).await.map(drop),
        parameters.apply(site, &Settings::default()).await.map(drop),
    ]
}

#[tokio::test]
async fn views_and_functions_that_a_superuser_replaced_are_not_asked() -> Result<()> {
    let bench = Bench::new(&POSTGRESQL).await?;
    let running = bench.start().await?;
    let superuser = as_root(&bench.site, "postgres").await?;
    superuser.batch_execute("set allow_system_table_mods = on; create table public.asked (by name, what text)").await?;
    // A function that is compiled in is called by its number: another body changes nothing.
    for function in ["pg_show_all_settings", "pg_show_all_file_settings"] {
        let definition = text(&superuser, &format!("select pg_get_functiondef('{function}'::regproc)")).await?;
        let head = definition.split(" LANGUAGE ").next().unwrap_or_default().replace("\n", " ");
        let body = "begin insert into public.asked values (current_user, 'function'); return; end";
        let sql = format!("{head} volatile language plpgsql as $_$ {body} $_$");
        superuser.batch_execute(&sql).await.context(sql)?;
    }
    superuser
        .batch_execute(
            "create function public.trap() returns bool language plpgsql as $$ begin \
             insert into public.asked values (current_user, 'view'); return true; end $$",
        )
        .await?;
    for view in ["pg_settings", "pg_file_settings", "pg_stat_database", "pg_stat_activity", "pg_replication_slots"] {
        let definition = text(&superuser, &format!("select pg_get_viewdef('pg_catalog.{view}'::regclass)")).await?;
        let sql = format!(
            "create or replace view pg_catalog.{view} as select * from ({}) v where public.trap()",
            definition.trim_end_matches(';')
        );
        superuser.batch_execute(&sql).await.context(sql)?;
    }
    for asked in ask_all(&bench.site).await {
        asked.map_err(plain)?;
    }
    super::make_database(&bench.site, "d").await?;
    trove_strategy::Databases::delete(&POSTGRESQL, &bench.site, "d").await.map_err(plain)?;
    let asked = text(&superuser, "select string_agg(by || ' ' || what, ', ') from public.asked").await?;
    ensure!(asked.is_empty(), "the agent ran a tenant's function: {asked}");
    drop(superuser);
    running.stop(&bench).await
}

#[tokio::test]
async fn an_answer_that_cannot_be_is_no_figure_and_nothing_waits_for_it() -> Result<()> {
    let bench = Bench::new(&POSTGRESQL).await?;
    let running = bench.start().await?;
    let site = &bench.site;
    let superuser = as_root(site, "postgres").await?;
    superuser.batch_execute("set allow_system_table_mods = on").await?;
    let figures = Engine::metrics(&POSTGRESQL, site).await.map_err(plain)?;
    ensure!(figures.len() == 11, "{figures:?}");
    let sizes = [
        ("numeric", "return -1;"),
        ("numeric", "return 'NaN';"),
        ("numeric", "return 1e300;"),
        ("numeric", "return null;"),
        ("numeric", "raise exception '%', repeat('x', 5000000);"),
        ("numeric", "perform pg_sleep(3600);"),
        ("numeric", "loop begin perform pg_sleep(3600); exception when query_canceled then null; end; end loop;"),
    ];
    for (returns, body) in sizes {
        replace(&superuser, "pg_database_size", "oid", returns, body).await?;
        let begun = Instant::now();
        let asked = Engine::metrics(&POSTGRESQL, site).await;
        ensure!(begun.elapsed() < Duration::from_secs(4), "{body}: {:?}", begun.elapsed());
        let error = asked.err().with_context(|| format!("{body}: a figure"))?;
        ensure!(error.chain().len() < 2000, "{body}: {} bytes", error.chain().len());
        Engine::probe(&POSTGRESQL, site).await.map_err(plain).context(body)?;
        restore(&superuser, "pg_database_size", "oid").await?;
    }
    let ended = Instant::now() + Duration::from_secs(10);
    let runs =
        "select count(*) from pg_stat_activity where query like '%pg_database_size%' and pid <> pg_backend_pid()";
    while text(&superuser, runs).await? != "0" {
        ensure!(
            Instant::now() < ended,
            "what the agent no longer waits for goes on: {}",
            text(&superuser, runs).await?
        );
        tokio::time::sleep(Duration::from_millis(100)).await;
    }

    let columns = "out name text, out setting text, out unit text, out context text, out vartype text, out min_val text, \
                   out max_val text, out enumvals text[], out boot_val text";
    let row = "name := 'work_mem'; setting := repeat('x', 100); context := 'user';";
    for body in [
        format!("{row} for n in 1..10000000 loop return next; end loop;"),
        format!("{row} setting := repeat('x', 100000000); return next;"),
        "perform pg_sleep(3600);".to_owned(),
    ] {
        replace(&superuser, "pg_show_all_settings", columns, "setof record", &body).await?;
        let begun = Instant::now();
        let limit = Duration::from_secs(5);
        let values = tokio::time::timeout(limit, POSTGRESQL.parameters().expect("announced").values(site)).await;
        ensure!(!matches!(values, Ok(Ok(_))), "{body}: values");
        // Whether it fails is his own affair: what he lies about is his own engine. It ends.
        let _ = bench.take_up(&with("work_mem", "8MB".into())).await;
        ensure!(begun.elapsed() < Duration::from_secs(20), "{body}: {:?}", begun.elapsed());
        ensure!(resident_mib()? < 1000, "{body}: {} MiB", resident_mib()?);
        Engine::probe(&POSTGRESQL, site).await.map_err(plain)?;
        restore(&superuser, "pg_show_all_settings", columns).await?;
    }
    let figures = Engine::metrics(&POSTGRESQL, site).await.map_err(plain)?;
    ensure!(figures.len() == 11, "{figures:?}");
    drop(superuser);
    running.stop(&bench).await
}

/// The most memory that this process ever had.
fn resident_mib() -> Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("VmHWM")?;
    Ok(line.split_whitespace().next().context("VmHWM")?.parse::<u64>()? / 1024)
}

#[tokio::test]
async fn what_alter_system_has_set_is_not_said_to_be_what_was_chosen() -> Result<()> {
    let bench = Bench::new(&POSTGRESQL).await?;
    let running = bench.start().await?;
    let superuser = as_root(&bench.site, "postgres").await?;
    superuser.batch_execute("alter system set work_mem = '5MB'").await?;
    let applied = bench.take_up(&with("work_mem", "8MB".into())).await.map_err(plain)?;
    ensure!(matches!(&applied["work_mem"], Applied::Refused(why) if why.contains("ALTER SYSTEM")), "{applied:?}");
    superuser.batch_execute("alter system reset work_mem").await?;
    let applied = bench.take_up(&with("work_mem", "8MB".into())).await.map_err(plain)?;
    ensure!(applied["work_mem"] == Applied::Live, "{applied:?}");
    ensure!(text(&superuser, "show work_mem").await? == "8MB");
    drop(superuser);
    running.stop(&bench).await
}
