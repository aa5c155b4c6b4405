-- What a compute driver must remember of a host: JSON of ids of servers, ports and volumes. Null before the host is made.
alter table instance add column driver_state text;
