//! Databases, accounts, grants and root of an instance. Questions go to the agent; changes are queued in order.
//!
//! SKELETON of the interface between `api` and `app`; bodies follow.

use secrecy::SecretString;

use super::instances::Accepted;
use super::{App, Page, PageRequest};
use crate::error::Result;
use crate::identity::Caller;
use crate::ids::InstanceId;

/// A database to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewDatabase {
    /// Its name.
    pub name: String,
    /// The engine's name of a character set.
    pub character_set: Option<String>,
    /// The engine's name of a collation.
    pub collation: Option<String>,
}

/// An account to be made.
#[derive(Clone, Debug)]
pub struct NewUser {
    /// Its name.
    pub name: String,
    /// The hosts it may come from, `%` for any.
    pub host: String,
    /// Its password.
    pub password: SecretString,
    /// The databases it may enter.
    pub databases: Vec<String>,
}

/// An account, as the agent lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// Its name.
    pub name: String,
    /// The hosts it may come from.
    pub host: String,
    /// The databases it may enter.
    pub databases: Vec<String>,
}

/// Which account: `name` or `name@host` of the path, already parsed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserRef {
    /// Its name.
    pub name: String,
    /// Its host, `%` where none was given.
    pub host: String,
}

/// What is to become of an account.
#[derive(Clone, Debug, Default)]
pub struct UserChange {
    /// A new name.
    pub name: Option<String>,
    /// New hosts.
    pub host: Option<String>,
    /// A new password.
    pub password: Option<SecretString>,
}

/// The password of root, as it is shown once.
#[derive(Clone, Debug)]
pub struct RootAccount {
    /// The account's name.
    pub name: String,
    /// Its password.
    pub password: SecretString,
    /// The operation that makes it so has ended by the time of the answer.
    pub operation: crate::ids::OperationId,
}

#[allow(unused_variables)]
impl App {
    /// Databases by name. Errors: 404; 422 not ready, or the datastore has none.
    pub async fn list_databases(&self, caller: &Caller, id: InstanceId, page: PageRequest) -> Result<Page<String>> {
        todo!()
    }
    /// Queues their creation. Errors: 400 name, duplicate or exists; 404; 422.
    pub async fn create_databases(
        &self,
        caller: &Caller,
        request_id: &str,
        id: InstanceId,
        databases: Vec<NewDatabase>,
    ) -> Result<Accepted> {
        todo!()
    }
    /// Queues its removal. Errors: 400 reserved; 404; 422.
    pub async fn delete_database(
        &self,
        caller: &Caller,
        request_id: &str,
        id: InstanceId,
        name: &str,
    ) -> Result<Accepted> {
        todo!()
    }
    /// Accounts by name and host. Errors: 404; 422.
    pub async fn list_users(&self, caller: &Caller, id: InstanceId, page: PageRequest) -> Result<Page<User>> {
        todo!()
    }
    /// One account. Errors: 404; 422.
    pub async fn get_user(&self, caller: &Caller, id: InstanceId, user: &UserRef) -> Result<User> {
        todo!()
    }
    /// Queues their creation. Errors: 400 name, duplicate or exists, unknown database; 404; 422.
    pub async fn create_users(
        &self,
        caller: &Caller,
        request_id: &str,
        id: InstanceId,
        users: Vec<NewUser>,
    ) -> Result<Accepted> {
        todo!()
    }
    /// Queues new passwords. Errors: 400; 404 unknown account; 422.
    pub async fn change_passwords(
        &self,
        caller: &Caller,
        request_id: &str,
        id: InstanceId,
        users: Vec<(UserRef, SecretString)>,
    ) -> Result<Accepted> {
        todo!()
    }
    /// Queues a change. Errors: 400 name taken or not allowed; 404; 422.
    pub async fn change_user(
        &self,
        caller: &Caller,
        request_id: &str,
        id: InstanceId,
        user: &UserRef,
        change: UserChange,
    ) -> Result<Accepted> {
        todo!()
    }
    /// Queues its removal. Errors: 400 reserved; 404; 422.
    pub async fn delete_user(
        &self,
        caller: &Caller,
        request_id: &str,
        id: InstanceId,
        user: &UserRef,
    ) -> Result<Accepted> {
        todo!()
    }
    /// Queues grants. Errors: 400; 404 unknown account or database; 422.
    pub async fn grant(
        &self,
        caller: &Caller,
        request_id: &str,
        id: InstanceId,
        user: &UserRef,
        databases: Vec<String>,
    ) -> Result<Accepted> {
        todo!()
    }
    /// Queues a revocation. Errors: 404 no such account or grant; 422.
    pub async fn revoke(
        &self,
        caller: &Caller,
        request_id: &str,
        id: InstanceId,
        user: &UserRef,
        database: &str,
    ) -> Result<Accepted> {
        todo!()
    }
    /// Whether root is enabled, from the store. Errors: 404; 422.
    pub async fn root_enabled(&self, caller: &Caller, id: InstanceId) -> Result<bool> {
        todo!()
    }
    /// Enables root, or gives it a new password, and waits until that is so (20 s, else 422 with the operation going on).
    pub async fn enable_root(
        &self,
        caller: &Caller,
        request_id: &str,
        id: InstanceId,
        password: Option<SecretString>,
    ) -> Result<RootAccount> {
        todo!()
    }
    /// Disables root. Errors: 404 never enabled; 422.
    pub async fn disable_root(&self, caller: &Caller, request_id: &str, id: InstanceId) -> Result<Accepted> {
        todo!()
    }
}
