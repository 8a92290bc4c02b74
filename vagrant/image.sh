#!/usr/bin/env bash
# image.sh FOLDER: makes root.img, vmlinuz and initrd.img of a Debian 12 in FOLDER, in which
# provision.sh has installed what deftbed needs. Needs root and mmdebstrap. Packages come from
# where this machine has them from: its apt sources (where it is a Debian 12), its proxies, its
# pip configuration and its certificates, which are lent to the root while it is made.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/checkout.sh
source vagrant/pip-settings.sh

readonly SUITE=bookworm
readonly MIRROR=http://deb.debian.org/debian
readonly IMAGE_SIZE=12G
# What a Vagrant box has before provision.sh runs.
readonly BOX=systemd-sysv,udev,dbus,sudo,ca-certificates,initramfs-tools,linux-image-cloud-amd64

main() {
    (($# == 1)) || fail "image.sh: expected one argument, a folder"
    ((EUID == 0)) || fail "image.sh: making a root needs root"
    folder=$(mkdir -p "$1" && cd "$1" && pwd)
    root=$folder/root
    # In a mount namespace of its own: whatever is lent to the root goes with this process.
    if [[ ${DEFTBED_IMAGE_STEP:-} != made-apart ]]; then
        DEFTBED_IMAGE_STEP=made-apart exec unshare --mount --propagation private -- "$PWD/vagrant/image.sh" "$folder"
    fi
    rm -rf --one-file-system "$root" "$folder"/{root.img,vmlinuz,initrd.img}
    bootstrap
    add_user
    add_checkout
    provision
    pack
}

bootstrap() {
    say "a root of Debian $SUITE"
    apt-config dump Acquire 2>/dev/null >"$folder/apt.conf" || true
    local sources=("$MIRROR")
    if grep -qsx "VERSION_CODENAME=$SUITE" /etc/os-release; then
        mapfile -t sources < <(find /etc/apt -name '*.list' -o -name '*.sources')
    fi
    mmdebstrap --quiet --mode=root --variant=minbase --include="$BOX" \
        --aptopt="$folder/apt.conf" "$SUITE" "$root" "${sources[@]}"
}

add_user() {
    chroot "$root" useradd --create-home --shell /bin/bash vagrant
    printf '%s\n' 'vagrant ALL=(ALL) NOPASSWD: ALL' 'Defaults env_keep += "NUMBA_CPU_NAME"' \
        >"$root/etc/sudoers.d/vagrant"
    echo deftbed >"$root/etc/hostname"
    printf '127.0.0.1 localhost deftbed\n' >"$root/etc/hosts"
    # User-mode Linux has its modules from the host it runs on; QEMU knows no hostfs.
    printf '%s\n' '/dev/root / ext4 defaults 0 0' \
        'none /usr/lib/modules hostfs nofail,ro,/usr/lib/uml/modules 0 0' >"$root/etc/fstab"
    install -D -m 755 vagrant/guest-disk.sh "$root/usr/local/lib/deftbed/guest-disk.sh"
    cp vagrant/guest.service "$root/etc/systemd/system/deftbed-guest.service"
    chroot "$root" systemctl --quiet enable deftbed-guest.service
    chroot "$root" systemctl --quiet disable apt-daily.timer apt-daily-upgrade.timer
    chroot "$root" systemctl --quiet mask serial-getty@ttyS0.service
}

add_checkout() {
    local home=$root/home/vagrant/deftbed
    mkdir "$home"
    vagrant/checkout-tar.sh | tar -x -C "$home"
    chroot "$root" chown -R vagrant:vagrant /home/vagrant/deftbed
}

# provision.sh installs and compiles, but starts nothing: this is not yet the machine. Its processor
# is not this one's either, so what is compiled is for any (guest.sh asks for the same).
provision() {
    say "provision.sh in the root"
    local path
    for path in /proc /sys /dev; do
        mount --rbind "$path" "$root$path"
    done
    for path in /etc/hosts /etc/resolv.conf $(pip_paths); do
        lend "$path"
    done
    # A package that is installed here must not start its service.
    printf '#!/bin/sh\nexit 101\n' >"$root/usr/sbin/policy-rc.d"
    chmod 755 "$root/usr/sbin/policy-rc.d"
    local settings=()
    mapfile -t settings < <(pip_settings)
    env "${settings[@]}" PIP_NO_CACHE_DIR=1 DEFTBED_START_NOTHING=yes \
        NUMBA_CPU_NAME=generic PATH=/usr/sbin:/usr/bin:/sbin:/bin \
        chroot "$root" bash /home/vagrant/deftbed/vagrant/provision.sh
    rm "$root/usr/sbin/policy-rc.d"
    umount --recursive --lazy "$root"/{proc,sys,dev}
    while read -r path; do
        umount "$path"
    done < <(awk -v root="$root/" 'index($2, root) == 1 { print $2 }' /proc/mounts | tac)
}

# Show a file or folder of this machine at the same place in the root.
lend() {
    [[ -e $1 ]] || return 0
    if [[ -d $1 ]]; then
        mkdir -p "$root$1"
    else
        mkdir -p "$(dirname "$root$1")"
        [[ -e $root$1 ]] || touch "$root$1"
    fi
    mount --bind "$1" "$root$1"
}

pack() {
    say "the image"
    # The checkout of the day comes with each boot; its environment stays in the image.
    find "$root/home/vagrant/deftbed" -mindepth 1 -maxdepth 1 ! -name .venv -exec rm -rf {} +
    rm -rf "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/*
    cp "$root"/boot/vmlinuz-* "$folder/vmlinuz"
    cp "$root"/boot/initrd.img-* "$folder/initrd.img"
    truncate -s "$IMAGE_SIZE" "$folder/root.part"
    mke2fs -q -t ext4 -d "$root" "$folder/root.part"
    rm -rf --one-file-system "$root"
    mv "$folder/root.part" "$folder/root.img"
}

main "$@"
