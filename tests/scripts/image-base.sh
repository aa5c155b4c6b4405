#!/usr/bin/env bash
# Bakes the root file system of a guest with diskimage-builder. Called by image.sh:
#   image-base.sh DATASTORE SUITE OUTPUT.tar.zst         a container's, without the agent's program, as a tar that is the same
#                                                        for the same packages
#   image-base.sh DATASTORE SUITE OUTPUT.qcow2 AGENT     a machine's, with the program; the file system as OUTPUT.qcow2.tar
# with MIRROR, SECURITY_MIRROR, DIB (the venv of diskimage-builder), CACHE and SOURCE_DATE_EPOCH set.
set -euo pipefail

datastore=$1 suite=$2 output=$3 agent=${4:-}

as_root() {
    if [ "$(id -u)" -eq 0 ]; then "$@"; else sudo "$@"; fi
}

work=$(mktemp -d "$CACHE/work.XXXXXX")
trap 'as_root rm -rf --one-file-system "$work"' EXIT
mkdir "$work/tmp" "$work/bin"
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

# Some kernels (of containers, of small machines) have no device-mapper, with which diskimage-builder finds partitions. The
# loop device's own do as well, under the names that it looks for; sudo would not keep the PATH to these.
stand_in_for_device_mapper() {
    local name
    cat >"$work/bin/sudo" <<'EOF'
#!/bin/sh
while [ "${1#-}" != "$1" ]; do shift; done
exec "$@"
EOF
    printf '#!/bin/sh\nexit 0\n' >"$work/bin/dmsetup"
    cat >"$work/bin/kpartx" <<'EOF'
#!/bin/sh
set -eu
option=$1 device=$2
name=${device##*/}
case $option in
    -d*)
        rm -f /dev/mapper/"$name"p*
        partx --delete "$device" || true
        ;;
    *)
        partx --update "$device"
        mkdir -p /dev/mapper
        for part in "$device"p*; do
            ln -sf "$part" "/dev/mapper/${part##*/}"
        done
        ;;
esac
EOF
    for name in sudo dmsetup kpartx; do
        chmod +x "$work/bin/$name"
    done
}

if [ -n "$agent" ]; then
    what=(-t "tar,qcow2" -o "$work/image" debian-minimal "trove-$datastore" vm block-device-mbr)
    export TROVE_GUEST=machine TROVE_AGENT_DELIVERY=build TROVE_AGENT_PROGRAM=$agent
    if [ ! -e /dev/mapper/control ] && [ "$(id -u)" -eq 0 ]; then
        stand_in_for_device_mapper
    fi
else
    what=(-t tar -o "$work/image" debian-minimal "trove-$datastore")
    export TROVE_GUEST=container TROVE_AGENT_DELIVERY=layer
fi
ELEMENTS_PATH=$PWD/dib-elements PATH=$work/bin:$DIB/bin:/usr/local/sbin:/usr/sbin:/sbin:$PATH TMP_DIR=$work/tmp \
    DIB_RELEASE=$suite DIB_DISTRIBUTION_MIRROR=$MIRROR DIB_DEBIAN_SECURITY_MIRROR=${SECURITY_MIRROR:-$MIRROR} \
    DIB_APT_SOURCES_CONF=$sources DIB_IMAGE_CACHE=$CACHE/dib DIB_LOCKFILES=$CACHE/dib/locks DIB_NO_TIMESTAMP=1 \
    DIB_MMDEBSTRAP_EXTRA_ARGS="--aptopt=$work/apt.conf" DIB_MANIFEST_SAVE_DIR=$work/manifests \
    disk-image-create -n --logfile "$work/log" "${what[@]}" || {
    cp "$work/log" "$CACHE/failed.log"
    grep -v ' | + \| INFO \| DEBUG ' "$work/log" | tail -n 30 >&2
    echo "image: the bake failed; the whole log is $CACHE/failed.log" >&2
    exit 1
}

if [ -n "$agent" ]; then
    mv "$work/image.tar" "$output.tar"
    mv "$work/image.qcow2" "$output"
    exit 0
fi
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
