"""Runs the unmodified `openstack` many times: its modules are loaded once, and each command runs in a process that is forked.

Reads a line of JSON for each command, its arguments, and writes one: status, standard output and standard error. With the
only argument `--commands` it prints the names of all commands of the database plugin.
"""
import importlib.metadata
import json
import os
import sys
import tempfile

PLUGIN = [point for point in importlib.metadata.entry_points(group="openstack.database.v1")]

if sys.argv[1:] == ["--commands"]:
    print(json.dumps([point.name.replace("_", " ") for point in PLUGIN]))
    sys.exit()

import openstack.connection  # noqa: E402, F401
import troveclient.v1.client  # noqa: E402, F401
from openstackclient import shell  # noqa: E402

for point in [*importlib.metadata.entry_points(group="openstack.cli.extension"), *PLUGIN]:
    point.load()


def command(words, out, err):
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(out.fileno(), 1)
    os.dup2(err.fileno(), 2)
    sys.argv = ["openstack", *words]
    try:
        status = shell.main()
    except SystemExit as end:
        status = end.code
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status if isinstance(status, int) else int(bool(status)))


for line in sys.stdin:
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        child = os.fork()
        if child == 0:
            command(json.loads(line), out, err)
        _, status = os.waitpid(child, 0)
        said = []
        for file in (out, err):
            file.seek(0)
            said.append(file.read().decode(errors="replace"))
        print(json.dumps([os.waitstatus_to_exitcode(status), *said]), flush=True)
