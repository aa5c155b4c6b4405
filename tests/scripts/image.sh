#!/usr/bin/env bash
# Makes a guest image: DATASTORE, and optionally VERSION, SUITE, FORMAT, AGENT (a program to put in, instead of one that is
# built), IMAGES (where it goes), MIRROR and SECURITY_MIRROR. docs/images.md explains all of it.
set -euo pipefail

datastore=${DATASTORE:-postgresql} version=${VERSION:-} suite=${SUITE:-} format=${FORMAT:-docker}
images=${IMAGES:-images}
export CACHE=${TROVE_IMAGE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/trove-rs/images}
elements=$PWD/dib-elements

fail() {
    echo "image: $*" >&2
    exit 1
}
say() { echo "image: $*"; }
as_root() {
    if [ "$(id -u)" -eq 0 ]; then "$@"; else sudo "$@"; fi
}

if [ "$datastore" = agent ] || [ ! -d "$elements/trove-$datastore" ]; then
    fail "there is no element for DATASTORE=$datastore; there are: $(cd "$elements" && echo trove-* | sed 's/trove-agent *//; s/trove-//g')"
fi
case $format in
    docker | tar | qcow2) ;;
    *) fail "FORMAT=$format is none of docker, tar, qcow2" ;;
esac
if [ -z "$suite" ]; then
    case $datastore in
        mysql) suite=sid ;;
        mongodb) suite=bookworm ;;
        *) suite=trixie ;;
    esac
fi
for program in mmdebstrap zstd python3; do
    [ -n "$(PATH=$PATH:/usr/sbin:/sbin command -v "$program")" ] ||
        fail "$program is not installed; tests/scripts/setup.sh --images installs what is needed"
done
mkdir -p "$CACHE/base" "$CACHE/apt/$suite" "$images"
export SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || date +%s)}

# One image at a time in one cache: what two bakes would make twice is made once.
exec 9>"$CACHE/lock"
flock 9

# diskimage-builder, plain, from Python's index, with what it needs, all by version and sum.
DIB=$CACHE/diskimage-builder-$(sha256sum "$elements/requirements.txt" | cut -c 1-16)
export DIB
if [ ! -e "$DIB/complete" ]; then
    say "installing diskimage-builder"
    rm -rf "$DIB"
    python3 -m venv "$DIB"
    "$DIB/bin/pip" install --quiet --disable-pip-version-check --only-binary :all: --require-hashes \
        --requirement "$elements/requirements.txt"
    touch "$DIB/complete"
fi

# Packages come from where this machine has its own, unless MIRROR says otherwise.
mirror_of() {
    # shellcheck disable=SC2016 # the words in dollars are apt's
    apt-get indextargets --format '$(LABEL)|$(REPO_URI)' 'Created-By: Packages' 2>/dev/null |
        sed -n "s/^$1|//p" | head -n 1 || true
}
MIRROR=${MIRROR:-$(mirror_of Debian)}
export MIRROR=${MIRROR:-http://deb.debian.org/debian}
SECURITY_MIRROR=${SECURITY_MIRROR:-$(mirror_of Debian-Security)}
export SECURITY_MIRROR=${SECURITY_MIRROR:-http://deb.debian.org/debian-security}

# The suite's lists, in a directory of their own, tell the versions before anything is baked.
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
[ -e "$keyring" ] || fail "$keyring is missing; install debian-archive-keyring"
lists=$CACHE/apt/$suite
mkdir -p "$lists/state/lists/partial" "$lists/cache/archives/partial"
{
    echo "deb [signed-by=$keyring check-valid-until=no] $MIRROR $suite main"
    if [ "$suite" != sid ]; then
        echo "deb [signed-by=$keyring] $MIRROR $suite-updates main"
        echo "deb [signed-by=$keyring] $SECURITY_MIRROR $suite-security main"
    fi
} >"$lists/sources.list"
: >"$lists/status"
apt_of_suite() {
    local program=$1
    shift
    "$program" -o "Dir::Etc::sourcelist=$lists/sources.list" -o Dir::Etc::sourceparts=/dev/null \
        -o Dir::Etc::preferencesparts=/dev/null -o Dir::Etc::preferences=/dev/null -o "Dir::State=$lists/state" \
        -o "Dir::State::status=$lists/status" -o "Dir::Cache=$lists/cache" -o APT::Install-Recommends=0 \
        -o APT::Sandbox::User=root -o Acquire::Languages=none "$@"
}
apt_of_suite apt-get -qq update || fail "the packages of $suite cannot be had from $MIRROR"
if [ -e "$elements/trove-$datastore/engine-version" ]; then
    candidate=$(cat "$elements/trove-$datastore/engine-version")
else
    package=$(cat "$elements/trove-$datastore/engine-package")
    candidate=$(apt_of_suite apt-cache policy "$package" | sed -n 's/^  Candidate: //p')
    if [ -z "$candidate" ] || [ "$candidate" = "(none)" ]; then
        fail "the suite $suite has no package $package; take another SUITE"
    fi
    candidate=${candidate#*:}
fi
# 17 stands for 17, 17.5 and 17+278, and not for 170.
if [ -n "$version" ] && ! [[ $candidate =~ ^${version//./\\.}([^0-9].*)?$ ]]; then
    fail "the suite $suite has $datastore $candidate, not $version; take another SUITE or VERSION"
fi

# The base: all but the agent's program, kept by what it is made of.
mapfile -t wanted < <(sed -n 's/^\([a-z0-9.+-]*\):.*/\1/p' "$elements"/trove-{agent,"$datastore"}/package-installs.yaml |
    sed 's/^libcurl$/?exact-name(libcurl4)/')
packages=$(apt_of_suite apt-get -s -qq install '?essential' apt systemd-sysv "${wanted[@]}" |
    sed -n 's/^Inst \([^ ]*\) (\([^ ]*\) .*/\1 \2/p' | sort)
[ -n "$packages" ] || fail "apt finds no way to install ${wanted[*]} from $suite"
key=$(tests/scripts/image-key.sh "$datastore" "$suite" <<<"$packages")
base=$CACHE/base/$datastore-$suite-$key.tar.zst
if [ "$format" != qcow2 ] && [ ! -e "$base" ]; then
    say "baking the base of $datastore ($candidate) on $suite; minutes the first time"
    # Older bases of the same image serve nobody any more.
    rm -f "$CACHE/base/$datastore-$suite"-*
    # The dates inside are those of the elements, so that a commit elsewhere does not change them.
    SOURCE_DATE_EPOCH=$(git log -1 --format=%ct -- dib-elements 2>/dev/null | grep . || echo "$SOURCE_DATE_EPOCH") \
        tests/scripts/image-base.sh "$datastore" "$suite" "$base"
fi

# The agent, with this engine alone.
agent=${AGENT:-}
if [ -z "$agent" ]; then
    case $datastore in
        mariadb | mysql) feature=mysql ;;
        redis | valkey) feature=redis ;;
        *) feature=$datastore ;;
    esac
    say "building the agent for $datastore"
    cargo build --quiet --profile dist --package trove-agent --no-default-features --features "$feature"
    agent=$TARGET/dist/trove-agent
fi
[ -x "$agent" ] || fail "AGENT=$agent is no program"

# The last layer, and what the image says of itself.
work=$(mktemp -d "$CACHE/work.XXXXXX")
trap 'as_root rm -rf --one-file-system "$work"' EXIT
mkdir -p "$work/layer/usr/bin" "$work/root"
if [ "$format" = qcow2 ]; then
    say "baking a disk with $datastore ($candidate) on $suite; minutes"
    tests/scripts/image-base.sh "$datastore" "$suite" "$work/image.qcow2" "$(realpath "$agent")"
    image=$work/image.qcow2
    mv "$image.tar" "$work/image.tar"
else
    image=$work/image.tar
    install -m 0755 "$agent" "$work/layer/usr/bin/trove-agent"
    zstd --quiet -d "$base" -o "$image"
    tar -C "$work/layer" --append --file "$image" --owner=0 --group=0 --numeric-owner --format=pax \
        --pax-option=exthdr.name=%d/PaxHeaders/%f,delete=atime,delete=ctime \
        --mtime="@$SOURCE_DATE_EPOCH" ./usr/bin/trove-agent
fi
as_root tar -C "$work/root" --numeric-owner --xattrs --xattrs-include='*' --exclude='./dev/*' -xf "$work/image.tar"
as_root mkdir -p "$work/root/proc" "$work/root/dev"
say "asking the engine for its manifest"
# A network, processes and mounts of its own; they go with the last process.
# shellcheck disable=SC2016 # the inner shell expands them
as_root unshare --mount --pid --fork --ipc --uts --net sh -eu -c '
    mount -t proc proc "$1/proc"
    mount --rbind /dev "$1/dev"
    mount -t tmpfs tmpfs "$1/tmp"
    ip link set lo up 2>/dev/null || true
    exec env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8 \
        chroot "$1" trove-agent manifest "$2" --account os_admin' sh "$work/root" "$datastore" >"$work/manifest.json" ||
    fail "the agent cannot make the manifest inside the image"

python3 tests/scripts/image-describe.py --datastore "$datastore" --suite "$suite" --format "$format" --base "$key" \
    --image "$image" --root "$work/root" --manifest "$work/manifest.json" --epoch "$SOURCE_DATE_EPOCH" \
    --images "$images"
