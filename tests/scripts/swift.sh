#!/usr/bin/env bash
# A real Swift, from PyPI, for tests: its own API (tempauth, TempURL) and S3's (s3api), in one process.
#
#   swift.sh prepare CACHE                              installs it once
#   swift.sh serve CACHE STATE ADDRESS PORT [CERT KEY]  serves what lies in the directory STATE, in the foreground
#
# ADDRESS PORT is the proxy; the three ports after it are those of the servers behind it. The user `trove:backups` of the account
# AUTH_trove has the password "backups-secret"; tests/swift/proxy.conf has more. It prints the line "serves" when it does;
# STATE/access.log has a line for each request, STATE/serve.log says what went wrong.
# `serve` ends with status 75 where the file system keeps no extended attributes, in which Swift keeps what it knows of an object.
set -euo pipefail

verb=$1
cache=$2
sources=$(cd "$(dirname "$0")/../swift" && pwd)

case $verb in
prepare)
    mkdir -p "$cache"
    cache=$(cd "$cache" && pwd)
    exec 9>"$cache/lock"
    flock 9
    if cmp -s "$sources/requirements.txt" "$cache/stamp"; then
        exit 0
    fi
    rm -rf "$cache/venv" "$cache/stamp"
    python3 -m venv "$cache/venv"
    "$cache/venv/bin/pip" install --quiet --disable-pip-version-check -r "$sources/requirements.txt" >&2
    cp "$sources/requirements.txt" "$cache/stamp"
    ;;
serve)
    state=$3 address=$4 port=$5
    mkdir -p "$state"
    cp "$sources/proxy.conf" "$state/proxy.conf"
    touch "$state/attributes"
    if ! "$cache/venv/bin/python" -c 'import os, sys; os.setxattr(sys.argv[1], "user.swift.metadata", b"x" * 1024)' \
        "$state/attributes" 2>>"$state/serve.log"; then
        echo "the file system of $state keeps no extended attributes"
        exit 75
    fi
    exec "$cache/venv/bin/python" "$sources/serve.py" "$state" "$address" "$port" "${@:6}" 2>>"$state/serve.log"
    ;;
*)
    echo "swift.sh: $verb is neither prepare nor serve" >&2
    exit 2
    ;;
esac
