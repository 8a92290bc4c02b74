"""Every compiled function of the tree goes through `testbed.compiled`, whose cache it needs."""

from __future__ import annotations

import ast
from collections.abc import Iterator

import pytest

from tests.support.places import ROOT

FOLDERS = ("agents", "bench", "controller", "scripts", "testbed", "tests", "traffic")
ONLY = ROOT / "testbed" / "compiled.py"
COMPILERS = {
    "jit", "njit", "vectorize", "guvectorize", "cfunc", "stencil", "generated_jit", "jit_module",
    "jitclass", "CACHE_DIR",
}  # fmt: skip
"""Names of numba that compile, or say where what is compiled is kept."""


def compilers(source: str) -> Iterator[tuple[int, str]]:
    """(line, name) of each use of one of COMPILERS: imported, or by a name of the module."""
    tree = ast.parse(source)
    modules: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == "numba":
                    modules.add(alias.asname or "numba")
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "numba":
            for alias in node.names:
                modules.add(alias.asname or alias.name)
                if alias.name in COMPILERS or alias.name == "*":
                    yield node.lineno, alias.name
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr in COMPILERS and _root(node) in modules:
            yield node.lineno, node.attr


def _root(node: ast.expr) -> str:
    while isinstance(node, ast.Attribute):
        node = node.value
    return node.id if isinstance(node, ast.Name) else ""


def test_nothing_is_compiled_past_the_cache_that_knows_its_sources() -> None:
    files = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]
    assert len(files) > 300 and ONLY in files
    found = {
        f"{path.relative_to(ROOT)}:{line}: {name}"
        for path in files
        if path != ONLY
        for line, name in compilers(path.read_text(encoding="utf-8"))
    }
    assert not found, f"use testbed.compiled: {sorted(found)}"


def test_every_folder_with_code_is_looked_at() -> None:
    kept = {".git", ".venv", ".venv-lock", ".numba"}
    with_code = {
        path.relative_to(ROOT).parts[0]
        for top in ROOT.iterdir()
        if top.is_dir() and top.name not in kept
        for path in top.rglob("*.py")
    }
    assert with_code <= set(FOLDERS) | {"vagrant", "shared"}


@pytest.mark.parametrize(
    "source",
    [
        "import numba\n@numba.njit(cache=True)\ndef f(): ...",
        "import numba as nb\nf = nb.jit(len)",
        "from numba import njit as quick",
        "from numba import *",
        "import numba.core.decorators\nnumba.core.decorators.njit(len)",
        "from numba import experimental\n@experimental.jitclass\nclass A: ...",
        "from numba.experimental import jitclass",
        "from numba import config\nconfig.CACHE_DIR = ''",
        "def f():\n    import numba\n    numba.config.CACHE_DIR = ''",
    ],
)
def test_whatever_compiles_is_seen(source: str) -> None:
    assert list(compilers(source))


def test_what_does_not_compile_is_let_through() -> None:
    source = "import numba\nfrom numba import types\nx = numba.carray\n"
    assert not list(compilers(source + "y = other.njit\nz = types.int64"))
