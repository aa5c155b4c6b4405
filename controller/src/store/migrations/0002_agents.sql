-- 0002_agents: what agents last said, who hears them, how they enrol, and the two authorities.
-- No foreign keys onto `instance`: a row may be written in the moment in which an instance is deleted; the statements
-- that write say `where exists`, and the delete operation removes the rest.

-- What an agent last said; written on change only.
create table agent (
    instance_id text primary key,
    service text not null,
    service_detail text not null,
    service_updated bigint not null,
    engine_version text not null,
    volume_used_bytes bigint not null,
    assignment_generation bigint not null
);

-- Which controller hears which agent; `lost_at` is null for as long as it does.
create table agent_link (
    instance_id text not null,
    controller_id text not null,
    connected_at bigint not null,
    lost_at bigint,
    primary key (instance_id, controller_id)
);

create index agent_link_controller on agent_link (controller_id);

-- Single-use tokens, by their SHA-256 (base64); `used_key_hash` is that of the public key for which one was used.
create table enrolment_token (
    hash text primary key,
    instance_id text not null,
    generation bigint not null,
    expires_at bigint not null,
    used_key_hash text
);

create index enrolment_token_instance on enrolment_token (instance_id);

-- The authorities; the private key is sealed.
create table authority (
    name text primary key,
    certificate_pem text not null,
    sealed_key text not null,
    created bigint not null
);
