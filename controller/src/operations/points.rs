//! Named points around every step, at which a test kills the process, fails the step, or holds it.

use super::outcome::StepResult;
use crate::ids::InstanceId;

/// Passes points. In tests of this crate it also asks the test.
#[derive(Clone, Default)]
pub(crate) struct Points {
    #[cfg(test)]
    pub(crate) hook: Option<Hook>,
}

/// How a test is asked.
#[cfg(test)]
pub(crate) type Hook = std::sync::Arc<dyn Fn(&str, InstanceId) -> Hold + Send + Sync>;

/// What a test wants at a point.
#[cfg(test)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hold {
    /// Nothing.
    Pass,
    /// That the step fails.
    Fail,
    /// That it goes no further, until the runner is dropped.
    Forever,
    /// That it goes on after this time.
    For(std::time::Duration),
}

impl Points {
    /// Passes the point `name`, on this target.
    #[cfg_attr(not(test), expect(unused_variables, reason = "only tests tell targets apart"))]
    pub(crate) async fn pass(&self, name: &str, target: InstanceId) -> StepResult {
        trove_strategy::failpoint::pass(name)
            .map_err(|injected| super::outcome::StepError::Fatal(injected.to_string()))?;
        #[cfg(test)]
        if let Some(hook) = &self.hook {
            match hook(name, target) {
                Hold::Pass => {}
                Hold::Fail => return Err(super::outcome::StepError::Fatal(format!("failed at {name}"))),
                Hold::Forever => std::future::pending().await,
                Hold::For(time) => tokio::time::sleep(time).await,
            }
        }
        Ok(())
    }
}
