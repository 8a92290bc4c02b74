"""Code that is compiled by numba, and a cache on disk that knows all of its sources.

Numba's cache looks at the file that a function is in, not at what the function calls. So here a
module's cache lies in a folder named after the contents of the module and of all that it imports
from the project: a change anywhere below gives a new folder.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import logging
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numba
from numba.core import caching, dispatcher
from numba.cpython import numbers

KEPT_FOLDERS = 8
"""A module's caches of former sources stay for a while: other checkouts, the way back from an
experiment."""

_ROOT = Path(__file__).resolve().parent.parent


def _no_flags(_: Any) -> list[str]:
    return []


# Numba marks signed arithmetic "nsw": LLVM may take for granted that it never overflows. Hashes do,
# on purpose, and came out differently in one caller and in another, where their arguments were
# known. Without the mark it wraps, as numpy's does.
numbers._int_arith_flags = _no_flags


class _Cache(caching.FunctionCache):  # type: ignore[misc]
    """Numba's cache of a function; one that cannot be written is gone on without."""

    def save_overload(self, sig: Any, data: Any) -> None:
        try:
            super().save_overload(sig, data)
        except OSError as error:
            _tell_no_cache(self.cache_path, str(error))


dispatcher.FunctionCache = _Cache  # type: ignore[attr-defined]
_told: set[str] = set()


def _tell_no_cache(folder: str, why: str) -> None:
    """Say once in a process that compiled code is not kept, and why; all works without it."""
    if not _told:
        _told.add(folder)
        text = f"compiled code is not kept in {folder} ({why}): each start compiles anew"
        logging.getLogger(__name__).warning("deftbed: %s", text)


def compiled(*arguments: Any, **options: Any) -> Any:
    """`numba.njit` with the cache on; a decorator, with or without a signature.

    Division follows numpy (no ZeroDivisionError), so that nothing compiled raises for its data.
    """
    options = {"cache": True, "error_model": "numpy", **options}
    if len(arguments) == 1 and callable(arguments[0]):
        return _decorated(arguments[0], (), options)
    return lambda function: _decorated(function, arguments, options)


def compiled_view(function: Any) -> Any:
    """`compiled` for a function that makes no array: it only looks at, and into, those it gets.

    Without counting references a call costs nothing, however many arrays a named tuple holds.
    """
    return compiled(_nrt=False, nogil=True)(function)


def compiled_part(function: Any) -> Any:
    """`compiled_view` for a function that becomes a part of each that calls it.

    A call hands over copies of its named tuples: dozens of arrays cost more than a short function.
    """
    return compiled(_nrt=False, nogil=True, forceinline=True)(function)


def compiled_sum(function: Any) -> Any:
    """`compiled_view` where the order of a sum may be changed, so that it is done in vectors."""
    return compiled(_nrt=False, nogil=True, fastmath=True)(function)


@functools.cache
def sources_digest(module: str) -> str:
    """A name for the contents of a module of the project and of what it imports from there.

    Numba and its setting of checked bounds, which its cache does not look at, count too.
    """
    numba_is = f"{numba.__version__} {numba.config.BOUNDSCHECK}"
    digest = hashlib.blake2b(numba_is.encode(), digest_size=8)
    for name in sorted(_reached(module)):
        path = _path(name)
        digest.update(name.encode())
        digest.update(path.read_bytes() if path is not None else b"")
    return digest.hexdigest()


def _reached(module: str) -> set[str]:
    reached: set[str] = set()
    ahead = [module]
    while ahead:
        name = ahead.pop()
        path = _path(name)
        if name in reached or path is None:
            continue
        reached.add(name)
        ahead += _imported(path)
    return reached


@functools.cache
def _imported(path: Path) -> list[str]:
    """Names that may be modules: what is imported from a package may be one itself."""
    names = []
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return names


@functools.cache
def _path(module: str) -> Path | None:
    path = _ROOT.joinpath(*module.split("."))
    for candidate in (path.with_suffix(".py"), path / "__init__.py"):
        if candidate.is_file():
            return candidate
    return None


@functools.cache
def _folder(module: str) -> str | None:
    base = Path(os.environ.get("NUMBA_CACHE_DIR") or _ROOT / ".numba")
    folder = base / f"{module}-{sources_digest(module)}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        os.utime(folder)
        with tempfile.TemporaryFile(dir=folder):  # else numba would look for a place of its own
            pass
        _prune(base, module)
    except OSError as error:
        _tell_no_cache(str(base), str(error))
        return None
    return str(folder)


def _prune(base: Path, module: str) -> None:
    ages = {}
    for path in base.glob(f"{module}-*"):
        # Another process may prune at the same time.
        try:
            ages[path] = path.stat().st_mtime
        except FileNotFoundError:
            continue
    for stale in sorted(ages, key=ages.__getitem__, reverse=True)[KEPT_FOLDERS:]:
        shutil.rmtree(stale, ignore_errors=True)


def _decorated(function: Any, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
    # Numba reads the setting when a function is decorated. It is the whole process's: left as it
    # is, what is decorated next in another way would keep its cache in this module's folder.
    folder = _folder(function.__module__)
    if folder is None:
        return numba.njit(*arguments, **{**options, "cache": False})(function)
    before = numba.config.CACHE_DIR
    numba.config.CACHE_DIR = folder
    try:
        return numba.njit(*arguments, **options)(function)
    finally:
        numba.config.CACHE_DIR = before
