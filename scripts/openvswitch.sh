#!/usr/bin/env bash
# Starts Open vSwitch if it is not running. Needs root.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/checkout.sh
export PATH="$PATH:/usr/sbin:/sbin"

# The database answers and the switch daemon is there.
running() {
    ovs-vsctl --timeout=3 --no-wait show >/dev/null 2>&1 &&
        ovs-appctl --timeout=3 -t ovs-vswitchd version >/dev/null 2>&1
}

if running; then
    exit 0
fi
if [[ -d /run/systemd/system ]]; then
    say "Open vSwitch is not running: systemctl start openvswitch-switch"
    systemctl start openvswitch-switch
else
    say "Open vSwitch is not running and no init system starts it: ovs-ctl start"
    # Without the kernel module ovs-ctl complains and runs the userspace datapath: what counts
    # is whether the daemons answer.
    /usr/share/openvswitch/scripts/ovs-ctl start --system-id=random || true
fi
for _ in {1..50}; do
    if running; then
        exit 0
    fi
    sleep 0.2
done
fail "Open vSwitch does not answer; see /var/log/openvswitch/"
