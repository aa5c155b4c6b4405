//! The built-in identity: users and tokens.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use moka::ops::compute::Op;
use moka::sync::Cache;
use secrecy::SecretString;
use sha2::{Digest, Sha256};
use time::OffsetDateTime;
use tokio::sync::watch;

use super::passwords::{self, Attempt};
use super::unauthorized;
use crate::config::Config;
use crate::connections::Source;
use crate::error::{Error, Result};
use crate::store::Store;
use crate::store::identity::{Token, User};

/// How long a token is cached. A revocation at another controller takes effect after this time.
const CACHE_LIFETIME: Duration = Duration::from_secs(5);
/// About the greatest number of cached tokens.
const CACHE_SIZE: u64 = 10_000;

/// The built-in identity.
pub struct Service {
    store: Store,
    pub(super) config: Arc<Config>,
    passwords: passwords::Passwords,
    /// Hash that passwords are checked against if there are no users.
    nobody: String,
    cached: Cache<String, Token>,
    /// Number of revocations. It shows whether a token was revoked while it was being read from the store; then it must
    /// not be cached.
    revocations: watch::Sender<u64>,
}

fn sum(token: &str) -> String {
    hex::encode(Sha256::digest(token.as_bytes()))
}

impl Service {
    /// The users are those of the store; [`clouds::ensure_users`] writes them.
    pub fn new(store: Store, config: Arc<Config>) -> Result<Arc<Self>> {
        let (passwords, nobody) = (passwords::Passwords::new()?, passwords::hash("nobody has this password")?);
        let cached = Cache::builder().max_capacity(CACHE_SIZE).time_to_live(CACHE_LIFETIME).build();
        let revocations = watch::Sender::new(0);
        Ok(Arc::new(Self { store, config, passwords, nobody, cached, revocations }))
    }

    /// Looks a token up.
    ///
    /// # Errors
    /// 401.
    pub async fn find(&self, token: &str) -> Result<Token> {
        let (hash, now) = (sum(token), self.store.now());
        if let Some(token) = self.cached.get(&hash).filter(|token| token.expires_at > now) {
            return Ok(token);
        }
        let revocations = *self.revocations.borrow();
        let found = self.store.get_token(&hash, now).await?.ok_or_else(unauthorized)?;
        // Do not cache the token if any was revoked while the store was read; it may have been this one.
        self.cached.entry(hash).and_compute_with(|_| match *self.revocations.borrow() == revocations {
            true => Op::Put(found.clone()),
            false => Op::Nop,
        });
        Ok(found)
    }

    /// URL of the identity.
    pub(super) fn url(&self) -> String {
        format!("{}/identity/v3", self.config.public_url())
    }

    /// Logs a user in with a password. Returns the token's text and the token. `asked` is the given name or id.
    ///
    /// # Errors
    /// 401, the same and after the same time for an unknown user and a wrong password; 413 after many failures of the
    /// source; 503 if too many logins of the source are waiting.
    pub async fn login(
        &self,
        source: Source,
        asked: &str,
        find: impl Fn(&User) -> bool,
        password: SecretString,
    ) -> Result<(String, Token)> {
        let users = self.store.list_users().await?;
        let found = users.iter().position(find);
        // Failures for an unknown user are counted under the hash of the given name. The password is checked against
        // some user's hash, the same one each time for the same name, since hashes that were configured may take
        // different times.
        let unknown = sum(asked);
        let some = usize::from(unknown.as_bytes()[0]).checked_rem(users.len()).unwrap_or_default();
        let hash = users.get(found.unwrap_or(some)).map_or(&self.nobody, |user| &user.password_hash).clone();
        let account = found.map_or(unknown, |at| users[at].name.clone());
        let attempt = Attempt { source, account, hash, known: found.is_some(), password };
        let right = self.passwords.verify(attempt).await?;
        let wrong = || Error::Unauthorized("The user name or the password is wrong.".to_owned());
        let user = found.filter(|_| right).and_then(|at| users.into_iter().nth(at)).ok_or_else(wrong)?;
        self.issue(user, None, self.store.now() + self.config.identity.token_lifetime).await
    }

    /// Makes a token for the owner of another token. It expires when that one does.
    ///
    /// # Errors
    /// 401.
    pub async fn exchange(&self, token: &str) -> Result<(String, Token)> {
        let found = self.find(token).await?;
        let first = found.parent_audit_id.unwrap_or(found.audit_id);
        self.issue(found.user, Some(first), found.expires_at).await
    }

    async fn issue(
        &self,
        user: User,
        parent_audit_id: Option<String>,
        expires_at: OffsetDateTime,
    ) -> Result<(String, Token)> {
        let secret: [u8; 32] = rand::random();
        let audit: [u8; 16] = rand::random();
        let text = URL_SAFE_NO_PAD.encode(secret);
        let issued_at = self.store.now();
        let audit_id = URL_SAFE_NO_PAD.encode(audit);
        let token = Token { user, audit_id, parent_audit_id, issued_at, expires_at };
        self.store.insert_token(&sum(&text), &token).await?;
        Ok((text, token))
    }

    /// Revokes a token.
    pub async fn revoke(&self, token: &str) -> Result<()> {
        let hash = sum(token);
        self.store.delete_token(&hash).await?;
        self.revocations.send_modify(|count| *count += 1);
        // Removing by `and_compute_with` is serialised with `find`, which may be about to cache the token.
        self.cached.entry(hash).and_compute_with(|_| Op::Remove);
        Ok(())
    }

    /// Notifies of each revocation at this controller.
    pub(super) fn revocations(&self) -> watch::Receiver<u64> {
        self.revocations.subscribe()
    }

    pub async fn users(&self) -> Result<Vec<User>> {
        self.store.list_users().await
    }
}
