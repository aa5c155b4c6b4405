#!/usr/bin/env bash
# Stops the demo's service, then its databases in an orderly way. Their data stays.
set -euo pipefail

state=$PWD/.demo
if [ ! -d "$state" ]; then
    echo "there is no demo here"
    exit 0
fi
pid=$(cat "$state/controller.pid" 2>/dev/null || true)
if [ -n "$pid" ] && kill -TERM "$pid" 2>/dev/null; then
    tail --pid="$pid" -f /dev/null
fi
rm -f "$state/controller.pid"
"$TARGET/debug/trove-controller" hosts stop --state "$state"
echo "stopped; make demo starts it again"
