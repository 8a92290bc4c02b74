# Sourced: where tools keep their caches. What root runs must leave nothing in a user's checkout.
# Plain sh: the command deftbed, the Makefile and the scripts all read it.
if [ "$(id -u)" = 0 ]; then
    deftbed_cache=/var/cache/deftbed
    # A run starts dozens of processes: without compiled modules each of them takes seconds more.
    unset PYTHONDONTWRITEBYTECODE
    export PYTHONPYCACHEPREFIX="$deftbed_cache/pycache"
    export NUMBA_CACHE_DIR="$deftbed_cache/numba"
    export MPLCONFIGDIR="$deftbed_cache/matplotlib"
    export RUFF_CACHE_DIR="$deftbed_cache/ruff"
    export MYPY_CACHE_DIR="$deftbed_cache/mypy"
    export HYPOTHESIS_STORAGE_DIRECTORY="$deftbed_cache/hypothesis"
    export PYTEST_ADDOPTS="-o cache_dir=$deftbed_cache/pytest ${PYTEST_ADDOPTS:-}"
    # Open vSwitch's tools are in sbin, which a user's PATH often lacks.
    export PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin"
fi
