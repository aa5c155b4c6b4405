-- When backups are taken by themselves, and how long they are kept.

create table backup_schedule (
    id text not null primary key,
    project_id text not null,
    -- The rows of an instance go when it is deleted.
    instance_id text not null,
    -- Who made it.
    user_id text not null,
    -- One of them: an expression of five fields, UTC; or seconds, counted from `anchor`.
    cron text,
    interval_seconds bigint,
    anchor bigint not null,
    -- One of them at least: how many are kept, and for how long.
    keep_count bigint,
    keep_seconds bigint,
    paused boolean not null,
    -- When its next backup is to be begun. Whoever begins or skips one moves this in the same transaction.
    next_due bigint not null,
    -- How often that was tried in vain.
    tries bigint not null,
    -- When one was begun last, and which.
    last_run bigint,
    last_backup_id text,
    -- Why the last one was not begun, or has failed.
    fault text,
    created bigint not null,
    updated bigint not null
);

create index backup_schedule_by_due on backup_schedule (next_due, id);
create index backup_schedule_by_instance on backup_schedule (instance_id);
create index backup_schedule_by_project on backup_schedule (project_id, id);

-- The schedule that has made it, which may be deleted.
alter table backup add column schedule_id text;
create index backup_by_schedule on backup (schedule_id, state) where schedule_id is not null;
