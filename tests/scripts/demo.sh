#!/usr/bin/env bash
# From nothing to a database that a person can use, of the datastore that DATASTORE names. Running it again is quick and
# harmless.
set -euo pipefail

state=$PWD/.demo
datastore=${DATASTORE:-postgresql}
# The instance, its account, its database, the client program and what that is to run.
name=demo-$datastore user=demo database=demo
case $datastore in
    postgresql)
        name=demo client=psql
        run=(-X -c "select 'hello from ' || split_part(version(), ' (', 1) as demo, current_user, ssl from pg_stat_ssl where pid = pg_backend_pid()")
        ;;
    mariadb | mysql)
        client=$datastore
        run=(-e "select concat('hello from ', version()) as demo, current_user(); show status like 'ssl_version'")
        ;;
    redis | valkey)
        client=$datastore-cli database=
        run=(ECHO "hello from $datastore")
        ;;
    mongodb)
        client=mongosh user=demo.demo
        run=(--eval "quit(print('hello from ' + db.version() + ' in ' + db.getName()))")
        ;;
    *)
        echo "demo: DATASTORE=$datastore is not known; one of postgresql, mariadb, mysql, redis, valkey, mongodb" >&2
        exit 2
        ;;
esac
compute=${COMPUTE:-process}
if [ "$compute" = docker ]; then
    export TROVE_COMPUTE=docker TROVE_AGENTS__LISTEN=${TROVE_AGENTS__LISTEN:-10.213.0.1:8778}
elif [ "$compute" != process ]; then
    echo "demo: COMPUTE=$compute is not known; process or docker" >&2
    exit 2
fi
say() { printf '\n==> %s\n' "$*"; }

say "1/5 installing what is needed (nothing, when it is there)"
if [ "$compute" = docker ]; then tests/scripts/setup.sh --docker; else tests/scripts/setup.sh; fi

say "2/5 building trove-controller, trove-agent and trovectl (minutes the first time, seconds afterwards)"
cargo build -p trove-controller -p trove-agent -p trovectl
bin=$(cd "$TARGET/debug" && pwd)

export OS_CLIENT_CONFIG_FILE=$state/clouds.yaml OS_CLOUD=trove
trovectl() { "$bin/trovectl" "$@"; }

say "3/5 starting the service (state in .demo/, log in .demo/controller.log)"
mkdir -p "$state"
# The service holds a lock on this file for as long as it runs, and its pid stands in it.
if [ -e "$state/lock" ] && ! flock --nonblock "$state/lock" true; then
    echo "it runs already (pid $(cat "$state/lock"))"
else
    ready=$state/ready
    rm -f "$ready"
    mkfifo -m 0600 "$ready"
    setsid "$bin/trove-controller" serve --state "$state" >"$ready" 2>>"$state/controller.log" </dev/null &
    # The service prints one line when it serves, and none when it cannot.
    line=
    read -r line <"$ready" || true
    rm -f "$ready"
    if [ -z "$line" ]; then
        echo "demo: the service did not start; the end of .demo/controller.log:" >&2
        tail -n 15 "$state/controller.log" >&2
        exit 1
    fi
    echo "$line"
fi

# What `make demo-stop` has to stop.
echo "$compute" >"$state/compute"
if [ "$compute" = docker ] && ! trovectl datastore show "$datastore" >/dev/null 2>&1; then
    if [ -z "${IMAGE:-}" ]; then
        tests/scripts/setup.sh --images
        DATASTORE=$datastore AGENT=$bin/trove-agent IMAGES=$state/images tests/scripts/image.sh
        IMAGE=$(find "$state/images" -name "$datastore-*.json" ! -name '*.spdx.json' | head -n 1)
    fi
    "$bin/trove-controller" datastore register --state "$state" "$IMAGE"
fi

say "4/5 ordering the instance $name of the datastore $datastore through the public API"
password=$state/demo.password
if [ ! -e "$password" ]; then
    (umask 077 && head -c 18 /dev/urandom | base64 | tr '+/' '-_' >"$password")
fi
if ! trovectl instance show "$name" >/dev/null 2>&1; then
    trovectl datastore list --wait >/dev/null
    trovectl instance create "$name" --datastore "$datastore" --flavor 2 --size 1 ${database:+--database "$database"} --wait
fi
if ! trovectl user show "$name" "$user" >/dev/null 2>&1; then
    trovectl user create "$name" "$user" ${database:+--database "$database"} --password-file "$password" --wait
fi

say "5/5 connecting as the user $user"
connect=(trovectl connect "$name" --user "$user" ${database:+--database "$database"} --password-file "$password")
if command -v "$client" >/dev/null; then
    "${connect[@]}" -- "${run[@]}"
else
    # It says which package brings the program, and where the database is.
    "${connect[@]}" || true
fi

cat <<TXT
The service runs and goes on running.
  API        http://127.0.0.1:8779   (clouds 'trove' and 'trove-admin' in .demo/clouds.yaml)
  connect    export OS_CLIENT_CONFIG_FILE=$state/clouds.yaml OS_CLOUD=trove PATH=$bin:\$PATH
             ${connect[*]/$PWD\//}

Three things to try next:
  trovectl instance list
  trovectl operations $name
  trovectl instance create second --datastore redis --flavor 1 --size 1 --wait

A backup, and an instance made from it:
  trovectl backup create nightly --instance $name --wait && trovectl instance create copy --backup nightly --flavor 2 --size 1 --wait

With OpenStack's own client (pip install python-openstackclient python-troveclient):
  openstack --os-cloud trove database instance list

Stop it with   make demo-stop      (data stays in .demo/)
Wipe it with   make demo-wipe
TXT
