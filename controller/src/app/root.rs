//! The all-powerful account of an instance.

use std::time::Duration;

use secrecy::SecretString;
use trove_strategy::Capability;

use super::accounts::RootAccount;
use super::instances::Accepted;
use super::{App, names, passwords};
use crate::error::{Error, Result};
use crate::identity::Caller;
use crate::ids::InstanceId;
use crate::operations::Sealed;
use crate::operations::change_accounts::AccountChange;

const CAPABILITY: Capability = Capability::Root;

/// Shortest password of root, characters.
const MIN_PASSWORD: usize = 8;

/// How long the answer waits for the end of the change.
const ENABLED_WITHIN: Duration = Duration::from_secs(20);

impl App {
    /// Whether root is enabled, from the store, when what was accepted before this call is done.
    ///
    /// # Errors
    /// 404; 422, also when earlier changes last longer than 5 s.
    pub async fn root_enabled(&self, caller: &Caller, id: InstanceId) -> Result<bool> {
        let subject = self.open(caller, id, CAPABILITY).await?;
        if !self.await_earlier(id).await? {
            return Ok(subject.instance.root_enabled.is_some());
        }
        Ok(self.open(caller, id, CAPABILITY).await?.instance.root_enabled.is_some())
    }

    /// Enables root, or gives it a new password, and waits until that is so.
    ///
    /// # Errors
    /// 400 password; 403 where root would be a shell of the controller's own account; 404; 422 not ready, failed, or
    /// still under way after 20 s.
    pub async fn enable_root(
        &self,
        caller: &Caller,
        request_id: &str,
        id: InstanceId,
        password: Option<SecretString>,
    ) -> Result<RootAccount> {
        let subject = self.open(caller, id, CAPABILITY).await?;
        self.check_root_allowed()?;
        let password = match password {
            Some(password) => {
                names::check_password(&subject.manifest.identity.users.passwords, "root", &password, MIN_PASSWORD)?;
                password
            }
            None => passwords::generate()?,
        };
        self.await_ready(&subject).await?;
        let change = AccountChange::EnableRoot { password: Sealed::new(&self.store.seal, &password)? };
        let operation = self.queue(caller, request_id, &subject, vec![change]).await?.operation;
        match self.await_end(operation, ENABLED_WITHIN).await? {
            Some(Ok(())) => Ok(RootAccount { name: subject.manifest.identity.root_user.clone(), password, operation }),
            Some(Err(reason)) => Err(Error::Unprocessable(format!("Root of instance {id} was not enabled: {reason}"))),
            None => Err(Error::Unprocessable(format!(
                "Root of instance {id} is not enabled yet: operation {operation} is still under way."
            ))),
        }
    }

    /// Queues that root is disabled.
    ///
    /// # Errors
    /// 404 never enabled; 422.
    pub async fn disable_root(&self, caller: &Caller, request_id: &str, id: InstanceId) -> Result<Accepted> {
        let subject = self.open(caller, id, CAPABILITY).await?;
        if subject.instance.root_enabled.is_none() {
            return Err(Error::NotFound(format!("Root is not enabled for instance {id}.")));
        }
        self.await_ready(&subject).await?;
        self.queue(caller, request_id, &subject, vec![AccountChange::DisableRoot]).await
    }

    /// Whether root may be handed out at all, see [`crate::compute::Compute::may_have_root`].
    ///
    /// # Errors
    /// 403.
    pub(super) fn check_root_allowed(&self) -> Result<()> {
        match self.compute.separates_tenants() {
            Err(gap) if !self.compute.may_have_root(&self.config) => Err(Error::Forbidden(format!(
                "Root cannot be enabled: it is a shell as the engine's account, instances are not kept apart here \
                 ({gap}), and process.allow_root is not set."
            ))),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
