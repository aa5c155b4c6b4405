//! Authentication and authorisation of API requests.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use secrecy::{ExposeSecret, SecretString};

use crate::config::{Config, Mode};
use crate::error::{Error, Result};
use crate::ids::ProjectId;
use crate::store::Store;

pub mod builtin;
mod clouds;
mod failures;
mod keystone;
mod passwords;
mod policy;
mod service;

pub use policy::Policy;
pub use service::Service;

/// How often a long response checks whether its token is still valid.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

/// The authenticated user of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    pub user_id: String,
    /// Project of the token.
    pub project: ProjectId,
    /// Roles in the project.
    pub roles: Vec<String>,
    /// Whether the rule `context_is_admin` holds.
    pub admin: bool,
}

impl Caller {
    pub fn is_admin(&self) -> bool {
        self.admin
    }
}

enum Source {
    Builtin(Arc<Service>),
    Keystone(Arc<keystone::Keystone>),
}

/// The configured identity (built-in or Keystone) and the policy.
pub struct Identity {
    source: Source,
    policy: Policy,
    challenge: String,
}

impl Identity {
    /// Opens the configured identity and policy. The built-in identity gets its users and, in the state directory, its
    /// clouds file. Keystone need not be up yet.
    ///
    /// # Errors
    /// 400 if the policy file or a file of the Keystone section is wrong; internal.
    pub async fn open(store: &Store, config: &Arc<Config>, state: &Path) -> Result<Arc<Self>> {
        let policy = Policy::load(config.identity.policy_file.as_deref())?;
        if config.identity.mode == Mode::Keystone {
            let keystone = keystone::Keystone::new(&config.keystone)?;
            let challenge = challenge(&config.keystone.public_url());
            return Ok(Arc::new(Self { source: Source::Keystone(keystone), policy, challenge }));
        }
        clouds::ensure_users(store, config, state).await?;
        Ok(Self::builtin(Service::new(store.clone(), config.clone())?, policy))
    }

    pub fn builtin(service: Arc<Service>, policy: Policy) -> Arc<Self> {
        let challenge = challenge(&service.url());
        Arc::new(Self { source: Source::Builtin(service), policy, challenge })
    }

    /// Authenticates a token.
    ///
    /// # Errors
    /// 401; 403 for a token without a project; 503 while Keystone cannot be asked.
    pub async fn authenticate(&self, token: &str) -> Result<Caller> {
        let caller = match &self.source {
            Source::Builtin(service) => {
                let user = service.find(token).await?.user;
                Caller { user_id: user.id, project: ProjectId(user.project_id), roles: user.roles, admin: false }
            }
            Source::Keystone(keystone) => keystone.validate(token).await?,
        };
        Ok(self.policy.with_context(caller))
    }

    /// Waits until a token is no longer valid, and returns the error. A revocation at this controller is noticed at
    /// once, one at another controller and expiry within [`LOOK_AGAIN`]. That Keystone or the store cannot be asked
    /// does not count.
    pub async fn refused(&self, token: &str) -> Error {
        loop {
            // Subscribe before the check, so that no revocation is missed in between.
            let mut revoked = match &self.source {
                Source::Builtin(service) => Some(service.revocations()),
                Source::Keystone(_) => None,
            };
            if let Err(refused @ (Error::Unauthorized(_) | Error::Forbidden(_))) = self.authenticate(token).await {
                return refused;
            }
            let revocation = async {
                match &mut revoked {
                    // Cannot fail: the sender lives as long as the identity.
                    Some(revoked) => drop(revoked.changed().await),
                    None => std::future::pending().await,
                }
            };
            // Check again after a revocation as well as after the timeout.
            let _ = tokio::time::timeout(LOOK_AGAIN, revocation).await;
        }
    }

    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// The built-in identity, if that is the configured one.
    pub fn service(&self) -> Option<Arc<Service>> {
        match &self.source {
            Source::Builtin(service) => Some(service.clone()),
            Source::Keystone(_) => None,
        }
    }

    /// Value of the header `WWW-Authenticate` of a 401.
    pub fn challenge(&self) -> &str {
        &self.challenge
    }
}

/// The challenge in the form that Keystone's middleware uses.
fn challenge(url: &str) -> String {
    format!("Keystone uri=\"{url}\"")
}

fn unauthorized() -> Error {
    Error::Unauthorized("The token is missing, unknown or expired. Log in again.".to_owned())
}

/// A random password of 24 characters that need no quoting in a shell or URL.
pub(crate) fn generate_password() -> SecretString {
    let bytes: [u8; 18] = rand::random();
    SecretString::from(URL_SAFE_NO_PAD.encode(bytes))
}

/// Hashes a password with argon2id; returns a PHC string. Takes tens of milliseconds and 19 MiB.
pub fn hash_password(password: &SecretString) -> Result<String> {
    passwords::hash(password.expose_secret())
}
