#!/usr/bin/env bash
# Runs a command with a PostgreSQL server that is there for it alone; TROVE_TEST_STORE_URL names it.
set -euo pipefail
bindir=/usr/lib/postgresql/15/bin
# In memory where there is room: hundreds of databases are made, and removing them takes minutes on some disks.
parent=${TMPDIR:-/tmp}
if [ "$(df --output=avail --block-size=1G /dev/shm 2>/dev/null | tail -n 1)" -ge 8 ] 2>/dev/null; then
    parent=/dev/shm
fi
directory=$(mktemp -d --tmpdir="$parent")
address=127.$((RANDOM % 60 + 1)).$((RANDOM % 256)).$((RANDOM % 254 + 1))
run=()
if [ "$(id -u)" -eq 0 ]; then
    run=(setpriv --reuid=trove --regid=trove --clear-groups --)
    chown trove "$directory"
fi
# The account may not be able to enter the directory that this was started in.
cd_run() { (cd / && "${run[@]}" "$@"); }
cd_run "$bindir/initdb" -D "$directory/data" -U store --auth=trust --no-sync >/dev/null
cd_run "$bindir/pg_ctl" start -w -D "$directory/data" -l "$directory/log" \
    -o "-c listen_addresses=$address -c port=25499 -c unix_socket_directories= -c fsync=off -c max_connections=500" >/dev/null
end() {
    cd_run "$bindir/pg_ctl" stop -m immediate -D "$directory/data" >/dev/null || true
    rm -rf "$directory"
}
trap end EXIT
TROVE_TEST_STORE_URL=postgres://store@$address:25499/postgres "$@"
