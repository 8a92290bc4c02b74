#!/usr/bin/env bash
# lock.sh UV: pins requirements.in and all that follows from it in requirements.lock, by hash.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
uv=$1
lock=$(mktemp)
override=$(mktemp)
trap 'rm -f "$lock" "$override"' EXIT
# stable-baselines3 asks for torch, whose usual build brings CUDA; setup.sh installs torch.
echo "torch; python_version < '3'" >"$override"
"$uv" pip compile requirements.in --generate-hashes --universal --python-version 3.11 \
    --override "$override" --no-annotate --no-header --quiet --output-file "$lock"
if grep -qiE '^(torch|triton|nvidia-)|file:|https?:' "$lock"; then
    echo "lock.sh: the lock must name neither torch nor CUDA nor where files are from" >&2
    exit 1
fi
{
    echo "# Made by 'make lock' from requirements.in; every file that pip may take is pinned by its hash."
    cat "$lock"
} >requirements.lock
