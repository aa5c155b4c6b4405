-- Steps and targets without a foreign key to their operation: the three are written in one transaction by one method and never
-- deleted, and the database would look the operation up again for each of an order's rows.

create table operation_step_next (
    operation_id text not null,
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
insert into operation_step_next (operation_id, n, name, status, started, finished, undo_started, progress, error)
    select operation_id, n, name, status, started, finished, undo_started, progress, error from operation_step;
drop table operation_step;
alter table operation_step_next rename to operation_step;

-- What an operation holds. One life-cycle operation holds a resource at a time.
create table operation_target_next (
    operation_id text not null,
    resource text not null,
    lane text not null,
    active boolean not null,
    primary key (operation_id, resource)
);
insert into operation_target_next (operation_id, resource, lane, active)
    select operation_id, resource, lane, active from operation_target;
drop table operation_target;
alter table operation_target_next rename to operation_target;
create unique index operation_target_lifecycle on operation_target (resource) where active and lane = 'lifecycle';
