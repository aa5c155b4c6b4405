-- Datastores, the instances of them, and what projects use. Times are microseconds since 1970 (UTC).

create table datastore (
    id text not null primary key,
    name text not null unique,
    -- The version that is meant when an order names none.
    default_version_id text
);

create table datastore_version (
    id text not null primary key,
    datastore_id text not null references datastore (id),
    name text not null,
    number text not null,
    -- The directory of the engine's server programs: what an image is to other drivers.
    bindir text not null,
    -- Whether instances of it can be ordered.
    active boolean not null,
    -- Path of the agent program; null is the one beside the controller.
    agent_program text,
    -- JSON, as `trove-agent manifest` prints it.
    manifest text not null,
    unique (datastore_id, name, bindir)
);

create table instance (
    id text not null primary key,
    project_id text not null,
    name text not null,
    flavor_id text not null,
    flavor_name text not null,
    ram_mib bigint not null,
    vcpus bigint not null,
    volume_gib bigint not null,
    version_id text not null references datastore_version (id),
    region text not null,
    availability_zone text,
    address text,
    port bigint not null,
    -- JSON as it was ordered: an object or null, and a list.
    access text,
    nics text not null,
    task text not null,
    host text not null,
    -- Grows when the host is made anew.
    generation bigint not null,
    fault_message text,
    fault_details text,
    fault_created bigint,
    root_enabled_at bigint,
    root_enabled_by text,
    created bigint not null,
    updated bigint not null,
    deleted bigint
);

-- A list of a project's instances reads its page from here.
create index instance_by_project on instance (project_id, id) where deleted is null;
-- The management list.
create index instance_by_update on instance (updated, id);
create index instance_by_version on instance (version_id);
-- No two engines on one address, until one of them is gone.
create unique index instance_by_address on instance (address, port) where deleted is null;

-- What the instances of a project that are not deleted use: counted in the transaction that inserts or deletes one.
create table usage (
    project_id text not null,
    -- `instances`, `ram` (MiB) or `volumes` (GiB).
    resource text not null,
    in_use bigint not null,
    primary key (project_id, resource)
);
