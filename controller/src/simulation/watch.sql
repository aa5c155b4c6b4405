-- What may never be written, whoever writes: each is noted where the end of a history looks. The row of `said` has the life of
-- the controller whose statement runs (`writer`) and the time in microseconds (`clock`).

create table violation (what text not null);

-- Which life holds an operation, how often it was claimed, and when it was asked to end.
create table held (operation_id text not null primary key, writer bigint not null, claims bigint not null, cancelled bigint);

create trigger claim_of_what_is_held before update on operation
    when new.fence <> old.fence and new.lease_until <> old.lease_until and old.lease_until > (select said.clock from said)
begin
    insert into violation select 'operation ' || new.id || ' is claimed by ' || (select said.writer from said) || ' while ' || writer || ' holds it'
        from held where operation_id = new.id and writer <> (select said.writer from said);
end;

create trigger claim after update on operation when new.fence <> old.fence and new.lease_until <> old.lease_until
begin
    insert into held values (new.id, (select said.writer from said), 1, null)
        on conflict (operation_id) do update set writer = (select said.writer from said), claims = claims + 1;
    insert into violation select 'operation ' || new.id || ' begins before the end of ' || earlier.operation_id
        from operation_target t join operation_target earlier on earlier.resource = t.resource and earlier.seq < t.seq
        join operation o on o.id = earlier.operation_id and o.finished is null where t.operation_id = new.id;
end;

create trigger operation_by_another after update on operation
    when old.status in ('running', 'undoing', 'stuck') and (new.fence = old.fence or new.lease_until = old.lease_until)
    and ((new.status, new.position, new.state, new.fence, new.not_before, new.error)
        is not (old.status, old.position, old.state, old.fence, old.not_before, old.error)
        or new.lease_until > old.lease_until)
begin
    insert into violation select 'operation ' || new.id || ' is written by ' || (select said.writer from said) || ', and ' || writer || ' has claimed it'
        from held where operation_id = new.id and writer <> (select said.writer from said);
end;

create trigger step_by_another after update on operation_step
begin
    insert into violation select 'step ' || new.name || ' of ' || new.operation_id || ' is written by ' || (select said.writer from said) || ', and '
        || writer || ' has claimed it' from held where operation_id = new.operation_id and writer <> (select said.writer from said);
end;

create trigger operation_back after update on operation
    when new.fence < old.fence or (new.status = 'running' and new.position < old.position) or old.finished is not null
begin
    insert into violation values ('operation ' || new.id || ' goes back: ' || old.status || ' ' || old.position || ' ' ||
        old.fence || ', then ' || new.status || ' ' || new.position || ' ' || new.fence);
end;

create trigger step_again after update on operation_step
    when old.status in ('failed', 'undone') and new.status = 'running'
begin
    insert into violation values ('step ' || new.name || ' of ' || new.operation_id || ': ' || old.status || ', then running');
end;

-- The end itself closes what was under way.
create trigger step_after_the_end after update on operation_step when new.error is not 'cancelled'
begin
    insert into violation select 'step ' || new.name || ' of ' || id || ' is written after the end'
        from operation where id = new.operation_id and finished is not null;
end;

create trigger asked_to_end after update on operation when new.cancel and not old.cancel
begin
    update held set cancelled = (select said.clock from said) where operation_id = new.id;
end;

-- A holder that sleeps hears of it when it wakes; by then its lease of 30 s holds, or another has taken it.
create trigger step_after_cancel after update on operation_step when old.status = 'pending' and new.status = 'running'
begin
    insert into violation select 'step ' || new.name || ' of ' || operation_id || ' begins ' || ((select said.clock from said) - cancelled) / 1000000
        || ' s after the operation was asked to end' from held
        where operation_id = new.operation_id and cancelled < (select said.clock from said) - 45000000;
end;
