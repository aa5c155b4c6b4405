#!/usr/bin/env bash
# Bakes the root file system of a guest without the agent's program, as a tar that is the same for the same packages.
# Called by image.sh:
#   image-base.sh DATASTORE SUITE OUTPUT.tar.zst
# with MIRROR, SECURITY_MIRROR, DIB (the venv of diskimage-builder), CACHE and SOURCE_DATE_EPOCH set.
set -euo pipefail

datastore=$1 suite=$2 output=$3

as_root() {
    if [ "$(id -u)" -eq 0 ]; then "$@"; else sudo "$@"; fi
}

work=$(mktemp -d "$CACHE/work.XXXXXX")
trap 'as_root rm -rf --one-file-system "$work"' EXIT
mkdir "$work/tmp"
echo 'Acquire::Check-Valid-Until "false";' >"$work/apt.conf"

# A frozen mirror is older than its Release file allows; the signature is checked all the same.
sources="default:deb [check-valid-until=no] $MIRROR $suite main"
case $suite in
    sid | unstable) ;;
    *)
        sources+=$'\n'"updates:deb $MIRROR $suite-updates main"
        sources+=$'\n'"security:deb $SECURITY_MIRROR $suite-security main"
        ;;
esac

ELEMENTS_PATH=$PWD/dib-elements PATH=$DIB/bin:/usr/local/sbin:/usr/sbin:/sbin:$PATH TMP_DIR=$work/tmp \
    DIB_RELEASE=$suite DIB_DISTRIBUTION_MIRROR=$MIRROR DIB_DEBIAN_SECURITY_MIRROR=${SECURITY_MIRROR:-$MIRROR} \
    DIB_APT_SOURCES_CONF=$sources DIB_IMAGE_CACHE=$CACHE/dib DIB_LOCKFILES=$CACHE/dib/locks DIB_NO_TIMESTAMP=1 \
    DIB_MMDEBSTRAP_EXTRA_ARGS="--aptopt=$work/apt.conf" DIB_MANIFEST_SAVE_DIR=$work/manifests TROVE_GUEST=container TROVE_AGENT_DELIVERY=layer \
    disk-image-create -n -t tar -o "$work/image" --logfile "$work/log" debian-minimal "trove-$datastore" || {
    cp "$work/log" "$CACHE/failed.log"
    grep -v ' | + \| INFO \| DEBUG ' "$work/log" | tail -n 30 >&2
    echo "image: the bake failed; the whole log is $CACHE/failed.log" >&2
    exit 1
}

mkdir "$work/root"
as_root tar -C "$work/root" --numeric-owner --xattrs --xattrs-include='*' --exclude='./dev/*' -xf "$work/image.tar"
rm "$work/image.tar"
# What a kernel or a container's runtime puts things into is there and empty.
as_root find "$work/root/run" -mindepth 1 -maxdepth 1 ! -name trove-engine -exec rm -rf {} +
as_root install -d -m 0555 "$work/root/proc" "$work/root/sys"
as_root install -d -m 0755 "$work/root/dev"
as_root tar -C "$work/root" --numeric-owner --xattrs --xattrs-include='*' --sort=name --format=pax \
    --pax-option=exthdr.name=%d/PaxHeaders/%f,delete=atime,delete=ctime \
    --mtime="@$SOURCE_DATE_EPOCH" --clamp-mtime -cf - . | zstd --quiet -3 -T0 -o "$output.part" --force
mv "$output.part" "$output"
