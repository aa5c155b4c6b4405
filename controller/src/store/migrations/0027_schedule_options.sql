-- More of schedules of backups: verifications that they have made by themselves, and increments.

-- How often one of a schedule's backups is verified; null: never.
alter table backup_schedule add column verify_seconds bigint;
-- A backup that was begun at this time or later is verified once it is complete. Whoever begins that moves this in the same
-- transaction.
alter table backup_schedule add column verify_due bigint not null default 0;
-- The last verification of one of its backups, which may be deleted; as in `backup`.
alter table backup_schedule add column verification text;
alter table backup_schedule add column verification_backup_id text;
alter table backup_schedule add column verification_operation_id text;
alter table backup_schedule add column verification_at bigint;
alter table backup_schedule add column verification_fault text;

-- In each such interval the first backup is a full one, and the others build on it; null: all are full ones.
alter table backup_schedule add column full_every_seconds bigint;

-- Each week, as of a new one; beginning with the next backup, so that not all begin at once.
update backup_schedule set verify_seconds = 604800, verify_due = next_due;
