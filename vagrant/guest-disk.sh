#!/usr/bin/env bash
# guest-disk.sh checkout|results: the disk of that name in the machine that vm-test.sh has booted.
# QEMU's disks are named; those of user-mode Linux are known by their order.
set -euo pipefail
case $1 in
    checkout) candidates=(/dev/disk/by-id/virtio-checkout /dev/ubdb) ;;
    results) candidates=(/dev/disk/by-id/virtio-results /dev/ubdc) ;;
esac
for each in "${candidates[@]}"; do
    if [[ -e $each ]]; then
        echo "$each"
        exit
    fi
done
echo "guest-disk.sh: $1: none of ${candidates[*]}" >&2
exit 1
