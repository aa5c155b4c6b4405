#!/usr/bin/env bash
# Runs a command where Debian's MySQL is found as if it were installed: `with-mysql.sh COMMAND...`. Nothing is installed. The
# packages and the libraries that they need are unpacked below $TARGET/mysql, kept there, and laid over /usr in a mount namespace
# that the command has for itself; MariaDB, which has files of the same names, does not work there. SUITE (sid) and MIRROR say
# where they come from. Ends with 75 where that cannot be, and says why.
set -euo pipefail

suite=${SUITE:-sid}
cannot() {
    echo "with-mysql: $*" >&2
    exit 75
}
[ "$#" -gt 0 ] || {
    echo "usage: $0 COMMAND [ARGUMENT...]" >&2
    exit 2
}
[ "$(id -u)" -eq 0 ] || cannot "only root can lay the packages of $suite over /usr"
command -v apt-get >/dev/null || cannot "the packages are fetched by apt, which is not here"
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
[ -e "$keyring" ] || cannot "$keyring is missing; install debian-archive-keyring"

directory=${TARGET:-${CARGO_TARGET_DIR:-target}}/mysql
mkdir -p "$directory"
directory=$(realpath "$directory")/$suite

# Packages come from where this machine has its own, unless MIRROR says otherwise.
mirror_of_machine() {
    # shellcheck disable=SC2016 # the words in dollars are apt's
    apt-get indextargets --format '$(LABEL)|$(REPO_URI)' 'Created-By: Packages' 2>/dev/null |
        sed -n "s/^Debian|//p" | head -n 1 || true
}

# Lists, downloads and what is counted as installed (nothing) are in a directory of their own: the machine's are not touched.
apt_of_suite() {
    apt-get -o "Dir::Etc::sourcelist=$1/sources.list" -o Dir::Etc::sourceparts=/dev/null \
        -o Dir::Etc::preferencesparts=/dev/null -o Dir::Etc::preferences=/dev/null -o "Dir::State=$1/state" \
        -o "Dir::State::status=$1/status" -o "Dir::Cache=$1/cache" -o APT::Install-Recommends=0 \
        -o APT::Sandbox::User=root -o Acquire::Languages=none -o APT::Keep-Downloaded-Packages=1 -qq "${@:2}"
}

unpack() {
    local apt=$1/apt mirror file
    mirror=${MIRROR:-$(mirror_of_machine)}
    mirror=${mirror:-http://deb.debian.org/debian}
    mkdir -p "$apt"/{state/lists,cache/archives}/partial
    : >"$apt/status"
    echo "deb [signed-by=$keyring check-valid-until=no] $mirror $suite main" >"$apt/sources.list"
    apt_of_suite "$apt" update || cannot "the packages of $suite cannot be had from $mirror"
    apt_of_suite "$apt" -y --download-only install mysql-server-core mysql-client-core >/dev/null ||
        cannot "$suite of $mirror has no MySQL that can be fetched"
    for file in "$apt"/cache/archives/*.deb; do
        case ${file##*/} in
            # Their scripts are not run here, and this machine's Perl needs its own.
            perl* | libperl*) ;;
            *) dpkg-deb --extract "$file" "$1" ;;
        esac
    done
    # Older libraries have their files outside of /usr, which is laid over alone.
    [ ! -d "$1/lib" ] || cp -a "$1/lib/." "$1/usr/lib/"
    rm -rf "$apt"
}

exec 9>"$directory.lock"
flock 9
if [ ! -x "$directory/usr/sbin/mysqld" ]; then
    rm -rf "$directory" "$directory.new"
    mkdir "$directory.new"
    unpack "$directory.new"
    mv "$directory.new" "$directory"
fi
exec 9>&-

# What is mounted here is seen by this command and what it starts. Bash passes on the functions that its caller has exported; sh
# does not.
# shellcheck disable=SC2016 # the words in dollars are the inner shell's
exec unshare --mount --propagation private bash -c '
    mount -t overlay overlay -o "lowerdir=$1/usr:/usr" /usr || exit 75
    shift
    exec "$@"' with-mysql "$directory" "$@"
