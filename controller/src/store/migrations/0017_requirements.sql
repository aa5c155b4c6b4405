-- What was ordered of the host beside networks, access and zone: the volume's type, and whether replicas share its machine
-- (`affinity`, `anti-affinity`, `soft-affinity`, `soft-anti-affinity`).
alter table instance add column volume_type text;
alter table instance add column locality text;
