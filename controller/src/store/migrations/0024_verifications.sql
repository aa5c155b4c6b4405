-- Verifications of backups: a backup is restored to a scratch instance and checked there.

-- What an instance is for that is no tenant's: `verification`. Null: a tenant's own.
alter table instance add column purpose text;
create index instance_by_purpose on instance (purpose) where purpose is not null and deleted is null;

-- The last verification: `running`, `passed` or `failed`, the operation that does it, since when it runs or when it ended,
-- and why it failed. Null: there was none.
alter table backup add column verification text;
alter table backup add column verification_operation_id text;
alter table backup add column verification_at bigint;
alter table backup add column verification_fault text;
create index backup_being_verified on backup (verification) where verification = 'running';
