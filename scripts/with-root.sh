#!/usr/bin/env bash
# with-root.sh COMMAND...: runs it as root and hands what it made in the checkout back to its
# owner, also when it fails or is interrupted.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/checkout.sh

if ((EUID != 0)); then
    if sudo -n true 2>/dev/null; then
        exec sudo -n -- "$PWD/scripts/with-root.sh" "$@"
    fi
    fail "network namespaces and Open vSwitch need root: call make with sudo (sudo make run)"
fi
source scripts/environment.sh

trap hand_back EXIT
# Ctrl-C and a closed terminal reach the command themselves; TERM from make has to be passed on.
trap : INT HUP
# A background command would ignore SIGINT; it must be able to end itself in order.
env --default-signal=INT "$@" </dev/null &
command=$!
trap 'kill -TERM "$command" 2>/dev/null || true' TERM
while true; do
    status=0
    wait "$command" || status=$?
    # A trapped signal ends `wait` before the command has ended.
    kill -0 "$command" 2>/dev/null || break
done
exit "$status"
