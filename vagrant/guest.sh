#!/usr/bin/env bash
# Runs as root in the virtual machine that vm-test.sh has booted: provision.sh, deftbed doctor,
# `sudo make run` as a user calls it, the commands of vm-commands; then writes what came of it as
# a tar file to the disk `results`.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit
# As image.sh compiled.
export NUMBA_CPU_NAME=generic
export HOME=/root TERM=dumb PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
readonly OUT=/var/tmp/deftbed-out

main() {
    rm -rf "$OUT"
    mkdir -p "$OUT"
    chown -R vagrant:vagrant .
    local scenario
    scenario=$(cat vm-scenario)
    step provision vagrant/provision.sh &&
        step doctor doctor &&
        step run sudo -u vagrant sudo make run "SCENARIO=$scenario" &&
        step commands commands
    echo "$?" >"$OUT/status"
    cp -r results "$OUT/results" 2>/dev/null
    { uname -a; cat /proc/cmdline /proc/mounts; free -m; dmesg; } >"$OUT/machine.txt" 2>&1
    tar -c -C "$OUT" . >"$(vagrant/guest-disk.sh results)"
    sync
}

# Its words go to the console and to a file; its status is the step's.
step() {
    local name=$1 status begun=$SECONDS
    shift
    echo "deftbed: vm: $name begins"
    "$@" </dev/null 2>&1 | tee "$OUT/$name.log"
    status=${PIPESTATUS[0]}
    echo "deftbed: vm: $name ended with status $status after $((SECONDS - begun)) s"
    return "$status"
}

doctor() {
    .venv/bin/deftbed doctor
    .venv/bin/deftbed doctor --json >"$OUT/doctor.json"
}

# Every line of vm-commands is a command, of root in the checkout, even after one that failed.
commands() {
    local line failed=0
    while IFS= read -r line; do
        echo "+ $line"
        bash -c "$line" </dev/null || failed=1
    done <vm-commands
    return "$failed"
}

main
