//! A server of a few moments: no listener but a private socket, no data, gone with whoever asked. It is asked what
//! cannot be asked of a tenant's server without changing it.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use trove_strategy::{Command, Directory, EngineError, HostError, Kind, Output, Site};

use crate::client::Session;
use crate::{Redis, acl, config};

const LIFE: Duration = Duration::from_secs(30);
const ASK_AGAIN: Duration = Duration::from_millis(10);

/// It runs.
pub(crate) struct Throwaway<'a> {
    /// A connection to it, which may do everything.
    pub(crate) session: Session,
    run: Pin<Box<dyn Future<Output = Result<Output, HostError>> + Send + 'a>>,
}

impl<'a> Throwaway<'a> {
    /// Starts it with these parameters. `Invalid` when it does not take them, with its reason.
    pub(crate) async fn start(
        redis: &Redis,
        site: &'a Site,
        parameters: &BTreeMap<String, String>,
    ) -> Result<Self, EngineError> {
        let number: u32 = rand::random();
        let socket = Directory::Run.join(format!("{number:08x}.sock"));
        let password = acl::random_password();
        let text = format!(
            "{}port 0\nunixsocket \"{}\"\nunixsocketperm 700\nrequirepass {}\ndir \"{}\"\nsave \"\"\nappendonly no\n\
             daemonize no\nlogfile \"\"\n",
            config::lines(parameters),
            site.path(&socket).display(),
            password.expose_secret(),
            site.run.display(),
        );
        // It ends with the agent, however that ends, and takes no more memory than the tenant's server may.
        let command = Command::engine("/usr/bin/setpriv").arg("--pdeathsig").arg("KILL").arg("--");
        let command = command.arg("/usr/bin/prlimit").arg(format!("--data={}", site.size.memory_mib << 20)).arg("--");
        let command = command.arg(redis.program(site).to_string_lossy()).arg("-");
        let mut run = site.host.run(command.stdin(SecretString::from(text)).deadline(LIFE));
        let answered = async {
            loop {
                if let Ok(session) = Session::open_at(site, &socket, acl::ROOT, &password).await {
                    return session;
                }
                tokio::time::sleep(ASK_AGAIN).await;
            }
        };
        tokio::select! {
            session = answered => Ok(Self { session, run }),
            ended = &mut run => Err(refused(ended, parameters)),
        }
    }

    /// Ends it.
    pub(crate) async fn end(mut self) {
        let mut shutdown = redis::cmd("SHUTDOWN");
        shutdown.arg("NOSAVE");
        // The answer is the end of the connection; what does not end is killed when the future is dropped or late.
        let _ = self.session.ask::<redis::Value>("end", &shutdown).await;
        let _ = self.run.await;
    }
}

/// Why it did not start: the line of the file and the reason are in its output. Where they are not, the values are to blame if there
/// are some: they may ask for more memory than there is. Whoever is late or is killed may be on a busy machine.
fn refused(ended: Result<Output, HostError>, parameters: &BTreeMap<String, String>) -> EngineError {
    let error = match ended {
        Ok(_) => return EngineError::new(Kind::Fatal, "try the parameters: the server ended at once"),
        Err(error) => error,
    };
    let HostError::Failed { stderr, .. } = &error else { return error.into() };
    let mut lines = stderr.lines().map(str::trim).skip_while(|line| !line.starts_with(">>>"));
    if let (Some(line), Some(reason)) = (lines.next(), lines.next()) {
        let name = line.trim_start_matches([' ', '>', '\'']).split(' ').next().unwrap_or_default();
        return EngineError::new(Kind::Invalid, format!("the parameter {name:?}: {reason}"));
    }
    if parameters.is_empty() {
        return error.into();
    }
    let names: Vec<&str> = parameters.keys().map(String::as_str).collect();
    EngineError::new(Kind::Invalid, format!("the parameters {}: {error}", names.join(", ")))
}
