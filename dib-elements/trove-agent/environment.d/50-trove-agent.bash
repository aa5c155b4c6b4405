# shellcheck shell=bash
# What the image is for: `machine` (with a kernel, booted by systemd) or `container` (without).
export TROVE_GUEST=${TROVE_GUEST:-machine}
# How the agent's program comes in: `build` (TROVE_AGENT_PROGRAM, a file), `boot` (TROVE_AGENT_URL and TROVE_AGENT_SHA256,
# fetched at the first boot) or `layer` (whoever calls disk-image-create adds it afterwards).
export TROVE_AGENT_DELIVERY=${TROVE_AGENT_DELIVERY:-build}
export TROVE_AGENT_PROGRAM=${TROVE_AGENT_PROGRAM:-}
export TROVE_AGENT_URL=${TROVE_AGENT_URL:-}
export TROVE_AGENT_SHA256=${TROVE_AGENT_SHA256:-}
# `yes` installs an ssh server. It has no host keys until it makes them, and no account has a password or a key.
export TROVE_SSH=${TROVE_SSH:-no}
# What the image's own apt asks, as one-line sources; the mirror of the build is not kept.
export TROVE_APT_SOURCES=${TROVE_APT_SOURCES:-}
# Addresses come from systemd-networkd (static/), not from ifupdown.
export DIB_APT_MINIMAL_CREATE_INTERFACES=${DIB_APT_MINIMAL_CREATE_INTERFACES:-0}
