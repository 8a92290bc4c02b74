#!/usr/bin/env bash
# Boots Debian 12 in QEMU, with this checkout, the same provision.sh as under Vagrant and Debian's
# own kernel (Open vSwitch's module, netem, cgroup v2), runs a scenario and brings the results back.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/checkout.sh

usage() {
    cat <<'END'
Usage: vagrant/vm-test.sh [OPTION]... [COMMAND]...

  --scenario FILE  what `make run` runs in the machine (scenarios/smoke.yaml)
  --out FOLDER     where the results go (results/vm-<time>)
  --accel NAME     kvm or tcg (kvm if it works here, else tcg: about ten times slower)
  --cpus N         processors of the machine (2)
  --memory MB      memory of the machine (4096)
  --limit SECONDS  the machine is ended after this time (3600)
  --rebuild        make the image in build/vm anew
  --image-only     make the image, boot nothing

Each COMMAND is carried out after that, by root in the checkout in the machine; its output is in
commands.log, and what it writes to /var/tmp/deftbed-out comes back too.
Needs qemu-system-x86, mmdebstrap and e2fsprogs; root the first time, to make the image.
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
        --accel) accel=$(one_of "$1" "$2" kvm tcg) ;;
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
    for pair in qemu-system-x86_64:qemu-system-x86 mmdebstrap:mmdebstrap mke2fs:e2fsprogs; do
        command -v "${pair%%:*}" >/dev/null || missing+=("${pair##*:}")
    done
    ((${#missing[@]} == 0)) || fail "vm-test needs: apt-get install ${missing[*]}"
}

# build/vm holds one image; its name says what it was made from.
image() {
    local key
    key=$(cat requirements.lock scripts/setup.sh vagrant/{provision,image}.sh \
        vagrant/guest.service | sha256sum | cut -c1-16)
    folder=build/vm/$key
    [[ -z $rebuild ]] || rm -rf --one-file-system "$folder"
    if [[ -f $folder/root.img ]]; then
        return
    fi
    find build/vm -mindepth 1 -maxdepth 1 -exec rm -rf --one-file-system {} +
    vagrant/image.sh "$folder"
}

# qemu's words for KVM if it works here, else for software emulation. A /dev/kvm on a processor
# without virtualisation starts a machine that never boots; and some hosts refuse the guest one of
# their processor's registers: qemu ends at once then.
accelerator() {
    local each
    for each in "kvm -cpu host" "kvm -cpu host,arch-capabilities=off" "tcg,thread=multi -cpu max"; do
        [[ -z $accel || $each == "$accel"* ]] || continue
        [[ $each == tcg* ]] || grep -qwE 'vmx|svm' /proc/cpuinfo || continue
        # shellcheck disable=SC2086  # several words
        if echo quit | timeout 20 qemu-system-x86_64 -accel $each -m 64 -S -display none \
            -nic none -monitor stdio >/dev/null 2>&1; then
            printf '%s' "$each"
            return
        fi
    done
    fail "qemu starts with none of the accelerators asked for (${accel:-kvm, tcg})"
}

boot() {
    local how
    how=$(accelerator)
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    vagrant/checkout-tar.sh >"$work/checkout.tar"
    printf '%s\n' "$scenario" >"$work/vm-scenario"
    printf '%s\n' "${commands[@]:-true}" >"$work/vm-commands"
    tar -r --format=posix -f "$work/checkout.tar" -C "$work" vm-scenario vm-commands
    truncate -s %512 "$work/checkout.tar"
    truncate -s 4G "$work/results.tar"
    say "booting with ${how%% *}, $cpus CPUs, $memory_mb MB"
    # shellcheck disable=SC2086,SC2046  # several words
    timeout --foreground "$limit_s" qemu-system-x86_64 -accel $how -smp "$cpus" -m "$memory_mb" \
        -display none -serial stdio -monitor none -nic none -no-reboot \
        -pidfile "$folder/qemu.pid" \
        -kernel "$folder/vmlinuz" -initrd "$folder/initrd.img" \
        -append "root=/dev/vda rootdelay=300 rw console=ttyS0 quiet" \
        -drive "file=$folder/root.img,format=raw,if=virtio,cache=unsafe" \
        $(disk checkout "$work/checkout.tar") $(disk results "$work/results.tar") \
        </dev/null | tee "$work/console.log" ||
        say "qemu ended with a status that is not 0, or after $limit_s s"
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
