#!/usr/bin/env bash
# Writes the checkout as a tar file on standard output: what git knows and what it does not ignore.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
git -c safe.directory="$PWD" ls-files -z --cached --others --exclude-standard |
    while IFS= read -r -d '' name; do
        # A file may be gone though git still knows it; a link to an environment is not wanted.
        if [[ -f $name && $name != .venv ]]; then
            printf '%s\0' "$name"
        fi
    done |
    # Whole seconds of the times would make compiled code look older than its source.
    tar -c --format=posix --owner=0 --group=0 --null --no-recursion -T -
