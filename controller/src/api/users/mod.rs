//! Accounts of an instance, and what they may enter.

pub(super) mod access;
pub(super) mod change;
pub(super) mod create;
pub(super) mod delete;
pub(super) mod list;
pub(super) mod show;

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::api::databases::DatabaseName;
use crate::api::http::fields::Host;
use crate::app::accounts::{ANY_HOST, User};

fn host(given: Option<Host>) -> String {
    given.map_or_else(|| ANY_HOST.to_owned(), |host| host.0)
}

fn names(databases: Option<Vec<DatabaseName>>) -> Vec<String> {
    databases.into_iter().flatten().map(|database| database.name).collect()
}

fn by_name(databases: Vec<String>) -> Vec<DatabaseName> {
    databases.into_iter().map(|name| DatabaseName { name }).collect()
}

/// An account.
#[derive(Serialize, ToSchema)]
struct UserView {
    name: String,
    host: String,
    databases: Vec<DatabaseName>,
}

impl From<User> for UserView {
    fn from(user: User) -> Self {
        Self { name: user.name, host: user.host, databases: by_name(user.databases) }
    }
}

#[derive(Deserialize, IntoParams)]
pub(in crate::api) struct OfUser {
    /// The instance.
    #[param(value_type = Uuid)]
    id: String,
    /// The name of the account; `name@host` where accounts have hosts.
    user: String,
}
