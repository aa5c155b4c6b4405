-- Logs of writes that are shipped, piece by piece, so that an instance can be made as it was at any moment.

-- The instances of which it is shipped. The row goes with its instance; what was stored goes when it is old enough.
create table log_shipping (
    instance_id text not null primary key,
    project_id text not null,
    -- How long what was stored is kept.
    keep_seconds bigint not null,
    updated bigint not null
);

-- Pieces of a day or less, with a key pair of their own.
create table log_container (
    id text not null primary key,
    instance_id text not null,
    project_id text not null,
    -- Grows within an instance.
    number bigint not null,
    -- The first of the containers that follow one another without a gap.
    chain text not null,
    recipient text not null,
    identity text not null,
    -- Where its first piece begins, and where the last one ends, in the engine's words.
    begins text not null,
    ends text not null,
    -- Whatever was acknowledged before this is stored; microseconds since 1970, by the guest's clock.
    covered bigint,
    keep_seconds bigint not null,
    pieces bigint not null,
    bytes bigint not null,
    -- When the last piece was recorded, or the container was made.
    recorded bigint not null,
    -- Its objects are being removed.
    is_deleted boolean not null default false,
    created bigint not null
);

create unique index log_container_by_instance on log_container (instance_id, number);

create table log_piece (
    container_id text not null,
    -- Its place within the container.
    number bigint not null,
    -- Its object.
    run text not null,
    object bigint not null,
    begins text not null,
    ends text not null,
    bytes bigint not null,
    sum text not null,
    -- What it takes on a volume that it is replayed on.
    data_bytes bigint not null,
    -- As that of the container, when this was its last piece.
    covered bigint,
    recorded bigint not null,
    primary key (container_id, number)
);

create unique index log_piece_by_object on log_piece (container_id, run, object);
