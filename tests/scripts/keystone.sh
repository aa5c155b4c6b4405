#!/usr/bin/env bash
# A real Keystone, from PyPI, for tests.
#
#   keystone.sh prepare CACHE                                  installs it once, makes its empty database and keys once
#   keystone.sh serve CACHE STATE ADDRESS PORT [CERT KEY]      serves a copy of these in the foreground
#
# STATE must not exist yet, or be that of an earlier call. The user admin of the project admin has the password "admin".
# It prints a line when it serves; STATE/access.log has a line for each request, STATE/keystone.log says what went wrong.
set -euo pipefail

verb=$1
cache=$2
sources=$(cd "$(dirname "$0")/../keystone" && pwd)

configure() { # configure STATE URL
    sed -e "s|@STATE@|$1|" -e "s|@URL@|$2|" "$sources/keystone.conf" >"$1/keystone.conf"
}

manage() {
    "$cache/venv/bin/keystone-manage" --config-file "$cache/template/keystone.conf" "$@" >>"$cache/prepare.log" 2>&1 || {
        tail -n 20 "$cache/prepare.log" >&2
        exit 1
    }
}

case $verb in
prepare)
    mkdir -p "$cache"
    cache=$(cd "$cache" && pwd)
    exec 9>"$cache/lock"
    flock 9
    if cat "$sources/requirements.txt" "$sources/keystone.conf" | cmp -s - "$cache/stamp"; then
        exit 0
    fi
    rm -rf "$cache/venv" "$cache/template" "$cache/stamp"
    python3 -m venv "$cache/venv"
    "$cache/venv/bin/pip" install --quiet --disable-pip-version-check -r "$sources/requirements.txt" >&2
    mkdir "$cache/template"
    # The address is not known yet: Keystone puts public_endpoint into the catalog's answer.
    configure "$cache/template" http://127.0.0.1
    owner=(--keystone-user "$(id -un)" --keystone-group "$(id -gn)")
    manage db_sync
    manage fernet_setup "${owner[@]}"
    manage credential_setup "${owner[@]}"
    # shellcheck disable=SC2016 # Keystone's own variable, not the shell's.
    endpoint='$(public_endpoint)s/v3'
    manage bootstrap --bootstrap-password admin --bootstrap-region-id RegionOne \
        --bootstrap-public-url "$endpoint" --bootstrap-internal-url "$endpoint" --bootstrap-admin-url "$endpoint"
    cat "$sources/requirements.txt" "$sources/keystone.conf" >"$cache/stamp"
    ;;
serve)
    state=$3 address=$4 port=$5
    [ -d "$state" ] || cp -r "$cache/template" "$state"
    scheme=http
    [ $# -le 5 ] || scheme=https
    configure "$state" "$scheme://$address:$port"
    exec "$cache/venv/bin/python" "$sources/serve.py" "$state" "$address" "$port" "${@:6}" 2>>"$state/serve.log"
    ;;
*)
    echo "keystone.sh: $verb is neither prepare nor serve" >&2
    exit 2
    ;;
esac
