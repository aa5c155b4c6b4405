-- The audit id of the first token, for those that were got for another: null for those that were got for a password.
alter table identity_token add column parent_audit_id text;
