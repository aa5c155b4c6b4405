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
"$TARGET/debug/trove-controller" hosts stop --state "$state"
echo "stopped; make demo starts it again"
