"""A pytest plugin: an emulation test that fails leaves its logs and captures where a person looks.

What the test, and the fixtures that its file shares, wrote into pytest's temporary folders is
copied to `build/failed-tests/<name of the test>`, before fixtures take it away. The end of pytest's
output says where.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from testbed.results.folder import hand_back
from tests.support.places import ROOT

VARIABLE = "DEFTBED_FAILED_TESTS"
"""The environment variable that names another folder."""
LARGEST_BYTES = 50_000_000

_made: dict[str, list[Path]] = {}
"""The temporary folders that were made while a test ran or was set up, by the test."""
_kept: list[Path] = []
_mktemp = pytest.TempPathFactory.mktemp


def _noted(self: pytest.TempPathFactory, *arguments: Any, **named: Any) -> Path:
    folder = _mktemp(self, *arguments, **named)
    running = os.environ.get("PYTEST_CURRENT_TEST", "").rpartition(" (")[0]
    _made.setdefault(running, []).append(folder)
    return folder


pytest.TempPathFactory.mktemp = _noted  # type: ignore[method-assign]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Keep what an emulation test that fails has written."""
    report = yield
    if report.failed and item.get_closest_marker("emulation") is not None:
        _keep(item.nodeid)
    return report


def _keep(name: str) -> None:
    into = Path(os.environ.get(VARIABLE, ROOT / "build" / "failed-tests"))
    into /= re.sub(r"[^\w.-]+", "-", name).strip("-")
    shutil.rmtree(into, ignore_errors=True)
    for folder in _folders_of(name):
        if folder.is_dir() and any(folder.iterdir()):
            shutil.copytree(folder, into / folder.name, ignore=_too_large, symlinks=True)
    if into.is_dir():
        hand_back(into)
        _kept.append(into)


def _folders_of(name: str) -> list[Path]:
    """Those of the test itself, and those of its file that no single test has for itself."""
    file = name.partition("::")[0]
    shared = [
        folder
        for other, folders in _made.items()
        for folder in folders
        if other.partition("::")[0] == file and not folder.name.startswith("test_")
    ]
    return list(dict.fromkeys([*_made.get(name, []), *shared]))


def _too_large(folder: str, names: list[str]) -> list[str]:
    """Files that are no regular ones (sockets), or too large."""
    left_out = []
    for name in names:
        path = Path(folder) / name
        if path.is_symlink() or path.is_dir():
            continue
        if not path.is_file() or path.stat().st_size > LARGEST_BYTES:
            left_out.append(name)
    return left_out


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Say where the files of failed tests are."""
    for folder in _kept:
        terminalreporter.write_line(f"logs and captures of a failed test: {folder}")
