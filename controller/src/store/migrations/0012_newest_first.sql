-- Lists of a project's instances begin with the newest one.
drop index instance_by_project;
create index instance_by_creation on instance (project_id, created, id) where deleted is null;
