-- Versions of which the engine is in an image, not on the machine.

-- JSON: id, name and files; null where the engine is installed on the machine. `bindir` of such a version is `image/` and
-- the image's id.
alter table datastore_version add column image text;
