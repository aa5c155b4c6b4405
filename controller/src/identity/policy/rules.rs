//! Default rules. They are Trove's, with two differences: writing requires the role member, and the role reader may
//! read.

/// Rules to which the others refer.
const BASE: &[(&str, &str)] = &[
    ("context_is_admin", "role:admin"),
    ("admin", "is_admin:True"),
    ("admin_or_owner", "rule:admin or (role:member and project_id:%(project_id)s)"),
    // Not in Trove: used for rules that read.
    ("admin_or_reader", "rule:admin_or_owner or (role:reader and project_id:%(project_id)s)"),
    ("default", "rule:admin_or_owner"),
];

const ADMIN: &[&str] =
    &["backup:index:all_projects", "cluster:reset-status", "datastore:delete", "instance:reset_status"];

const ANYONE: &[&str] = &[
    "datastore:index",
    "datastore:list_associated_flavors",
    "datastore:list_associated_volume_types",
    "datastore:show",
    "datastore:version_index",
    "datastore:version_show",
    "datastore:version_show_by_uuid",
    "flavor:index",
    "flavor:show",
];

const READS: &[&str] = &[
    "backup:index",
    "backup:show",
    // Not in Trove, as the others of schedules.
    "backup_schedule:index",
    "backup_schedule:show",
    "backup_strategy:index",
    "cluster:extension:root:index",
    "cluster:index",
    "cluster:show",
    "cluster:show_instance",
    "configuration-parameter:index",
    "configuration-parameter:index_by_version",
    "configuration-parameter:show",
    "configuration-parameter:show_by_version",
    "configuration:index",
    "configuration:instances",
    "configuration:show",
    "instance:backups",
    "instance:configuration",
    "instance:detail",
    "instance:extension:database:index",
    "instance:extension:database:show",
    "instance:extension:root:index",
    "instance:extension:user:index",
    "instance:extension:user:show",
    "instance:extension:user_access:index",
    "instance:guest_log_list",
    "instance:index",
    "instance:module_list",
    "instance:show",
    "limits:index",
    "module:index",
    "module:instances",
    "module:show",
    // Not in Trove, which checks no rule here.
    "quota:show",
];

const WRITES: &[&str] = &[
    "backup:create",
    "backup:delete",
    "backup_schedule:create",
    "backup_schedule:delete",
    "backup_schedule:update",
    // Not in Trove.
    "backup:verify",
    "backup_strategy:create",
    "backup_strategy:delete",
    "cluster:action",
    "cluster:create",
    "cluster:delete",
    "cluster:extension:root:create",
    "cluster:extension:root:delete",
    "cluster:force_delete",
    "configuration:create",
    "configuration:delete",
    "configuration:edit",
    "configuration:update",
    "instance:create",
    "instance:delete",
    "instance:edit",
    "instance:eject_replica_source",
    "instance:extension:database:create",
    "instance:extension:database:delete",
    "instance:extension:root:create",
    "instance:extension:root:delete",
    "instance:extension:user:create",
    "instance:extension:user:delete",
    "instance:extension:user:update",
    "instance:extension:user:update_all",
    "instance:extension:user_access:delete",
    "instance:extension:user_access:update",
    "instance:force_delete",
    "instance:module_apply",
    "instance:module_remove",
    "instance:promote_to_replica_source",
    "instance:resize_flavor",
    "instance:resize_volume",
    "instance:restart",
    "instance:update",
    "module:create",
    "module:delete",
    "module:reapply",
    "module:update",
];

/// Every rule with its default.
pub(super) fn defaults() -> impl Iterator<Item = (&'static str, &'static str)> {
    let same = |names: &'static [&'static str], expression| names.iter().map(move |name| (*name, expression));
    (BASE.iter().copied())
        .chain(same(ADMIN, "rule:admin"))
        .chain(same(ANYONE, "@"))
        .chain(same(READS, "rule:admin_or_reader"))
        .chain(same(WRITES, "rule:admin_or_owner"))
}
