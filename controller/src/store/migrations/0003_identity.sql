-- The built-in identity: its users, each with one project, and the tokens that they hold.
create table identity_user (
    id text not null primary key,
    name text not null unique,
    -- argon2id, PHC string.
    password_hash text not null,
    project_id text not null,
    project_name text not null,
    -- JSON list of names.
    roles text not null
);

create table identity_token (
    -- SHA-256 of the token, hex: who reads this table cannot use it.
    hash text not null primary key,
    user_id text not null references identity_user (id) on delete cascade,
    audit_id text not null,
    issued_at bigint not null,
    expires_at bigint not null
);

create index identity_token_expiry on identity_token (expires_at);
