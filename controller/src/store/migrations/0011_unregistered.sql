-- Engines that are installed and could not be registered, as the last look at this machine found them, and why.
create table unregistered (
    -- Empty where the agent program itself could not be asked.
    datastore text not null,
    -- Empty where the datastore is not installed at all.
    bindir text not null,
    version text not null,
    reason text not null,
    since bigint not null,
    primary key (datastore, bindir)
);
