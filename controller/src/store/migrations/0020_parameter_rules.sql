-- What administrators say of parameters beside the manifest: they hide some, and narrow others.

create table parameter_rule (
    version_id text not null references datastore_version (id),
    -- The engine's own name.
    name text not null,
    -- Whether nobody may set it.
    hidden boolean not null,
    -- Whether a change is shown as one that acts after a restart.
    restart_required boolean not null,
    -- JSON numbers.
    min text,
    max text,
    primary key (version_id, name)
);
