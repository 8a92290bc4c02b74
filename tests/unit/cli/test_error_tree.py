"""Every error that can reach the command has one root, and the command one rule for it."""

from __future__ import annotations

import ast
import builtins

import pytest

from testbed.cli.main import _status
from testbed.scenario.errors import InputError, RunError
from tests.support.places import ROOT

PACKAGES = ("testbed", "controller", "agents", "traffic", "bench")
OUTSIDE = {
    "_OutOfTime": "agents/common/tuning.py: ends a trial that began too late; its caller takes it",
}
"""Exceptions that are no part of the tree, and why no command ever sees them."""


def classes() -> dict[str, set[str]]:
    """The classes of all packages by name, with the names of their bases."""
    found: dict[str, set[str]] = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.ClassDef):
                    bases = {ast.unparse(base).split(".")[-1] for base in node.bases}
                    found[node.name] = found.get(node.name, set()) | bases
    return found


def ancestors(name: str, bases: dict[str, set[str]]) -> set[str]:
    """The names of a class and of all that it derives from; a base may have the same name."""
    above = bases.get(name, set()) - {name}
    return {name}.union(*(ancestors(base, bases) for base in above))


def is_builtin_exception(name: str) -> bool:
    found = getattr(builtins, name, None)
    return isinstance(found, type) and issubclass(found, BaseException)


def test_every_exception_of_the_project_is_in_the_tree() -> None:
    bases = classes()
    lines = {name: ancestors(name, bases) for name in bases}
    errors = {name for name, line in lines.items() if any(map(is_builtin_exception, line))}
    assert {"InputError", "RunError"} <= errors
    assert {name for name in errors if "DeftbedError" not in lines[name]} == OUTSIDE.keys()


class Unable(RunError):
    """An error that no command knows by its name."""


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (InputError("seed", -1, "a number from 0"), 2),
        (Unable("a run that could not go on"), 1),
        (OSError(28, "No space left on device", "events.jsonl"), 1),
    ],
)
def test_the_command_tells_an_error_with_its_notes_and_ends_with_its_status(
    error: Exception, status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    error.add_note("and then: interface x could not be deleted")

    def command() -> None:
        raise error

    assert _status(command) == status
    said = capsys.readouterr().err
    assert said.splitlines()[0] == f"deftbed: {error}"
    assert "and then: interface x could not be deleted" in said
    assert "Traceback" not in said
