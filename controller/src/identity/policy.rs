//! What a role may: Trove's rule names with its defaults, in one table.

use super::Caller;
use crate::error::{Error, Result};
use crate::ids::ProjectId;

/// Who passes a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Who {
    /// Whoever has a token.
    Anyone,
    /// The project's own members, and administrators; readers may only read.
    AdminOrOwner,
    /// Administrators.
    Admin,
}

/// Rules that differ from the default, which is [`Who::AdminOrOwner`].
const RULES: &[(&str, Who)] = &[
    ("instance:reset_status", Who::Admin),
    ("cluster:reset-status", Who::Admin),
    ("datastore:delete", Who::Admin),
    ("backup:index:all_projects", Who::Admin),
    ("datastore:index", Who::Anyone),
    ("datastore:show", Who::Anyone),
    ("datastore:version_show", Who::Anyone),
    ("datastore:version_show_by_uuid", Who::Anyone),
    ("datastore:version_index", Who::Anyone),
    ("datastore:list_associated_flavors", Who::Anyone),
    ("datastore:list_associated_volume_types", Who::Anyone),
    ("flavor:index", Who::Anyone),
    ("flavor:show", Who::Anyone),
];

/// Last words of rules that read.
const READS: &[&str] =
    &["index", "show", "detail", "list", "limits:index", "guest_log_list", "backups", "configuration"];

fn reads(rule: &str) -> bool {
    READS.iter().any(|word| rule.ends_with(word))
}

/// Whether the caller may do what the rule stands for, on something of this project.
///
/// # Errors
/// 403.
pub fn check(rule: &str, caller: &Caller, project: &ProjectId) -> Result<()> {
    let who = RULES.iter().find(|(name, _)| *name == rule).map_or(Who::AdminOrOwner, |(_, who)| *who);
    let has = |role: &str| caller.roles.iter().any(|own| own == role);
    let owner = caller.project == *project && (has("member") || (has("reader") && reads(rule)));
    let passes = match who {
        Who::Anyone => true,
        Who::AdminOrOwner => caller.is_admin() || owner,
        Who::Admin => caller.is_admin(),
    };
    if passes { Ok(()) } else { Err(Error::Forbidden(format!("Policy does not allow {rule} to be performed."))) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caller(role: &str) -> Caller {
        Caller { user_id: "u".into(), project: ProjectId("p".into()), roles: vec![role.into()] }
    }

    #[test]
    fn each_role_may_what_the_table_says() {
        let (own, other) = (ProjectId("p".into()), ProjectId("q".into()));
        for (rule, role, project, passes) in [
            ("instance:create", "member", &own, true),
            ("instance:create", "member", &other, false),
            ("instance:create", "reader", &own, false),
            ("instance:index", "reader", &own, true),
            ("instance:extension:user:show", "reader", &own, true),
            ("instance:extension:user:create", "reader", &own, false),
            ("instance:show", "stranger", &own, false),
            ("instance:reset_status", "member", &own, false),
            ("backup:index:all_projects", "member", &own, false),
            ("instance:reset_status", "admin", &other, true),
            ("flavor:index", "stranger", &other, true),
        ] {
            assert_eq!(check(rule, &caller(role), project).is_ok(), passes, "{rule} by {role}");
        }
    }
}
