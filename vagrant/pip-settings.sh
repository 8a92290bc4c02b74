# shellcheck shell=bash
# Sourced by bash: how pip of this machine is configured, for a root that is made here.

# The pip configuration of whoever calls, as environment variables: its files, scope by scope,
# then the environment itself, which goes first with pip too.
pip_settings() {
    command -v pip3 >/dev/null || return 0
    pip3 config list 2>/dev/null | sed -nE "s/^[a-z]+\.([a-z-]+)='(.*)'$/\1 \2/p" |
        while read -r name value; do
            name=${name^^}
            printf 'PIP_%s=%s\n' "${name//-/_}" "${value//\\n/ }"
        done
    env | grep -E '^PIP_' || true
}

# Files and folders of this machine that pip's configuration and the certificates' variables name.
# The packages of an index in a folder `simple` lie beside that folder.
pip_paths() {
    { pip_settings; env | grep -E '^(SSL|CURL|REQUESTS)_[A-Z_]*='; } |
        tr '= ' '\n' | sed -nE 's#^(file://)?(/[^:]+)$#\2#p' | sed 's#/simple/*$##' | sort -u
}
