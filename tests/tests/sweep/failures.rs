//! Every step fails once. Its effects must be undone or named by the fault, nothing may be left over, and the next
//! request must work.

use anyhow::{Context, Result, bail, ensure};
use trove_tests::{Engine, Failpoints, depth, leftovers};

use crate::subject::Subject;
use crate::swept;

/// Whether steps fail before or after their effect. After it is the more difficult case.
fn sides() -> &'static [&'static str] {
    if depth::is_full() { &["before", "after"] } else { &["after"] }
}

pub(crate) async fn sweep(kind: &str, usual: Engine) -> Result<()> {
    for engine in depth::engines(usual) {
        let mut subject = Subject::start(engine).await?;
        for step in swept(kind, subject.steps(kind).await?) {
            for side in sides() {
                let point = format!("operation.{kind}.{step}.{side}");
                fail_at(&mut subject, kind, &step, &point).await.with_context(|| format!("{engine:?}, {point}"))?;
            }
        }
    }
    Ok(())
}

async fn fail_at(subject: &mut Subject, kind: &str, step: &str, point: &str) -> Result<()> {
    subject.arm(&format!("{point}=fail"))?;
    subject.prepare(kind).await?;
    subject.ask(kind).await?;
    let operation = subject.last_operation(kind).await?;
    ensure!(operation["status"] == "failed", "{operation}");
    ensure!(operation["error"].as_str().is_some_and(|error| error.contains(step)), "{operation}");
    assert_failed(subject, kind, step, point).await?;
    subject.stack.kill()?;
    subject.stack.run(&Failpoints::default())?;
    recover(subject, kind).await
}

/// Asserts what a tenant sees before a repair.
async fn assert_failed(subject: &Subject, kind: &str, step: &str, point: &str) -> Result<()> {
    let id = subject.id()?;
    let view = subject.api.instance(id).await?;
    let fault = view["fault"]["message"].as_str().unwrap_or_default();
    let named = || ensure_named(fault, step);
    let in_error = || {
        ensure!(view["status"] == "ERROR" && view["operating_status"] == "", "{view}");
        named()
    };
    match kind {
        "create_instance" | "restore_instance" => {
            in_error()?;
            ensure!(view["ip"].is_null(), "{view}");
            leftovers::assert_nothing_of(id, &subject.stack.host(id), &[])?;
            // The instance counts against the quota until it is deleted.
            subject.assert_use(1, 512, 1).await
        }
        "delete_instance" | "reboot_instance" => in_error(),
        // The engine still answers.
        "restart_instance" | "change_accounts" | "apply_configuration" => {
            ensure!(fault.is_empty(), "{view}");
            subject.assert_well().await.map(|_| ())
        }
        // Sizes and version are unchanged, and the quota is restored.
        "resize_flavor" | "resize_volume" | "upgrade_instance" => {
            named()?;
            subject.assert_well().await.map(|_| ())
        }
        "stop_instance" => {
            named()?;
            if point.ends_with(".before") {
                return subject.assert_well().await.map(|_| ());
            }
            subject.assert_stopped().await
        }
        "verify_backup" => {
            let verified = subject.verification().await?;
            // When the host is removed, or the check is over, the backup has passed.
            let has_passed = step == "remove_host" || point.ends_with("check.after");
            let (state, fault) = (verified["state"].as_str(), verified["fault"].as_str().unwrap_or_default());
            if has_passed {
                ensure!(state == Some("passed") && fault.is_empty(), "{verified}");
            } else {
                ensure!(state == Some("failed"), "{verified}");
                ensure_named(fault, step)?;
            }
            subject.assert_well().await.map(|_| ())
        }
        "create_backup" => {
            ensure!(fault.is_empty(), "{view}");
            let backup = subject.backup_at_its_end().await?;
            ensure!(backup["status"] == "FAILED", "{backup}");
            subject.assert_well().await.map(|_| ())
        }
        other => bail!("what a failed {other} leaves is not known here"),
    }
}

fn ensure_named(fault: &str, step: &str) -> Result<()> {
    ensure!(fault.contains(step), "the fault {fault:?} does not name the step");
    Ok(())
}

/// Repeats the request, or does what an operator would do; this must repair the instance and clear the fault.
async fn recover(subject: &mut Subject, kind: &str) -> Result<()> {
    let repair = match kind {
        "create_instance" | "delete_instance" | "restore_instance" => return subject.remove().await,
        "create_backup" => {
            subject.remove_backup().await?;
            "create_backup"
        }
        "stop_instance" => "restart_instance",
        other => other,
    };
    if repair != "reboot_instance" && repair != "restart_instance" {
        subject.await_usable().await?;
    }
    subject.ask(repair).await?;
    subject.assert_done(repair).await
}
