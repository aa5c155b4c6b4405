-- What an administrator allows a project in place of the configuration, which versions were taken away, and who last
-- enabled root.

create table quota (
    project_id text not null,
    -- `instances`, `ram` (MiB), `volumes` (GiB) or `backups`.
    resource text not null,
    -- -1 is unlimited.
    hard_limit bigint not null,
    primary key (project_id, resource)
);

-- When an administrator took it away; it stays for the instances that were made of it.
alter table datastore add column removed bigint;
alter table datastore_version add column removed bigint;
-- Tells the agent program that made the manifest from a later one.
alter table datastore_version add column agent_print text;

-- When root was last enabled and by which user id; a disable leaves it.
alter table instance add column root_last_enabled_at bigint;
alter table instance add column root_last_enabled_by text;
update instance set root_last_enabled_at = root_enabled_at, root_last_enabled_by = root_enabled_by;
