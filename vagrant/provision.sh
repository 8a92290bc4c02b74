#!/usr/bin/env bash
# Runs as root in the new machine: what make needs, then what deftbed needs.
set -euo pipefail
export DEBIAN_FRONTEND=noninteractive
if ! command -v make >/dev/null || ! command -v git >/dev/null; then
    apt-get update -qq
    apt-get install -y -qq --no-install-recommends git make python3
fi
cd /home/vagrant/deftbed
make setup
