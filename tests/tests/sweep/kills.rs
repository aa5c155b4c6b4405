//! The controller is killed before and after every step, and between the commit of a request and its answer. After a
//! restart the operation must end as if nothing had happened.

use anyhow::{Context, Result};
use trove_tests::{Engine, depth};

use crate::subject::{Subject, committed_as};
use crate::swept;

pub(crate) async fn sweep(kind: &str, usual: Engine) -> Result<()> {
    for engine in depth::engines(usual) {
        let mut subject = Subject::start(engine).await?;
        for step in swept(kind, subject.steps(kind).await?) {
            for side in ["before", "after"] {
                let point = format!("operation.{kind}.{step}.{side}");
                kill_at(&mut subject, kind, &point).await.with_context(|| format!("{engine:?}, {point}"))?;
            }
        }
        unanswered(&mut subject, kind).await.with_context(|| format!("{engine:?}, unanswered"))?;
    }
    Ok(())
}

pub(crate) async fn kill_at(subject: &mut Subject, kind: &str, point: &str) -> Result<()> {
    subject.arm(&format!("{point}=kill"))?;
    subject.prepare(kind).await?;
    subject.ask(kind).await?;
    subject.die_and_carry_on().await?;
    subject.assert_done(kind).await
}

/// The controller is killed after the commit and before the answer.
async fn unanswered(subject: &mut Subject, kind: &str) -> Result<()> {
    subject.prepare(kind).await?;
    subject.arm(&format!("enqueue.{}.after_commit=kill", committed_as(kind)))?;
    if !["create_instance", "restore_instance", "verify_backup"].contains(&kind) {
        subject.await_usable().await?;
    }
    subject.ask_without_answer(kind).await?;
    subject.die_and_carry_on().await?;
    subject.asked_for(kind).await?;
    subject.assert_done(kind).await
}
