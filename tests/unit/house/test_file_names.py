"""A name stands for one thing: two files do not share theirs, and neither do two folders.

The same part of two problems has the same name in the folder of each; a file that is named after a
problem holds what its room has for this problem.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from pathlib import PurePosixPath

import pytest

from agents.problems import PROBLEMS
from tests.support.places import ROOT

TOPS = ("testbed", "agents", "controller", "traffic", "bench")
ANYWHERE = {"__init__", "__main__"}
ALLOWED = {
    "testbed/decisions/problem.py",  # the type; each problem's folder has its value
    "testbed/scenario/model.py",
    "testbed/scenario/types.py",
    "testbed/vnf/functions/config.py",
}
"""Files that have the name of a problem's part. All but the first await a name of their own."""


def part(path: PurePosixPath) -> str:
    """Where a file or a folder lies, with every problem's folder taken for the same one."""
    parts = path.parts
    if parts[0] == "agents" and len(parts) > 2 and parts[1] in PROBLEMS:
        return "/".join(("agents", "PROBLEM", *parts[2:]))
    return str(path)


def namesakes(paths: Iterable[PurePosixPath]) -> list[list[str]]:
    """Paths that share a name and are not the same part of two problems."""
    found: dict[str, set[str]] = defaultdict(set)
    for path in paths:
        if path.stem not in ANYWHERE | PROBLEMS.keys() and str(path) not in ALLOWED:
            found[path.stem].add(part(path))
    return [sorted(places) for places in found.values() if len(places) > 1]


def modules() -> list[PurePosixPath]:
    found = [path for top in TOPS for path in sorted((ROOT / top).rglob("*.py"))]
    return [PurePosixPath(path.relative_to(ROOT).as_posix()) for path in found]


def test_two_modules_do_not_share_a_name() -> None:
    assert len(modules()) > 300
    assert namesakes(modules()) == []


def test_two_folders_do_not_share_a_name() -> None:
    assert namesakes({module.parent for module in modules()}) == []


def test_every_exception_is_needed() -> None:
    assert set(map(str, modules())) >= ALLOWED


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("testbed/records/servers.py", "testbed/scenario/servers.py"),
        ("agents/placement/env.py", "agents/common/env.py"),
        ("agents/placement/env.py", "agents/provisioning/baselines/env.py"),
    ],
)
def test_a_shared_name_is_found(one: str, other: str) -> None:
    paths = [PurePosixPath(one), PurePosixPath(other)]
    assert namesakes(paths) == [sorted(map(part, paths))]


def test_the_same_part_of_two_problems_may_share_a_name() -> None:
    paths = ["agents/placement/env.py", "agents/provisioning/env.py", "testbed/lab/placement.py"]
    assert namesakes(map(PurePosixPath, paths)) == []
