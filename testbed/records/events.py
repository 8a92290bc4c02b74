"""The timeline: one JSON object a line on CLOCK_MONOTONIC, written by every process of a run.

An event has `t_ns`, nanoseconds on that clock, and `event`, its name; `FIELDS` says what the events
have beside these that figures are computed of.
"""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from testbed.records.raw import RawFormatError

LATEST_NS = 1 << 62


def _count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 62


def _count_or_none(value: object) -> bool:
    return value is None or _count(value)


def _flag(value: object) -> bool:
    return isinstance(value, bool)


def _number(value: object) -> bool:
    known = isinstance(value, int | float) and not isinstance(value, bool)
    return known and math.isfinite(value) and abs(value) < 1e15  # type: ignore[arg-type]


def _text(value: object) -> bool:
    return isinstance(value, str)


def _places(value: object) -> bool:
    """Nodes of the primary and its backups, for each function of a chain; none of a refused one."""
    return value is None or (
        isinstance(value, list)
        and all(
            isinstance(nodes, list) and nodes and all(_count(node) for node in nodes)
            for nodes in value
        )
    )


_EXPECTED: dict[Callable[[object], bool], str] = {
    _count: "a whole number from 0",
    _count_or_none: "a whole number from 0, or null",
    _flag: "true or false",
    _number: "a number",
    _text: "a text",
    _places: "a list of lists of nodes",
}
FIELDS: Mapping[str, Mapping[str, Callable[[object], bool]]] = {
    "request": {"request": _count},
    "decision": {"request": _count, "accepted": _flag, "placements": _places},
    "deploy-failed": {"request": _count},
    "chain-ready": {"request": _count, "deploy_ns": _count_or_none},
    "load-step": {"factor": _number},
    "fault": {"node": _count},
    "failure-detected": {"instance": _text, "group": _text},
    "first-release": {"group": _text},
    "promoted": {"group": _text},
    "reconfigured": {"group": _text, "primary": _count_or_none},
    "new-backup": {"group": _text, "instance": _text, "node": _count},
    "moved": {"instance": _text, "node": _count},
    "overload-begin": {"node": _count},
    "overload-end": {"node": _count},
    "core-stalled": {"core": _count, "stalled_ns": _count},
    "host-load": {"idle_percent": _number, "steal_percent": _number},
}


class EventLog:
    """Appends events to a file that other processes append to as well.

    A line is one write to a file opened with O_APPEND, so lines of several processes do not mix.
    """

    def __init__(self, path: Path | str) -> None:
        self._path = str(path)
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)

    def write(self, event: str, t_ns: int | None = None, **fields: Any) -> None:
        """Append an event; `t_ns` is now on CLOCK_MONOTONIC unless it is given.

        Raises OSError if the line is not in the file as a whole, for one because the disk is full.
        """
        when = time.monotonic_ns() if t_ns is None else t_ns
        line = json.dumps({"t_ns": when, "event": event, **fields}, separators=(",", ":"))
        content = line.encode() + b"\n"
        # What is left of it cannot follow: another process may have written in between.
        if os.write(self._fd, content) != len(content):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), self._path)

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)


def read_events(path: Path | str) -> Iterator[dict[str, Any]]:
    """The events of a file in the order of time.

    A last line that a kill cut short is left out. Raises RawFormatError for any other line that is
    no event; it names the line.
    """
    *lines, last = Path(path).read_bytes().split(b"\n")
    events = [_event(line, f"{path}, line {number}") for number, line in enumerate(lines, start=1)]
    if last:
        with contextlib.suppress(RawFormatError):
            events.append(_event(last, str(path)))
    yield from sorted(events, key=lambda event: int(event["t_ns"]))


def _event(line: bytes, where: str) -> dict[str, Any]:
    try:
        event = json.loads(line.decode())
    except (ValueError, RecursionError) as error:
        raise RawFormatError(where, _shown(line), "an event as a JSON object") from error
    if not isinstance(event, dict) or not _text(event.get("event")):
        raise RawFormatError(where, _shown(line), "an object with t_ns and event")
    for name, known in {"t_ns": _count, **FIELDS.get(event["event"], {})}.items():
        if not known(event.get(name)):
            raise RawFormatError(f"{where}: {name}", event.get(name), _EXPECTED[known])
    return event


def _shown(line: bytes) -> str:
    return line[:60].decode(errors="replace")
