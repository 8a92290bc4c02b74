# Sourced by bash: who owns the checkout, and how root works on that person's behalf.

say() { printf 'deftbed: %s\n' "$*"; }
fail() { printf 'deftbed: %s\n' "$*" >&2; exit 1; }

# uid:gid of the person the checkout belongs to: who called sudo, else the folder's owner.
checkout_owner() {
    if [[ -n ${SUDO_UID:-} && $SUDO_UID != 0 ]] && [[ $(stat -c %u .) == "$SUDO_UID" ]]; then
        printf '%s:%s' "$SUDO_UID" "${SUDO_GID:-$SUDO_UID}"
    else
        stat -c %u:%g .
    fi
}

# Run a command as the checkout's owner, with that person's home and no cache of root's.
as_owner() {
    local owner home
    owner=$(checkout_owner)
    if ((EUID != 0)) || [[ ${owner%%:*} == 0 ]]; then
        "$@"
        return
    fi
    home=$(getent passwd "${owner%%:*}" | cut -d: -f6) || home=
    [[ -d $home ]] || home=/tmp
    setpriv --reuid "${owner%%:*}" --regid "${owner##*:}" --clear-groups \
        env -u PYTHONPYCACHEPREFIX HOME="$home" "$@"
}

# Give the checkout's owner whatever root left in it, and name it.
hand_back() {
    local owner count
    owner=$(checkout_owner)
    if ((EUID != 0)) || [[ ${owner%%:*} == 0 ]]; then
        return
    fi
    count=$(find . -xdev -user 0 -printf . | wc -c)
    if ((count > 0)); then
        find . -xdev -user 0 -exec chown -h "$owner" {} +
        say "handed $count files and folders that root made in this checkout to uid ${owner%%:*}"
    fi
}
