-- What an administrator allows a project in place of the configuration, what was taken out of the list of versions,
-- and who last enabled root.

create table quota (
    project_id text not null,
    -- `instances`, `ram` (MiB), `volumes` (GiB) or `backups`.
    resource text not null,
    -- -1 is unlimited.
    hard_limit bigint not null,
    primary key (project_id, resource)
);

-- Engines that are installed and that an administrator does not want to be registered by themselves.
create table removed_installation (
    datastore text not null,
    bindir text not null,
    primary key (datastore, bindir)
);

-- When root was last enabled and by which user id; a disable leaves it.
alter table instance add column root_last_enabled_at bigint;
alter table instance add column root_last_enabled_by text;
update instance set root_last_enabled_at = root_enabled_at, root_last_enabled_by = root_enabled_by;

-- Tells the agent program that made the manifest from a later one.
alter table datastore_version add column agent_print text;
