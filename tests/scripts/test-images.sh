#!/usr/bin/env bash
# Bakes guest images with the agent of this checkout (AGENT, by default the one that tests use) and checks what is inside.
# IMAGES_TO_TEST names them, `datastore/suite`; TWICE=1 bakes each a second time from nothing and compares. Ends with a table.
set -euo pipefail

wanted=(postgresql/bookworm postgresql/trixie mariadb/bookworm mariadb/trixie redis/bookworm redis/trixie valkey/trixie
    mongodb/bookworm mysql/sid)
if [ -n "${IMAGES_TO_TEST:-}" ]; then
    read -ra wanted <<<"$IMAGES_TO_TEST"
fi
if [ -z "${AGENT:-}" ]; then
    cargo build --workspace --features "$TROVE_TEST_FEATURES"
    AGENT=$TARGET/debug/trove-agent
fi
export AGENT FORMAT=docker
scratch=$(mktemp -d "$TARGET/test-images.XXXXXX")
trap 'rm -rf "$scratch"' EXIT

# A suite without the version that is asked for is told before anything is baked.
if DATASTORE=redis SUITE=bookworm VERSION=99 IMAGES=$scratch/none tests/scripts/image.sh 2>"$scratch/said" ||
    ! grep -q 'bookworm has redis .*, not 99' "$scratch/said"; then
    echo "test-images: a version that the suite does not have was not refused with a sentence" >&2
    exit 1
fi

failed=0
table=$'image\tMB\tseconds\tpackages\tversion'
for image in "${wanted[@]}"; do
    export DATASTORE=${image%/*} SUITE=${image#*/}
    began=$SECONDS
    IMAGES=$scratch/one tests/scripts/image.sh
    took=$((SECONDS - began))
    for file in "$scratch"/one/*.json; do
        [[ $file == *.spdx.json ]] || description=$file
    done
    python3 tests/scripts/image-check.py "$description" || failed=1
    if [ "${TWICE:-}" = 1 ]; then
        # Another cache has no base; packages, diskimage-builder and the lock on these are the same.
        cache=${TROVE_IMAGE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/trove-rs/images}
        mkdir "$scratch/cache"
        ln -s "$cache"/{dib,lock} "$cache"/diskimage-builder-* "$scratch/cache"
        TROVE_IMAGE_CACHE=$scratch/cache IMAGES=$scratch/two tests/scripts/image.sh
        python3 tests/scripts/image-check.py "$description" "$scratch/two/$(basename "$description")" || failed=1
    fi
    table+=$'\n'$(python3 - "$description" "$took" <<'EOF'
import json
import sys

with open(sys.argv[1]) as file:
    image = json.load(file)
with open(sys.argv[1].replace(".json", ".spdx.json")) as file:
    packages = len([package for package in json.load(file)["packages"] if package["SPDXID"].startswith("SPDXRef-deb-")])
size = image["files"][0]["size"] / 1e6
print(image["name"], f"{size:.0f}", sys.argv[2], packages, image["version"], sep="\t")
EOF
)
    # A disk does not hold them all at once.
    rm -rf "$scratch"/one "$scratch"/two "$scratch"/cache
done
column -t -s $'\t' <<<"$table"
exit "$failed"
