//! The built-in identity: its users and tokens.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use secrecy::SecretString;
use sha2::{Digest, Sha256};
use time::OffsetDateTime;

use super::{passwords, unauthorized};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::store::Store;
use crate::store::identity::{Token, User};

/// How long a controller believes a token without asking the store; another controller's revocation acts after this.
const BELIEVED: Duration = Duration::from_secs(5);
/// Tokens that are believed at most; the oldest belief goes first.
const REMEMBERED: usize = 10_000;

/// The built-in identity.
pub struct Service {
    store: Store,
    pub(super) config: Arc<Config>,
    passwords: passwords::Passwords,
    believed: Mutex<HashMap<String, (Instant, Token)>>,
    /// Counts them, so that what was read before one is not believed after it.
    revocations: AtomicU64,
}

fn sum(token: &str) -> String {
    Sha256::digest(token.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Service {
    /// With the users of the store; [`clouds::ensure_users`] puts them there.
    ///
    /// # Errors
    /// Internal.
    pub fn new(store: Store, config: Arc<Config>) -> Result<Arc<Self>> {
        let passwords = passwords::Passwords::new()?;
        Ok(Arc::new(Self { store, config, passwords, believed: Mutex::default(), revocations: AtomicU64::new(0) }))
    }

    /// The token itself.
    ///
    /// # Errors
    /// 401.
    pub async fn find(&self, token: &str) -> Result<Token> {
        let (hash, now) = (sum(token), self.store.now());
        if let Some(token) = self.believe(&hash, now) {
            return Ok(token);
        }
        let revocations = self.revocations.load(Ordering::Acquire);
        let found = self.store.get_token(&hash, now).await?.ok_or_else(unauthorized)?;
        let mut believed = self.believed.lock().unwrap_or_else(PoisonError::into_inner);
        if self.revocations.load(Ordering::Acquire) != revocations {
            // It may have been this one that was revoked while the store was asked.
            return Ok(found);
        }
        if believed.len() >= REMEMBERED {
            believed.retain(|_, (since, _)| since.elapsed() < BELIEVED);
        }
        if believed.len() < REMEMBERED {
            believed.insert(hash, (Instant::now(), found.clone()));
        }
        Ok(found)
    }

    fn believe(&self, hash: &str, now: OffsetDateTime) -> Option<Token> {
        let believed = self.believed.lock().unwrap_or_else(PoisonError::into_inner);
        let (since, token) = believed.get(hash)?;
        (since.elapsed() < BELIEVED && token.expires_at > now).then(|| token.clone())
    }

    /// Its address.
    pub(super) fn url(&self) -> String {
        format!("{}/identity/v3", self.config.public_url())
    }

    /// A token for a user who knows the password, with the token's text. `asked` is the name or id that was given.
    ///
    /// # Errors
    /// 401, the same for an unknown user and a wrong password, in the same time; 413 after many failures; 503 when too
    /// many log in at once.
    pub async fn login(
        &self,
        asked: &str,
        find: impl Fn(&User) -> bool,
        password: SecretString,
    ) -> Result<(String, Token)> {
        let user = self.store.list_users().await?.into_iter().find(find);
        // An unknown user has to wait by itself too: a pause for all of them would tell which names are known.
        let name = user.as_ref().map_or_else(|| sum(asked), |user| user.name.clone());
        let hash = user.as_ref().map(|user| user.password_hash.clone());
        let right = self.passwords.verify(&name, hash, password).await?;
        let wrong = || Error::Unauthorized("The user name or the password is wrong.".to_owned());
        let user = user.filter(|_| right).ok_or_else(wrong)?;
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
    ///
    /// # Errors
    /// Internal.
    pub async fn revoke(&self, token: &str) -> Result<()> {
        let hash = sum(token);
        self.store.delete_token(&hash).await?;
        let mut believed = self.believed.lock().unwrap_or_else(PoisonError::into_inner);
        self.revocations.fetch_add(1, Ordering::AcqRel);
        believed.remove(&hash);
        Ok(())
    }

    /// All users.
    ///
    /// # Errors
    /// Internal.
    pub async fn users(&self) -> Result<Vec<User>> {
        self.store.list_users().await
    }
}
