"""Running the machine's network tools: checked, quiet, and many settings a call."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterable, Sequence
from typing import Any

from testbed.scenario.errors import RunError

_TIMEOUT_S = 60.0


class CommandError(RunError):
    """A tool ended with a status other than 0: says the command, the status and its words."""


def run(command: Sequence[str], text: str | None = None) -> str:
    """Run a command (no shell) with `text` as its input; what it wrote on standard output.

    Raises CommandError when it fails or takes longer than a minute.
    """
    try:
        done = subprocess.run(
            list(command), input=text, capture_output=True, text=True, timeout=_TIMEOUT_S
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CommandError(f"{' '.join(command)}: {error}") from error
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip()
        raise CommandError(f"{' '.join(command)[:300]}: status {done.returncode}: {said}")
    return done.stdout


def ip_batch(lines: Iterable[str]) -> None:
    """Carry out `ip` commands (without the word ip) in one process."""
    text = "\n".join(lines)
    if text:
        run(["ip", "-batch", "-"], text + "\n")


def tc_batch(lines: Iterable[str]) -> None:
    """Carry out `tc` commands (without the word tc) in one process."""
    text = "\n".join(lines)
    if text:
        run(["tc", "-batch", "-"], text + "\n")


def json_of(command: Sequence[str]) -> Any:
    """The JSON that a command prints; None if it prints nothing."""
    text = run(command).strip()
    return json.loads(text) if text else None


def vsctl_rows(table: str, columns: Sequence[str]) -> list[dict[str, Any]]:
    """Rows of an Open vSwitch table; a map is a dict, a set is a list."""
    found = json_of(["ovs-vsctl", "--format=json", f"--columns={','.join(columns)}", "list", table])
    if found is None:
        return []
    return [
        {name: _plain(value) for name, value in zip(found["headings"], row, strict=True)}
        for row in found["data"]
    ]


def _plain(value: Any) -> Any:
    if isinstance(value, list) and len(value) == 2 and value[0] == "map":
        return dict(value[1])
    if isinstance(value, list) and len(value) == 2 and value[0] == "set":
        return value[1]
    return value
