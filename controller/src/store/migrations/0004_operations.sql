-- 0004_operations: what was asked for and is done step by step, and what each guest was assigned.

-- Numbers that only grow: `operation` (order of asking), `fence` (leases), `change` (versions of operations).
create table counter (
    name text not null primary key,
    value bigint not null
);

create table operation (
    id text not null primary key,
    -- Order of asking; the operations of an instance are done in it.
    seq bigint not null unique,
    kind text not null,
    version bigint not null,
    project_id text not null,
    instance_id text not null,
    -- `lifecycle` or `accounts`.
    lane text not null,
    request_id text not null,
    user_id text not null,
    -- `queued`, `running`, `undoing`, `stuck` while active; then `done`, `failed` or `cancelled`.
    status text not null,
    -- JSON, secrets in it sealed; emptied when the operation ends.
    state text not null,
    -- JSON: the names of the steps, in order.
    steps text not null,
    -- Index of the step that comes next; while undoing, one more than that of the step whose undo comes next.
    position bigint not null,
    -- Grows when a step is done anew after a recorded failure; part of the key of an agent's job.
    attempt bigint not null,
    -- Why it failed.
    error text,
    -- The controller that has it, until when (the database's clock), and the number under which it writes.
    owner text,
    lease_until bigint not null,
    fence bigint not null,
    -- Not to be taken before this time (the database's clock).
    not_before bigint not null,
    -- Asked to end at its next safe point.
    cancel boolean not null,
    created bigint not null,
    started bigint,
    finished bigint,
    -- Drawn from `change` at each write of the operation or of a step of it.
    changed bigint not null
);

-- What is left to do, in order; small, since ended operations are not in it.
create index operation_active on operation (instance_id, seq)
    where status in ('queued', 'running', 'undoing', 'stuck');
create index operation_by_instance on operation (instance_id, seq);

create table operation_step (
    operation_id text not null references operation (id),
    n bigint not null,
    name text not null,
    -- `pending`, `running`, `done`, `failed`, `undone`.
    status text not null,
    -- The database's clock: deadlines count from the first start.
    started bigint,
    finished bigint,
    -- When its undo first began.
    undo_started bigint,
    -- JSON: stage, done, total, unit.
    progress text,
    -- Why it failed, or why it is tried again.
    error text,
    primary key (operation_id, n)
);

-- What an operation holds. One life-cycle operation holds a resource at a time.
create table operation_target (
    operation_id text not null references operation (id),
    resource text not null,
    lane text not null,
    active boolean not null,
    primary key (operation_id, resource)
);
create unique index operation_target_lifecycle on operation_target (resource) where active and lane = 'lifecycle';

-- What must stay true in the guest of an instance.
create table assignment (
    instance_id text not null primary key,
    -- Grows with each change.
    generation bigint not null,
    -- JSON of the part that follows from the configuration.
    specification text not null,
    certificate_pem text not null,
    -- PEM, sealed.
    key_sealed text not null,
    authority_pem text not null,
    not_after bigint not null
);
