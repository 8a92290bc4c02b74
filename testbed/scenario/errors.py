"""The errors that a person is told in one line: one tree, whose root says how a command ends."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar


class DeftbedError(Exception):
    """What the command tells in a line of its own before it ends with `exit_status`.

    What was noted on it meanwhile (`add_note`), such as a clean-up that failed too, is told below.
    """

    exit_status: ClassVar[int] = 1


class InputError(DeftbedError):
    """Bad input: names the field, the value and what was expected. Nothing was built. Status 2."""

    exit_status = 2

    def __init__(self, field: str, value: object, expected: str) -> None:
        self.field = field
        self.value = value
        self.expected = expected
        super().__init__(f"{field} = {value!r}: expected {expected}")


class Interrupted(DeftbedError):
    """The user, or the system, ended the command; what was measured is kept. Status 130."""

    exit_status = 130

    def __init__(self, interrupt: BaseException) -> None:
        super().__init__("interrupted; what was measured is kept")
        for line in getattr(interrupt, "__notes__", ()):
            self.add_note(line)


class RunError(DeftbedError):
    """A run that began and could not go on; what was measured is kept. Status 1."""


def run_error(error: Exception, what: str, folder: Path) -> RunError:
    """`error` as that of a run: says what failed and where its results are. Notes are kept."""
    found = RunError(f"{what}: {error}; see {folder}")
    for line in getattr(error, "__notes__", ()):
        found.add_note(line)
    return found
