-- The account of an instance's engine on a machine that engines share; null where it has none of its own.
alter table instance add column engine_uid bigint;
create unique index instance_engine_uid on instance (engine_uid) where engine_uid is not null and deleted is null;
