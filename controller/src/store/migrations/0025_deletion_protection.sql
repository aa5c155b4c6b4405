-- Whether an instance is kept from being deleted.

alter table instance add column deletion_protection boolean not null default false;
