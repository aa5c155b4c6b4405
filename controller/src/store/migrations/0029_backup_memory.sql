-- Bytes of memory that the data of a completed backup took; null for an engine that does not hold them there, and for backups from
-- before this was counted.

alter table backup add column memory_bytes bigint;
