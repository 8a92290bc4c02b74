#!/usr/bin/env bash
# Boots Debian 12 in a machine, with this checkout, the same provision.sh as under Vagrant and a
# kernel of Debian's (Open vSwitch's module, netem, cgroup v2), runs a scenario and brings the
# results back. The machine is QEMU's, or Debian's user-mode kernel where QEMU has no KVM.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/checkout.sh

MAPPINGS=1048576
MAPPINGS_SETTING=/proc/sys/vm/max_map_count
mappings_before=

usage() {
    cat <<'END'
Usage: vagrant/vm-test.sh [OPTION]... [COMMAND]...

  --scenario FILE  what `make run` runs in the machine (scenarios/smoke.yaml)
  --out FOLDER     where the results go (results/vm-<time>)
  --accel NAME     kvm; uml: Debian's user-mode Linux, one processor, about as fast as the host
                   but for system calls; tcg: QEMU's software emulation, about ten times slower
                   (the first of these that works here)
  --cpus N         processors of the machine (2; uml has one)
  --memory MB      memory of the machine (4096)
  --limit SECONDS  the machine is ended after this time (3600)
  --rebuild        make the image in build/vm anew
  --image-only     make the image, boot nothing

Each COMMAND is carried out after that, by root in the checkout in the machine; its output is in
commands.log, and what it writes to /var/tmp/deftbed-out comes back too.
Needs qemu-system-x86 or user-mode-linux, mmdebstrap and e2fsprogs; root the first time, to make
the image.
END
}

main() {
    scenario=scenarios/smoke.yaml
    out=
    accel=
    cpus=2
    memory_mb=4096
    limit_s=3600
    rebuild=
    image_only=
    commands=()
    while (($#)); do
        case $1 in
            --scenario | --out | --accel | --cpus | --memory | --limit)
                (($# > 1)) || bad "$1 needs a value"
                set_option "$1" "$2"
                shift
                ;;
            --rebuild) rebuild=yes ;;
            --image-only) image_only=yes ;;
            -h | --help) usage && exit ;;
            -*) bad "no option $1" ;;
            *) commands+=("$1") ;;
        esac
        shift
    done
    [[ -f $scenario ]] || bad "--scenario $scenario: no such file in this checkout"
    [[ -z $out || ! -e $out ]] || bad "--out $out: exists already"
    need_tools
    mkdir -p build/vm
    # One at a time: the image is written to, and an image of other sources is removed.
    exec {lock}>build/vm.lock
    flock --nonblock "$lock" || fail "another vm-test is under way in this checkout"
    image
    [[ -z $image_only ]] || exit 0
    boot
    collect
}

set_option() {
    case $1 in
        --scenario) scenario=$2 ;;
        --out) out=$2 ;;
        --accel) accel=$(one_of "$1" "$2" kvm uml tcg) ;;
        --cpus) cpus=$(number "$1" "$2") ;;
        --memory) memory_mb=$(number "$1" "$2") ;;
        --limit) limit_s=$(number "$1" "$2") ;;
    esac
}

bad() {
    printf 'vm-test.sh: %s; --help says what there is\n' "$1" >&2
    exit 2
}

one_of() {
    local option=$1 value=$2 each
    shift 2
    for each in "$@"; do
        [[ $each == "$value" ]] && printf '%s' "$value" && return
    done
    bad "$option $value: expected one of $*"
}

number() {
    [[ $2 =~ ^[1-9][0-9]*$ ]] || bad "$1 $2: expected a number of 1 or more"
    printf '%s' "$2"
}

need_tools() {
    local missing=() pair
    export PATH="$PATH:/usr/sbin:/sbin"
    for pair in mmdebstrap:mmdebstrap mke2fs:e2fsprogs; do
        command -v "${pair%%:*}" >/dev/null || missing+=("${pair##*:}")
    done
    command -v qemu-system-x86_64 linux.uml >/dev/null ||
        missing+=("qemu-system-x86 (or user-mode-linux)")
    ((${#missing[@]} == 0)) || fail "vm-test needs: apt-get install ${missing[*]}"
}

# build/vm holds one image; its name says what it was made from.
image() {
    local key
    key=$(cat requirements.lock scripts/setup.sh vagrant/{provision,image,guest-disk}.sh \
        vagrant/guest.service | sha256sum | cut -c1-16)
    folder=build/vm/$key
    [[ -z $rebuild ]] || rm -rf --one-file-system "$folder"
    if [[ -f $folder/root.img ]]; then
        return
    fi
    find build/vm -mindepth 1 -maxdepth 1 -exec rm -rf --one-file-system {} +
    vagrant/image.sh "$folder"
}

# "uml", or qemu's words for KVM or software emulation: the first that works here. A /dev/kvm on a
# processor without virtualisation starts a machine that never boots; and some hosts refuse the
# guest one of their processor's registers: qemu ends at once then.
accelerator() {
    local each
    for each in "kvm -cpu host" "kvm -cpu host,arch-capabilities=off" uml \
        "tcg,thread=multi -cpu max"; do
        [[ -z $accel || $each == "$accel"* ]] || continue
        [[ $each != kvm* ]] || grep -qwE 'vmx|svm' /proc/cpuinfo || continue
        # shellcheck disable=SC2086  # several words
        if [[ $each == uml ]]; then
            linux.uml --version >/dev/null 2>&1 || continue
            if has_large_vectors && ! command -v cc >/dev/null; then
                say "user-mode Linux needs a compiler on this processor: apt-get install gcc libc6-dev" >&2
                continue
            fi
        else
            echo quit | timeout 20 qemu-system-x86_64 -accel $each -m 64 -S -display none \
                -nic none -monitor stdio >/dev/null 2>&1 || continue
        fi
        printf '%s' "$each"
        return
    done
    fail "no machine starts with what was asked for (${accel:-kvm, uml, tcg})"
}

boot() {
    local how
    how=$(accelerator)
    work=$(mktemp -d)
    trap end_of_machine EXIT
    vagrant/checkout-tar.sh >"$work/checkout.tar"
    printf '%s\n' "$scenario" >"$work/vm-scenario"
    printf '%s\n' "${commands[@]:-true}" >"$work/vm-commands"
    tar -r --format=posix -f "$work/checkout.tar" -C "$work" vm-scenario vm-commands
    truncate -s %512 "$work/checkout.tar"
    truncate -s 4G "$work/results.tar"
    [[ $how != uml ]] || allow_mappings
    if [[ $how == uml ]]; then
        say "booting user-mode Linux with $memory_mb MB"
        user_mode_linux
    else
        say "booting with ${how%% *}, $cpus CPUs, $memory_mb MB"
        qemu "$how"
    fi </dev/null | tee "$work/console.log" ||
        say "the machine ended with a status that is not 0, or after $limit_s s"
}

qemu() {
    # shellcheck disable=SC2086,SC2046  # several words
    timeout --foreground "$limit_s" qemu-system-x86_64 -accel $1 -smp "$cpus" -m "$memory_mb" \
        -display none -serial stdio -monitor none -nic none -no-reboot \
        -pidfile "$folder/qemu.pid" \
        -kernel "$folder/vmlinuz" -initrd "$folder/initrd.img" \
        -append "root=/dev/vda rootdelay=300 rw console=ttyS0 quiet" \
        -drive "file=$folder/root.img,format=raw,if=virtio,cache=unsafe" \
        $(disk checkout "$work/checkout.tar") $(disk results "$work/results.tar")
}

# Its disks have no names: the second is the checkout, the third the results (guest-disk.sh).
user_mode_linux() {
    local preloaded=
    if has_large_vectors; then
        preloaded=$work/uml-xstate.so
        cc -O2 -shared -fPIC -o "$preloaded" vagrant/uml-xstate.c
    fi
    LD_PRELOAD=$preloaded timeout --foreground "$limit_s" linux.uml "mem=${memory_mb}M" "uml_dir=$work/uml" \
        "ubd0=$folder/root.img" "ubd1r=$work/checkout.tar" "ubd2=$work/results.tar" \
        root=/dev/ubda rw console=ttyS0 quiet con=null ssl=null ssl0=null,fd:1
}

# Each program in user-mode Linux is a process here, with a mapping for nearly every page: compiling
# takes more of them than a host allows by default.
allow_mappings() {
    local allowed
    allowed=$(cat "$MAPPINGS_SETTING")
    if ((allowed < MAPPINGS)) && [[ -w $MAPPINGS_SETTING ]]; then
        mappings_before=$allowed
        echo "$MAPPINGS" >"$MAPPINGS_SETTING"
    fi
}

# Whatever ends the script: the host has the mappings that it had.
end_of_machine() {
    rm -rf "$work"
    [[ -z $mappings_before ]] || echo "$mappings_before" >"$MAPPINGS_SETTING"
}

# Whether the processor has more vector state than user-mode Linux has room for (uml-xstate.c).
has_large_vectors() {
    grep -qw amx_tile /proc/cpuinfo
}

# qemu's words for a disk with a name.
disk() {
    printf -- '-drive file=%s,format=raw,if=none,id=%s -device virtio-blk-pci,drive=%s,serial=%s' \
        "$2" "$1" "$1" "$1"
}

collect() {
    out=${out:-results/vm-$(date +%Y%m%d-%H%M%S)}
    mkdir -p "$out"
    cp "$work/console.log" "$out/"
    if ! tar -x -C "$out" -f "$work/results.tar" --no-same-owner 2>/dev/null ||
        [[ ! -f $out/status ]]; then
        fail "the machine handed out no results; see $out/console.log"
    fi
    hand_back
    say "results: $out"
    exit "$(cat "$out/status")"
}

main "$@"
