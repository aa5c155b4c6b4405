-- 0005_controllers: the controllers that share this store.

create table controller (
    id text not null primary key,
    -- Where agents reach it, host:port.
    agents_address text not null,
    -- Where its driver keeps hosts; null when every controller reaches them. Controllers of one place see each other's.
    place text,
    version text not null,
    -- The database's clock: taken for dead after this. Without other controllers, never.
    seen_until bigint not null
);
