//! Sweeps over every step of every kind of operation: the controller is killed before and after the step, the step
//! fails, and the agent is killed at each stage of its jobs.
//!
//! Kinds are read from `controller/src/operations/`, steps from the service, and stages from `agent/src/`, so that
//! additions are swept, too, or a test here fails. `make test` sweeps each kind on one engine and a sample of steps on
//! MariaDB and MongoDB, `make test-full` everything on all.

mod deaths;
mod failures;
mod kills;
mod random;
mod subject;

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use trove_tests::{Engine, depth};

/// Makes the tests of each kind. `make test` runs kills on the first engine, failures and deaths of the agent on the second.
macro_rules! sweep {
    ($($kind:ident: $engine:ident, $other:ident;)+) => {
        const SWEPT: &[&str] = &[$(stringify!($kind)),+];

        mod survives_kills {
            use super::*;
            $(#[tokio::test]
            async fn $kind() -> Result<()> {
                kills::sweep(stringify!($kind), Engine::$engine).await
            })+
        }

        mod survives_failures {
            use super::*;
            $(#[tokio::test]
            async fn $kind() -> Result<()> {
                failures::sweep(stringify!($kind), Engine::$other).await
            })+
        }

        mod survives_deaths_of_the_agent {
            use super::*;
            $(#[tokio::test]
            async fn $kind() -> Result<()> {
                deaths::sweep(stringify!($kind), Engine::$other).await
            })+
        }
    };
}

sweep! {
    create_instance: PostgreSql, Redis;
    restart_instance: Redis, PostgreSql;
    change_accounts: PostgreSql, Redis;
    resize_flavor: PostgreSql, Redis;
    resize_volume: Redis, PostgreSql;
    stop_instance: PostgreSql, Redis;
    reboot_instance: Redis, PostgreSql;
    apply_configuration: PostgreSql, Redis;
    upgrade_instance: PostgreSql, Redis;
    create_backup: PostgreSql, PostgreSql;
    restore_instance: PostgreSql, PostgreSql;
    verify_backup: PostgreSql, PostgreSql;
    delete_instance: Redis, PostgreSql;
}

/// The steps of a kind that are swept. Those that are another kind's, too, are left to that but for the full depth.
fn swept(kind: &str, steps: Vec<String>) -> Vec<String> {
    let is_its_own = |step: &String| match kind {
        "restore_instance" => step == "restore",
        "verify_backup" => ["restore", "check", "remove_host"].contains(&step.as_str()),
        _ => true,
    };
    steps.into_iter().filter(|step| is_its_own(step) || depth::is_full()).collect()
}

/// Texts of all files in a folder of the workspace, without subfolders.
fn sources(folder: &str) -> Result<Vec<String>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(folder);
    let mut texts = Vec::new();
    for entry in std::fs::read_dir(&path).with_context(|| format!("read {}", path.display()))? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "rs") {
            texts.push(std::fs::read_to_string(&path)?);
        }
    }
    Ok(texts)
}

/// The quoted strings after each `mark` in a text.
fn quoted_after<'a>(text: &'a str, mark: &str) -> Vec<&'a str> {
    text.split(mark).skip(1).filter_map(|rest| rest.split('"').next()).collect()
}

#[test]
fn every_kind_of_operation_is_swept() -> Result<()> {
    let texts = sources("controller/src/operations")?;
    let kinds: BTreeSet<&str> =
        texts.iter().flat_map(|text| quoted_after(text, "const KIND: &'static str = \"")).collect();
    let swept: BTreeSet<&str> = SWEPT.iter().copied().collect();
    ensure!(kinds == swept, "there are {kinds:?}, swept are {swept:?}");
    Ok(())
}
