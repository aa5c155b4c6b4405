-- The event stream reads the operations of a project that have changed since.
create index operation_by_change on operation (project_id, changed);
