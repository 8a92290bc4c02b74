"""Rooms import what lies below them, never back."""

from __future__ import annotations

import ast
import graphlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.places import ROOT

GROUND = {"compiled", "testbed"}
"""What every room may import: the way to compile, and the version."""
BELOW: dict[str, set[str]] = {
    "statistics": set(),
    "scenario": set(),
    "records": {"scenario", "statistics"},
    "twin": {"scenario"},
    "decisions": {"scenario", "twin"},
    "vnf": {"records", "scenario", "statistics"},
    "traffic": {"records", "scenario", "statistics"},
    "controller": {"records", "scenario", "statistics"},
    "results": {"decisions", "records", "scenario", "statistics"},
}
BELOW["substrate"] = {"vnf", "traffic", "controller", *BELOW["vnf"]}
BELOW["orchestration"] = {"substrate", "decisions", *BELOW["substrate"]}
BELOW["lab"] = {"orchestration", "twin", "results", *BELOW["orchestration"]}
BELOW["calibration"] = {"lab", *BELOW["lab"]}
BELOW["agents"] = {"calibration", *BELOW["calibration"]}
BELOW["cli"] = {"agents", *BELOW["agents"]}
"""What each room may import beside itself and the ground; a room is a folder of `testbed/`, or one
beside it."""


def modules() -> Iterator[Path]:
    for top in ("testbed", "controller", "traffic", "agents"):
        yield from sorted((ROOT / top).rglob("*.py"))


def imported(module: Path) -> Iterator[tuple[int, str]]:
    """The line and the dotted name of each import of a module, wherever it stands."""
    for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: imports are absolute"
            assert node.module is not None
            for alias in node.names:
                yield node.lineno, f"{node.module}.{alias.name}"


def room_of(name: str) -> str | None:
    """The room that a dotted name of the project lies in; None for a name of another project."""
    top, _, rest = name.partition(".")
    if top in ("agents", "controller", "traffic", "bench", "tests"):
        return top
    if top != "testbed":
        return None
    second = rest.partition(".")[0]
    return second if second in BELOW or second == "compiled" else "testbed"


def broken(module: Path) -> list[str]:
    """What a module imports that does not lie below it."""
    name = ".".join(module.relative_to(ROOT).with_suffix("").parts)
    room = room_of(name)
    assert room is not None
    allowed = GROUND | {room} | BELOW.get(room, set())
    return [
        f"{module.relative_to(ROOT)}:{line} imports {found}"
        for line, found in imported(module)
        if (there := room_of(found)) is not None and there not in allowed
    ]


def test_every_room_imports_only_what_lies_below_it() -> None:
    assert [each for module in modules() for each in broken(module)] == []


def test_the_testbed_never_imports_agents_but_where_it_composes() -> None:
    composing = [
        module.relative_to(ROOT).as_posix()
        for module in modules()
        for _, found in imported(module)
        if room_of(found) == "agents" and module.is_relative_to(ROOT / "testbed")
    ]
    assert composing and all(module.startswith("testbed/cli/") for module in composing)


def folders_below(room: str) -> dict[str, set[str]]:
    """Which folders of a room import which of the others; a folder counts with what is in it."""
    found: dict[str, set[str]] = {}
    depth = len(Path(room).parts) + 1
    for module in (ROOT / room).rglob("*.py"):
        parts = module.relative_to(ROOT).parts
        if len(parts) == depth:
            continue
        here = ".".join(parts[:depth])
        there = {name for _, name in imported(module)}
        found.setdefault(here, set()).update(there)
    return {
        here: {one for one in found for name in names if name.startswith(f"{one}.")} - {here}
        for here, names in found.items()
    }


@pytest.mark.parametrize("room", ["testbed/vnf", "testbed/orchestration", "testbed/lab", "agents"])
def test_the_folders_of_a_room_form_no_circle(room: str) -> None:
    graph = folders_below(room)
    assert len(graph) > 1
    assert len(list(graphlib.TopologicalSorter(graph).static_order())) == len(graph)


def test_no_module_lies_loose_and_every_folder_is_a_room() -> None:
    loose = {path.name for path in (ROOT / "testbed").glob("*.py")}
    assert loose == {"__init__.py", "compiled.py"}
    rooms = {path.name for path in (ROOT / "testbed").iterdir() if (path / "__init__.py").is_file()}
    assert rooms <= set(BELOW)


@pytest.mark.parametrize(
    "text",
    [
        "import agents.problems",
        "from agents import problems",
        "def f():\n    import testbed.lab.run",
    ],
)
def test_an_import_that_runs_back_is_found(text: str, tmp_path: Path) -> None:
    module = ROOT / "testbed" / "records" / "never_written.py"
    found = tmp_path / module.name
    found.write_text(text, encoding="utf-8")
    names = [name for _, name in imported(found)]
    assert [name for name in names if room_of(name) not in GROUND | BELOW["records"]] == names
