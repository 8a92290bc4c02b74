#!/usr/bin/env bash
# Installs what is missing, and says what and why: Debian packages (as root), then a virtual
# environment in .venv with the versions of requirements.lock, torch and the command deftbed.
# Safe to repeat; takes a moment when nothing is missing. With DEFTBED_START_NOTHING=yes Open
# vSwitch is not started: for a root that is not the running machine's.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/checkout.sh

readonly TORCH=2.13.0
readonly STAMP=.venv/deftbed-setup
# package, a command of it, and why it is needed
readonly PACKAGES="\
openvswitch-switch ovs-vsctl the switches
mininet mnexec the emulated hosts (PyPI's mininet lacks mnexec)
iproute2 ip interfaces, namespaces and traffic control
ethtool ethtool turning checksum offloads off
procps sysctl kernel settings
kmod modprobe probing for kernel modules
util-linux setpriv scheduling classes and handing files back
python3-venv - the virtual environment
iperf3 iperf3 the tests compare our traffic with it
tshark tshark the tests have it read our packets"

main() {
    export PATH="$PATH:/usr/sbin:/sbin"
    trap hand_back EXIT
    install_packages
    if ((EUID == 0)); then
        if [[ ${DEFTBED_START_NOTHING:-no} != yes ]]; then
            scripts/openvswitch.sh
            # The user hosts' edges need it; most systems load it when it is first opened.
            [[ -e /dev/net/tun ]] || modprobe tun || true
        fi
        install -d -m 755 /var/cache/deftbed
    fi
    local key
    key=$(environment_key)
    if [[ -x .venv/bin/python && -x .venv/bin/deftbed && -f $STAMP ]] &&
        [[ $(head -n 1 "$STAMP") == "$key" ]]; then
        compile_ahead
        return
    fi
    make_environment
    write_stamp "$key"
    compile_ahead
    say "set up"
}

# Compiled code is cached on disk; whoever first imports it after a change waits for minutes.
compile_ahead() {
    source scripts/environment.sh
    local cache=${NUMBA_CACHE_DIR:-$PWD/.numba}
    local mark
    mark=$cache/compiled-$(pwd | sha256sum | cut -c1-16)
    if [[ -f $mark && -z $(find testbed agents -name '*.py' -newer "$mark" -print -quit) ]]; then
        return
    fi
    say "compiling the data plane and the twin: a few minutes when their code is new"
    mkdir -p "$cache"
    touch "$mark.begun"
    .venv/bin/python -c 'import testbed.vnf.process.runtime, testbed.orchestration.detection.fdu' &
    compile_twin
    wait $!
    mv "$mark.begun" "$mark"
}

# The twin is compiled by what first learns on it: a training of a moment.
compile_twin() {
    local folder
    folder=$(mktemp -d)
    .venv/bin/deftbed train scenarios/smoke.yaml --decisions 1 --out "$folder/ppo.pt" \
        --calibration none --json >"$folder/report.json" 2>"$folder/log" || cat "$folder/log" >&2
    rm -r "$folder"
}

# What the environment was made from. Its scripts hold the checkout's path, so that counts too.
environment_key() {
    { pwd; find_python; cat requirements.lock scripts/setup.sh; } | sha256sum | cut -d' ' -f1
}

install_packages() {
    local missing=() name command why
    while read -r name command why; do
        if ! is_installed "$name" "$command"; then
            say "missing: $name, for $why"
            missing+=("$name")
        fi
    done <<<"$PACKAGES"
    if ((${#missing[@]} == 0)); then
        return
    fi
    if ! command -v apt-get >/dev/null; then
        fail "not a Debian system: install by hand ${missing[*]}"
    fi
    if ((EUID != 0)); then
        if ! sudo -n true 2>/dev/null; then
            fail "installing them needs root: run 'sudo make setup'"
        fi
        sudo -n -- "$PWD/scripts/setup.sh"
        exit
    fi
    say "apt-get update, then install ${missing[*]}"
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq
    apt-get install -y -qq --no-install-recommends -o Dpkg::Use-Pty=0 "${missing[@]}"
}

is_installed() {
    if command -v dpkg-query >/dev/null; then
        [[ $(dpkg-query -W -f='${db:Status-Status}' "$1" 2>/dev/null) == installed ]]
    elif [[ $2 == - ]]; then
        find_python >/dev/null
    else
        command -v "$2" >/dev/null
    fi
}

# A Python of 3.11 or later that can make environments; the system's own first.
find_python() {
    local candidate
    for candidate in /usr/bin/python3 python3 python3.13 python3.12 python3.11; do
        if "$candidate" -Ic \
            'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            command -v "$candidate"
            return
        fi
    done
    fail "no Python of 3.11 or later with venv; Debian 12 has it: apt-get install python3-venv"
}

make_environment() {
    local python
    python=$(find_python)
    say ".venv is missing or out of date: made anew with $python"
    as_owner rm -rf .venv
    as_owner "$python" -m venv .venv
    say "Python packages of requirements.lock ($(grep -c '^[a-z].*==' requirements.lock) pinned)"
    # Source packages are built with the setuptools of the lock, not with whatever is newest.
    sed -n '/^setuptools==/,/[^\\]$/p' requirements.lock |
        as_owner tee .venv/setuptools.lock >/dev/null
    pip_install --require-hashes --no-deps -r .venv/setuptools.lock
    # --no-deps: the lock is complete but for torch, which follows.
    pip_install --require-hashes --no-deps --no-build-isolation --use-pep517 -r requirements.lock
    install_torch
    install_command
    as_owner .venv/bin/python -m pip --disable-pip-version-check check
}

pip_install() {
    as_owner .venv/bin/python -m pip --disable-pip-version-check install --quiet "$@"
}

# The CPU build is a tenth of the size of the usual one, which brings CUDA along.
install_torch() {
    say "torch $TORCH for the learned policy: the CPU build"
    if pip_install --no-deps "torch==$TORCH+cpu" 2>/dev/null; then
        return
    fi
    if pip_install --no-deps --timeout 15 --retries 1 \
        --index-url https://download.pytorch.org/whl/cpu "torch==$TORCH+cpu" 2>/dev/null; then
        return
    fi
    say "no CPU build of torch is to be had from here: the usual one, several GB with CUDA"
    pip_install "torch==$TORCH"
}

# The packages are imported from the checkout itself; nothing is built or copied.
install_command() {
    local packages
    packages=$(as_owner .venv/bin/python -Ic \
        'import sysconfig; print(sysconfig.get_path("purelib"))')
    pwd | as_owner tee "$packages/deftbed.pth" >/dev/null
    as_owner tee .venv/bin/deftbed >/dev/null <<EOF
#!/bin/sh
''':'
# sh reads these lines, Python takes them for a string.
. "$PWD/scripts/environment.sh"
exec "$PWD/.venv/bin/python" "\$0" "\$@"
'''
import sys

from testbed.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
EOF
    as_owner chmod 755 .venv/bin/deftbed
}

# The key, then the versions in force, for whoever wants to know later.
write_stamp() {
    {
        echo "$1"
        date -u +%Y-%m-%dT%H:%M:%SZ
        .venv/bin/python --version
        .venv/bin/python -m pip list --format=freeze 2>/dev/null | grep -i '^torch=='
        if command -v dpkg-query >/dev/null; then
            local name
            while read -r name _; do
                dpkg-query -W "$name"
            done <<<"$PACKAGES"
        fi
    } | as_owner tee "$STAMP" >/dev/null
}

main
