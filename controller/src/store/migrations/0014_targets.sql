-- Operations with several targets: a row for each step and target, and lanes that let a backup run beside changes of accounts.

create table operation_next (
    id text not null primary key,
    -- Order of asking; the operations of a target are done in it, except for lanes that may run beside each other.
    seq bigint not null unique,
    kind text not null,
    version bigint not null,
    project_id text not null,
    request_id text not null,
    user_id text not null,
    -- True until it has ended: `queued`, `running`, `undoing`, `stuck` are active; `done`, `failed`, `cancelled` are not.
    active boolean not null,
    status text not null,
    -- JSON that all targets share, secrets in it sealed; emptied when the operation ends.
    state text not null,
    -- Index of the stage that comes next; while undoing, one more than that of the stage whose undo comes next.
    position bigint not null,
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

create table operation_step_next (
    operation_id text not null,
    -- Index of the stage.
    n bigint not null,
    -- The target: the id of an instance.
    target text not null,
    name text not null,
    -- `pending`, `running`, `done`, `failed`, `undone`.
    status text not null,
    -- Grows when the step is done anew after a recorded failure; part of the key of an agent's job.
    attempt bigint not null,
    -- The database's clock: deadlines count from the first start.
    started bigint,
    finished bigint,
    -- When its undo first began, and when it was done.
    undo_started bigint,
    undo_finished bigint,
    -- JSON: stage, done, total, unit.
    progress text,
    -- Why it failed, or why it is tried again.
    error text,
    primary key (operation_id, n, target)
);

create table operation_target_next (
    operation_id text not null,
    -- The id of an instance.
    resource text not null,
    -- That of the operation.
    seq bigint not null,
    -- `lifecycle`, `accounts` or `backup`.
    lane text not null,
    -- True until the operation has ended.
    active boolean not null,
    -- While true no other operation of an exclusive lane may be asked for on this resource.
    exclusive boolean not null,
    -- JSON of what the operation knows of this target, secrets in it sealed; emptied when the operation ends.
    state text not null,
    primary key (operation_id, resource)
);

insert into operation_next (id, seq, kind, version, project_id, request_id, user_id, active, status, state, position, error,
    owner, lease_until, fence, not_before, cancel, created, started, finished, changed)
    select id, seq, kind, version, project_id, request_id, user_id, status in ('queued', 'running', 'undoing', 'stuck'), status,
    case when status in ('queued', 'running', 'undoing', 'stuck')
        and kind in ('restart_instance', 'stop_instance', 'delete_instance', 'reboot_instance') then 'null' else state end, position, error, owner, lease_until, fence, not_before, cancel, created, started, finished, changed from operation;
insert into operation_step_next (operation_id, n, target, name, status, attempt, started, finished, undo_started, progress, error)
    select s.operation_id, s.n, o.instance_id, s.name, s.status, case when s.n = o.position then o.attempt else 1 end, s.started,
    s.finished, s.undo_started, s.progress, s.error from operation_step s join operation o on o.id = s.operation_id;
insert into operation_target_next (operation_id, resource, seq, lane, active, exclusive, state)
    select t.operation_id, t.resource, o.seq, t.lane, o.status in ('queued', 'running', 'undoing', 'stuck'),
    t.active and t.lane = 'lifecycle', 'null' from operation_target t join operation o on o.id = t.operation_id;

drop table operation_step;
drop table operation_target;
drop table operation;
alter table operation_next rename to operation;
alter table operation_step_next rename to operation_step;
alter table operation_target_next rename to operation_target;

-- What is left to do, in order; small, since ended operations are not in it.
create index operation_active on operation (seq) where active;
-- The event stream reads the operations of a project that have changed since.
create index operation_by_change on operation (project_id, changed);
create index operation_target_active on operation_target (resource, seq) where active;
create index operation_target_by_resource on operation_target (resource, seq);
create unique index operation_target_exclusive on operation_target (resource) where exclusive;
