//! Accounts of an instance and their grants. Questions go to the agent; changes are queued in order.

use std::cmp::Ordering;

use secrecy::SecretString;
use trove_proto::v1;
use trove_strategy::Capability;

use super::accounts::{
    ANY_HOST, MAX_HOST_BYTES, NewUser, User, UserChange, UserRef, account, check_account, check_host, check_number,
    check_users, refuse_root, split,
};
use super::databases;
use super::instances::Accepted;
use super::names::{self, shown};
use super::readiness::{InstanceContext, answer};
use super::{App, Page, PageRequest, marker};
use crate::error::{Error, Result};
use crate::identity::Caller;
use crate::ids::InstanceId;
use crate::operations::Sealed;
use crate::operations::change_accounts::AccountChange;

const CAPABILITY: Capability = Capability::Users;

impl App {
    /// Accounts by name and host, without the reserved ones. A marker by hand is a name, or `name@host` where accounts have
    /// hosts; there the name alone stands for all accounts of it.
    ///
    /// # Errors
    /// 404; 422.
    pub async fn list_users(&self, caller: &Caller, id: InstanceId, page: PageRequest) -> Result<Page<User>> {
        let subject = self.open(caller, id, CAPABILITY).await?;
        self.await_ready(&subject).await?;
        let mut users = self.users(&subject).await?;
        users.sort_by(|a, b| (&a.name, &a.host).cmp(&(&b.name, &b.host)));
        let traits = &subject.manifest.identity.users;
        let longest = traits.names.max_bytes + if traits.hosts { 1 + MAX_HOST_BYTES } else { 0 };
        if let Some(marker) = &page.marker {
            let after = marker::name(marker, longest);
            let (name, host) = split(traits, &after);
            users.retain(|user| match user.name.as_str().cmp(name) {
                Ordering::Equal => host.is_some_and(|host| user.host.as_str() > host),
                order => order.is_gt(),
            });
        }
        let whole =
            |user: &User| if traits.hosts { [&*user.name, "@", &*user.host].concat() } else { user.name.clone() };
        Ok(Page::cut(users, page.limit, |user| marker::of(&whole(user), longest)))
    }

    /// One account.
    ///
    /// # Errors
    /// 404; 422.
    pub async fn get_user(&self, caller: &Caller, id: InstanceId, user: &str) -> Result<User> {
        let subject = self.open(caller, id, CAPABILITY).await?;
        let user = account(&subject.manifest.identity.users, user);
        if names::check(&subject.manifest.identity.users.names, "User", &user.name).is_err() {
            // Reserved accounts are hidden, and the others cannot be.
            return Err(no_user(&user));
        }
        self.await_ready(&subject).await?;
        self.user(&subject, &user).await
    }

    /// Queues their creation.
    ///
    /// # Errors
    /// 400 name, duplicate or exists, unknown database; 404; 422.
    pub async fn create_users(
        &self,
        caller: &Caller,
        request_id: &str,
        id: InstanceId,
        users: Vec<NewUser>,
    ) -> Result<Accepted> {
        let subject = self.open(caller, id, CAPABILITY).await?;
        if users.is_empty() {
            return Err(Error::BadRequest("users is empty.".to_owned()));
        }
        check_users(&subject.manifest, &users)?;
        self.await_ready(&subject).await?;
        let present = self.users(&subject).await?;
        let taken = |new: &&NewUser| present.iter().any(|user| user.name == new.name && user.host == new.host);
        if let Some(twice) = users.iter().find(taken) {
            return Err(exists(&twice.name, &twice.host));
        }
        check_number(&subject.manifest.identity, present.len() + users.len())?;
        let databases: Vec<&str> = users.iter().flat_map(|user| &user.databases).map(String::as_str).collect();
        if !databases.is_empty() {
            // Here an unknown database is a wrong value of the order, not the thing that was asked for.
            self.check_databases_exist(&subject, &databases).await.map_err(|error| match error {
                Error::NotFound(message) => Error::BadRequest(message),
                other => other,
            })?;
        }
        let changes = users.into_iter().map(|user| user.sealed(&self.store).map(AccountChange::CreateUser));
        self.queue(caller, request_id, &subject, changes.collect::<Result<_>>()?).await
    }

    /// Queues new passwords.
    ///
    /// # Errors
    /// 400; 404 unknown account; 422.
    pub async fn change_passwords(
        &self,
        caller: &Caller,
        request_id: &str,
        id: InstanceId,
        users: Vec<(UserRef, SecretString)>,
    ) -> Result<Accepted> {
        let subject = self.open(caller, id, CAPABILITY).await?;
        if users.is_empty() {
            return Err(Error::BadRequest("users is empty.".to_owned()));
        }
        let identity = &subject.manifest.identity;
        for (user, password) in &users {
            names::check(&identity.users.names, "User", &user.name)?;
            check_host(identity, &user.name, &user.host)?;
            names::check_password(&identity.users.passwords, &format!("user {}", shown(&user.name)), password, 1)?;
        }
        self.await_ready(&subject).await?;
        let present = self.users(&subject).await?;
        if let Some((missing, _)) = users.iter().find(|(user, _)| !present.iter().any(|present| user.is(present))) {
            return Err(no_user(missing));
        }
        let changes = users.into_iter().map(|(user, password)| {
            Ok(AccountChange::ChangeUser {
                account: user.into(),
                new_name: None,
                new_host: None,
                new_password: Some(Sealed::new(&self.store.seal, &password)?),
            })
        });
        self.queue(caller, request_id, &subject, changes.collect::<Result<_>>()?).await
    }

    /// Queues a change of name, host or password.
    ///
    /// # Errors
    /// 400 name taken or not allowed; 404; 422.
    pub async fn change_user(
        &self,
        caller: &Caller,
        request_id: &str,
        id: InstanceId,
        user: &str,
        change: UserChange,
    ) -> Result<Accepted> {
        let subject = self.open(caller, id, CAPABILITY).await?;
        let user = account(&subject.manifest.identity.users, user);
        names::check(&subject.manifest.identity.users.names, "User", &user.name)?;
        let target = check_change(&subject, &user, &change)?;
        self.await_ready(&subject).await?;
        let present = self.users(&subject).await?;
        if !present.iter().any(|present| user.is(present)) {
            return Err(no_user(&user));
        }
        if target != user && present.iter().any(|present| target.is(present)) {
            return Err(exists(&target.name, &target.host));
        }
        let password = change.password.map(|password| Sealed::new(&self.store.seal, &password)).transpose()?;
        let change = AccountChange::ChangeUser {
            new_name: change.name.filter(|name| *name != user.name),
            new_host: change.host.filter(|host| *host != user.host),
            new_password: password,
            account: user.into(),
        };
        self.queue(caller, request_id, &subject, vec![change]).await
    }

    /// Queues its removal.
    ///
    /// # Errors
    /// 400 reserved; 404; 422.
    pub async fn delete_user(&self, caller: &Caller, request_id: &str, id: InstanceId, user: &str) -> Result<Accepted> {
        let subject = self.open(caller, id, CAPABILITY).await?;
        refuse_root(&subject.manifest.identity, &account(&subject.manifest.identity.users, user).name)?;
        let user = self.present_user(&subject, user).await?;
        let change = AccountChange::DeleteUser(user.into());
        self.queue(caller, request_id, &subject, vec![change]).await
    }

    /// Queues grants.
    ///
    /// # Errors
    /// 400; 404 unknown account or database; 422.
    pub async fn grant(
        &self,
        caller: &Caller,
        request_id: &str,
        id: InstanceId,
        user: &str,
        databases: Vec<String>,
    ) -> Result<Accepted> {
        let subject = self.open(caller, id, databases::CAPABILITY).await?;
        if databases.is_empty() {
            return Err(Error::BadRequest("databases is empty.".to_owned()));
        }
        for database in &databases {
            names::check(&subject.manifest.identity.databases, "Database", database)?;
        }
        let user = self.present_user(&subject, user).await?;
        let wanted: Vec<&str> = databases.iter().map(String::as_str).collect();
        self.check_databases_exist(&subject, &wanted).await?;
        let change = AccountChange::Grant { account: user.into(), databases };
        self.queue(caller, request_id, &subject, vec![change]).await
    }

    /// Queues a revocation.
    ///
    /// # Errors
    /// 400 reserved; 404 no such account or grant; 422.
    pub async fn revoke(
        &self,
        caller: &Caller,
        request_id: &str,
        id: InstanceId,
        user: &str,
        database: &str,
    ) -> Result<Accepted> {
        let subject = self.open(caller, id, databases::CAPABILITY).await?;
        let user = self.present_user(&subject, user).await?;
        if !user.databases.iter().any(|granted| granted == database) {
            let (user, database) = (shown(&user.name), shown(database));
            return Err(Error::NotFound(format!("User {user} has no access to database {database}.")));
        }
        let change = AccountChange::Revoke { account: user.into(), database: database.to_owned() };
        self.queue(caller, request_id, &subject, vec![change]).await
    }

    /// The account that is to be changed, once the instance is ready.
    async fn present_user(&self, subject: &InstanceContext, user: &str) -> Result<User> {
        let user = account(&subject.manifest.identity.users, user);
        names::check(&subject.manifest.identity.users.names, "User", &user.name)?;
        self.await_ready(subject).await?;
        self.user(subject, &user).await
    }

    /// The accounts that are not reserved, asked of the agent.
    async fn users(&self, subject: &InstanceContext) -> Result<Vec<User>> {
        let id = subject.instance.id;
        let users = answer(id, self.agents.list_users(id).await)?;
        let rules = &subject.manifest.identity.users.names;
        let users = users.into_iter().filter_map(from_wire);
        Ok(users.filter(|user| !rules.is_reserved(&user.name)).collect())
    }

    async fn user(&self, subject: &InstanceContext, user: &UserRef) -> Result<User> {
        let id = subject.instance.id;
        let account = v1::Account { name: user.name.clone(), host: user.host.clone() };
        let found = answer(id, self.agents.get_user(id, account).await)?;
        found.and_then(from_wire).ok_or_else(|| no_user(user))
    }
}

impl UserRef {
    fn is(&self, user: &User) -> bool {
        self.name == user.name && self.host == user.host
    }
}

/// What the account will be called, if that is allowed.
fn check_change(subject: &InstanceContext, user: &UserRef, change: &UserChange) -> Result<UserRef> {
    let identity = &subject.manifest.identity;
    let whose = shown(&user.name);
    let target = UserRef {
        name: change.name.clone().unwrap_or_else(|| user.name.clone()),
        host: change.host.clone().unwrap_or_else(|| user.host.clone()),
    };
    if change.name.is_none() && change.host.is_none() && change.password.is_none() {
        return Err(Error::BadRequest(format!("Nothing is to be changed of user {whose}.")));
    }
    if target.name != user.name && !identity.users.rename {
        let datastore = &identity.name;
        return Err(Error::BadRequest(format!("User {whose} of {datastore} cannot be renamed.")));
    }
    if target != *user {
        refuse_root(identity, &user.name)?;
        refuse_root(identity, &target.name)?;
        check_account(identity, &target.name, &target.host)?;
    }
    if let Some(password) = &change.password {
        names::check_password(&identity.users.passwords, &format!("user {whose}"), password, 1)?;
    }
    Ok(target)
}

/// An account without a name is no account.
fn from_wire(user: v1::User) -> Option<User> {
    let account = user.account?;
    let host = if account.host.is_empty() { ANY_HOST.to_owned() } else { account.host };
    Some(User { name: account.name, host, databases: user.databases })
}

fn no_user(user: &UserRef) -> Error {
    Error::NotFound(format!("User {} cannot be found on host {}.", shown(&user.name), shown(&user.host)))
}

fn exists(name: &str, host: &str) -> Error {
    Error::BadRequest(format!("A user with the name {} and host {} already exists.", shown(name), shown(host)))
}

#[cfg(test)]
mod tests;
