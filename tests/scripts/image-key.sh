#!/usr/bin/env bash
# Prints the name of the base image of DATASTORE and SUITE under which the cache has it: the sum of what it is made of. Called by
# image.sh, with the packages that the suite would install on its standard input.
#   image-key.sh DATASTORE SUITE
set -euo pipefail
# Of whatever language the machine is, the order is the same.
export LC_ALL=C

datastore=$1 suite=$2
{
    echo "$suite $(cat)"
    find dib-elements/requirements.txt dib-elements/trove-agent "dib-elements/trove-$datastore" tests/scripts/image-base.sh \
        -type f ! -name '*.md' -print0 | sort --zero-terminated | xargs --null sha256sum
    # What the elements, diskimage-builder's own among them, read of the environment. image-base.sh decides about the rest.
    env --null | { grep --null-data -E '^(DIB_[A-Z0-9_]+|ARCH|TROVE_SSH|TROVE_APT_SOURCES)=' || true; } | sort --zero-terminated
} | sha256sum | cut -c 1-16
