"""The room stands on the ground: it imports nothing of the project but itself."""

from __future__ import annotations

import ast
from pathlib import Path

from tests.support.places import ROOT

ROOM = ROOT / "testbed" / "statistics"
PROJECT = ("testbed", "agents", "controller", "traffic", "bench", "tests")


def imported(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {each.name for each in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module or "")
    return found


def test_it_imports_nothing_of_the_project() -> None:
    files = list(ROOM.glob("*.py"))
    assert len(files) >= 5
    for path in files:
        of_the_project = {each for each in imported(path) if each.split(".")[0] in PROJECT}
        assert {e for e in of_the_project if not e.startswith("testbed.statistics")} == set(), path
