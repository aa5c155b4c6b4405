#!/usr/bin/env bash
# Makes a virtual environment with the unmodified OpenStack clients, and prints its bin directory.
# Usage: clients.sh DIRECTORY
set -euo pipefail

directory=$1
wanted=$(dirname "$0")/../clients/requirements.txt
stamp=$directory/requirements.txt

if ! cmp -s "$wanted" "$stamp"; then
    rm -rf "$directory"
    python3 -m venv "$directory"
    "$directory/bin/pip" install --quiet --disable-pip-version-check -r "$wanted" >&2
    cp "$wanted" "$stamp"
fi
echo "$directory/bin"
