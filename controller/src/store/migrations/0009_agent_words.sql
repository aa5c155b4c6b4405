-- Which of an agent's words is stored: the start of the agent that said it, and its number since.
alter table agent add column boot_id text not null default '';
alter table agent add column sequence bigint not null default 0;
