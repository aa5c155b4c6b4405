-- Configuration groups, and what instances run with of theirs.

create table configuration (
    id text not null primary key,
    project_id text not null,
    name text not null,
    description text,
    version_id text not null references datastore_version (id),
    -- JSON object: values by the engine's names of the parameters, of the types that the manifest says.
    parameters text not null,
    created bigint not null,
    updated bigint not null
);

-- A list of a project's groups reads its page from here.
create index configuration_by_project on configuration (project_id, id);
-- A version is not taken away under a group.
create index configuration_by_version on configuration (version_id);

alter table instance add column configuration_id text references configuration (id);
-- JSON object by parameter: what became of each value, `{"state": "live", "needs_restart" or "refused", "reason"}`.
alter table instance add column parameter_results text;
-- The instances of a group.
create index instance_by_configuration on instance (configuration_id, id) where configuration_id is not null;
