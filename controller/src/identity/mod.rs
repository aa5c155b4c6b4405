//! Who asks, and what they may.

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

/// How often it is looked whether a token is still good, by an answer that takes long.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

/// The verified bearer of a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// The user's id.
    pub user_id: String,
    /// The project that the token is scoped to.
    pub project: ProjectId,
    /// The roles in it.
    pub roles: Vec<String>,
    /// Whether the rule `context_is_admin` gives Trove's admin context.
    pub admin: bool,
}

impl Caller {
    /// Whether the caller has Trove's admin context.
    pub fn is_admin(&self) -> bool {
        self.admin
    }
}

enum Source {
    Builtin(Arc<Service>),
    Keystone(Arc<keystone::Keystone>),
}

/// Who asks, by the identity that is configured, and what they may, by the policy.
pub struct Identity {
    source: Source,
    policy: Policy,
    challenge: String,
}

impl Identity {
    /// The identity and the policy of the configuration. The built-in one gets its users, and its clouds file in the
    /// state directory; a real Keystone is not waited for, so that it may come up later.
    ///
    /// # Errors
    /// 400: the policy file, or a file of the Keystone section, is wrong. Internal.
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

    /// The built-in identity with these rules.
    pub fn builtin(service: Arc<Service>, policy: Policy) -> Arc<Self> {
        let challenge = challenge(&service.url());
        Arc::new(Self { source: Source::Builtin(service), policy, challenge })
    }

    /// The caller that a token stands for.
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

    /// Waits until a token is refused, and says why. A revocation at this controller is seen at once, another's and the
    /// end of its life soon; that Keystone or the store cannot be asked is no refusal.
    pub async fn refused(&self, token: &str) -> Error {
        loop {
            // Heard before it is looked, so that no revocation falls between the two.
            let mut revoked = match &self.source {
                Source::Builtin(service) => Some(service.revocations()),
                Source::Keystone(_) => None,
            };
            if let Err(refused @ (Error::Unauthorized(_) | Error::Forbidden(_))) = self.authenticate(token).await {
                return refused;
            }
            let revocation = async {
                match &mut revoked {
                    // The sender lives as long as the identity.
                    Some(revoked) => drop(revoked.changed().await),
                    None => std::future::pending().await,
                }
            };
            // In time or not, it is looked again.
            let _ = tokio::time::timeout(LOOK_AGAIN, revocation).await;
        }
    }

    /// What roles may.
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// The built-in identity, where it is the one.
    pub fn service(&self) -> Option<Arc<Service>> {
        match &self.source {
            Source::Builtin(service) => Some(service.clone()),
            Source::Keystone(_) => None,
        }
    }

    /// The header `WWW-Authenticate` of a 401: where to log in.
    pub fn challenge(&self) -> &str {
        &self.challenge
    }
}

/// As Keystone and its middleware say it.
fn challenge(url: &str) -> String {
    format!("Keystone uri=\"{url}\"")
}

fn unauthorized() -> Error {
    Error::Unauthorized("The token is missing, unknown or expired. Log in again.".to_owned())
}

/// A password that nobody has chosen: 24 characters that no shell and no URL minds.
pub(crate) fn generate_password() -> SecretString {
    let bytes: [u8; 18] = rand::random();
    SecretString::from(URL_SAFE_NO_PAD.encode(bytes))
}

/// An argon2id hash of a password, PHC string. Takes tens of milliseconds and 19 MiB.
pub fn hash_password(password: &SecretString) -> Result<String> {
    passwords::hash(password.expose_secret())
}
