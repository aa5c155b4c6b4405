-- The greatest fence under which something that the compute driver said of the host was written.
alter table instance add column host_fence bigint not null default 0;
