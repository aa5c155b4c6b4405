#!/usr/bin/env bash
# Boots a disk image of DATASTORE and SUITE (redis on trixie, which are the smallest) under qemu's emulation, with a config
# drive; ends well when the guest's agent has dialled the controller that its enrolment document names. Minutes.
set -euo pipefail

export DATASTORE=${DATASTORE:-redis} SUITE=${SUITE:-trixie} FORMAT=qcow2
for program in qemu-system-x86_64 genisoimage openssl; do
    command -v "$program" >/dev/null || {
        echo "boot-image: $program is not installed (qemu-system-x86, genisoimage, openssl)" >&2
        exit 1
    }
done
if [ -z "${AGENT:-}" ]; then
    cargo build --workspace --features "$TROVE_TEST_FEATURES"
    export AGENT=$TARGET/debug/trove-agent
fi
scratch=$(mktemp -d "$TARGET/boot-image.XXXXXX")
qemu=
trap '[ -z "$qemu" ] || kill "$qemu"; rm -rf "$scratch"' EXIT

IMAGES=$scratch/images tests/scripts/image.sh
disk=$(echo "$scratch"/images/*.qcow2)

openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 1 -subj /CN=controller \
    -keyout "$scratch/key.pem" -out "$scratch/authority.pem" 2>/dev/null
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
mkdir -p "$scratch/drive/openstack/latest"
# 10.0.2.2 is this machine, as qemu's network shows it to the guest.
cat >"$scratch/drive/openstack/latest/user_data" <<EOF
format = 1
token = "one-time"
authority = '''
$(cat "$scratch/authority.pem")
'''
[agent]
instance_id = "11111111-1111-4111-8111-111111111111"
generation = 1
datastore = "$DATASTORE"
controllers = ["10.0.2.2:$port"]
address = "10.0.2.15"
port = 6379
memory_mib = 1024
vcpus = 2
volume_gib = 1
EOF
genisoimage -quiet -volid config-2 -joliet -rock -output "$scratch/config.iso" "$scratch/drive"

began=$SECONDS
qemu-system-x86_64 -m 1024 -smp 2 -display none -snapshot -no-reboot -serial "file:$scratch/console" \
    -drive "file=$disk,if=virtio,format=qcow2" -drive "file=$scratch/config.iso,media=cdrom,readonly=on" \
    -nic user,model=virtio-net-pci &
qemu=$!
if ! python3 - "$port" "${TIMEOUT:-900}" <<'EOF'; then
import socket
import sys

listener = socket.create_server(("127.0.0.1", int(sys.argv[1])))
listener.settimeout(int(sys.argv[2]))
try:
    connection, _ = listener.accept()
except TimeoutError:
    sys.exit("boot-image: no agent dialled")
first = connection.recv(1)
sys.exit(None if first == b"\x16" else f"boot-image: what dialled does not speak TLS: {first}")
EOF
    tail -n 40 "$scratch/console" >&2
    exit 1
fi
echo "boot-image: the agent of $(basename "$disk") dialled its controller $((SECONDS - began)) s after power-on"
