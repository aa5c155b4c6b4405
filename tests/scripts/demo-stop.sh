#!/usr/bin/env bash
# Stops the demo's service, then its databases in an orderly way. Their data stays.
set -euo pipefail

state=$PWD/.demo
if [ ! -d "$state" ]; then
    echo "there is no demo here"
    exit 0
fi
# Who holds the lock has its pid in it; without the lock that may be anybody's.
if [ -e "$state/lock" ] && ! flock --nonblock "$state/lock" true; then
    pid=$(cat "$state/lock")
    kill -TERM "$pid"
    tail --pid="$pid" -f /dev/null
fi
if [ "$(cat "$state/compute" 2>/dev/null)" = docker ]; then
    export TROVE_COMPUTE=docker TROVE_AGENTS__LISTEN=${TROVE_AGENTS__LISTEN:-10.213.0.1:8778}
fi
"$TARGET/debug/trove-controller" hosts stop --state "$state"
echo "stopped; make demo starts it again"
