-- A small number that no other instance has or has had, for engines whose logs of changes name the server that made them.
alter table instance add column server_id bigint;
update instance set server_id = (select count(*) from instance o
    where o.created < instance.created or (o.created = instance.created and o.id <= instance.id));
create unique index instance_server_id on instance (server_id);
