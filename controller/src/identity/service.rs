//! The built-in identity: its users and tokens.

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

/// How long a controller believes a token without asking the store; another controller's revocation acts after this.
const BELIEVED: Duration = Duration::from_secs(5);
/// About so many tokens are believed at most.
const REMEMBERED: u64 = 10_000;

/// The built-in identity.
pub struct Service {
    store: Store,
    pub(super) config: Arc<Config>,
    passwords: passwords::Passwords,
    /// What a password is compared with where there is no user at all.
    nobody: String,
    believed: Cache<String, Token>,
    /// Counts them, so that what was read before one is not believed after it.
    revocations: watch::Sender<u64>,
}

fn sum(token: &str) -> String {
    hex::encode(Sha256::digest(token.as_bytes()))
}

impl Service {
    /// With the users of the store; [`clouds::ensure_users`] puts them there.
    pub fn new(store: Store, config: Arc<Config>) -> Result<Arc<Self>> {
        let (passwords, nobody) = (passwords::Passwords::new()?, passwords::hash("nobody has this password")?);
        let believed = Cache::builder().max_capacity(REMEMBERED).time_to_live(BELIEVED).build();
        let revocations = watch::Sender::new(0);
        Ok(Arc::new(Self { store, config, passwords, nobody, believed, revocations }))
    }

    /// The token itself.
    ///
    /// # Errors
    /// 401.
    pub async fn find(&self, token: &str) -> Result<Token> {
        let (hash, now) = (sum(token), self.store.now());
        if let Some(token) = self.believed.get(&hash).filter(|token| token.expires_at > now) {
            return Ok(token);
        }
        let revocations = *self.revocations.borrow();
        let found = self.store.get_token(&hash, now).await?.ok_or_else(unauthorized)?;
        // It may have been this one that was revoked while the store was asked.
        self.believed.entry(hash).and_compute_with(|_| match *self.revocations.borrow() == revocations {
            true => Op::Put(found.clone()),
            false => Op::Nop,
        });
        Ok(found)
    }

    /// Its address.
    pub(super) fn url(&self) -> String {
        format!("{}/identity/v3", self.config.public_url())
    }

    /// A token for a user who knows the password, with the token's text. `asked` is the name or id that was given.
    ///
    /// # Errors
    /// 401, the same for an unknown user and a wrong password, in the same time; 413 after many failures of this source;
    /// 503 when too many log in from it at once.
    pub async fn login(
        &self,
        source: Source,
        asked: &str,
        find: impl Fn(&User) -> bool,
        password: SecretString,
    ) -> Result<(String, Token)> {
        let users = self.store.list_users().await?;
        let found = users.iter().position(find);
        // An unknown user is counted by itself, and compared with some user's hash: always the same one, since those that
        // were configured may take different times.
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

    /// A token for the bearer of another, which ends when that one does.
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

    /// Makes a token worthless at once.
    pub async fn revoke(&self, token: &str) -> Result<()> {
        let hash = sum(token);
        self.store.delete_token(&hash).await?;
        self.revocations.send_modify(|count| *count += 1);
        // In turn with whoever is about to believe it.
        self.believed.entry(hash).and_compute_with(|_| Op::Remove);
        Ok(())
    }

    /// Changes with each token that is revoked here.
    pub(super) fn revocations(&self) -> watch::Receiver<u64> {
        self.revocations.subscribe()
    }

    /// All users.
    pub async fn users(&self) -> Result<Vec<User>> {
        self.store.list_users().await
    }
}
