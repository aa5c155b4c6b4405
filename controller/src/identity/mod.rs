//! Who asks, and what they may.

use crate::ids::ProjectId;

pub mod builtin;
pub mod policy;

/// The verified bearer of a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// The user's id.
    pub user_id: String,
    /// The project that the token is scoped to.
    pub project: ProjectId,
    /// The roles in it.
    pub roles: Vec<String>,
}

impl Caller {
    /// Whether the caller has Trove's admin context.
    pub fn is_admin(&self) -> bool {
        self.roles.iter().any(|role| role == "admin")
    }
}
