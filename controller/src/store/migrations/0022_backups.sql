-- Backups, and how a project wants them labelled.

create table backup (
    id text not null primary key,
    project_id text not null,
    name text not null,
    description text,
    -- The source. Its row stays when it is deleted, and the backup too.
    instance_id text not null,
    -- What the source was when the backup was asked for: versions change, and may be taken away.
    datastore_id text not null,
    datastore_name text not null,
    version_id text not null,
    version_name text not null,
    version_number text not null,
    -- Within it data directories are compatible.
    major text not null,
    -- The source's volume; 0 without one.
    volume_gib bigint not null,
    -- Who had enabled root on the source.
    root_by text,
    -- `NEW`, `BUILDING`, `SAVING`, `COMPLETED`, `FAILED`; `DELETING`, `DELETE_FAILED`.
    state text not null,
    -- The backup that it builds on.
    parent_id text,
    -- The operation that takes it.
    operation_id text not null,
    -- age's public key, and the secret one, sealed.
    recipient text not null,
    identity text not null,
    -- Of a completed one: the run that is the backup, the BLAKE3 sum of its manifest, sizes, and how far the engine's log had come.
    run text,
    manifest_sum text,
    data_bytes bigint,
    stored_bytes bigint,
    position text,
    -- Why it failed, or cannot be deleted.
    fault text,
    -- Whether what a failed one has written is still to be removed.
    leftovers boolean not null,
    created bigint not null,
    updated bigint not null
);

-- A list reads its page from here, the last changed first.
create index backup_by_project on backup (project_id, updated, id);
create index backup_by_instance on backup (instance_id, state);
create index backup_by_version on backup (version_id);
-- Those whose objects are to be removed.
create index backup_unwanted on backup (state) where state <> 'COMPLETED';

create table backup_strategy (
    project_id text not null,
    -- The instance that it is for; empty: all others of the project.
    instance_id text not null,
    swift_container text not null,
    primary key (project_id, instance_id)
);
