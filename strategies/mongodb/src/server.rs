//! A server of a few moments or for a restore: it lets in whoever reaches its private socket, listens nowhere else, and is gone
//! with whoever asked for it.

use std::pin::pin;
use std::time::Duration;

use bson::doc;
use trove_strategy::{Command, EngineError, HostError, Kind, Output, Site};

use crate::client::{Session, patiently, socket};
use crate::config::{Purpose, program};
use crate::names::HOME;

const ASK_AGAIN: Duration = Duration::from_millis(30);

/// Starts it with the file of this purpose, has the work done, and stops it, also when the work failed. What it did is on the disk
/// then.
pub(crate) async fn served<T, F>(
    site: &Site,
    purpose: Purpose,
    life: Duration,
    work: impl FnOnce(Session) -> F + Send,
) -> Result<T, EngineError>
where
    F: Future<Output = Result<T, EngineError>> + Send,
{
    site.host.remove(&socket(site)).await?;
    let file = site.path(&purpose.file());
    // It ends with the agent, however that ends.
    let command = Command::engine("/usr/bin/setpriv").arg("--pdeathsig").arg("KILL").arg("--");
    let command = command.arg(program(site).to_string_lossy()).arg("--config").arg(file.to_string_lossy());
    let mut run = pin!(site.host.run(command.deadline(life)));
    let done = async { work(answered(site).await?).await };
    let done = tokio::select! {
        done = done => done,
        ended = &mut run => return Err(ended_early(purpose, ended)),
    };
    let stop = async {
        // Its answer is the end of the connection.
        let _ = patiently(|| Session::greet(site)).await?.ask("stop", HOME, doc! {"shutdown": 1}).await;
        Ok::<(), EngineError>(())
    };
    tokio::select! {
        stopped = stop => {
            stopped?;
            run.await?;
        }
        ended = &mut run => drop(ended?),
    }
    done
}

/// Waits until it answers.
async fn answered(site: &Site) -> Result<Session, EngineError> {
    loop {
        match Session::greet(site).await {
            Ok(session) => return Ok(session),
            Err(error) if error.kind() == Kind::Transient => tokio::time::sleep(ASK_AGAIN).await,
            Err(error) => return Err(error),
        }
    }
}

fn ended_early(purpose: Purpose, ended: Result<Output, HostError>) -> EngineError {
    match ended {
        Err(error) => error.into(),
        Ok(_) => EngineError::new(Kind::Fatal, format!("{}: the server ended at once", purpose.attempt())),
    }
}
