-- What an increment on a completed backup begins at; null when nothing builds on it.

alter table backup add column checkpoint text;
-- The increments on a backup.
create index backup_by_parent on backup (parent_id) where parent_id is not null;
