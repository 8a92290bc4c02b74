"""The timeline: one JSON object a line on CLOCK_MONOTONIC, written by every process of a run."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any


class EventLog:
    """Appends events to a file that other processes append to as well.

    A line is one write to a file opened with O_APPEND, so lines of several processes do not mix.
    """

    def __init__(self, path: Path | str) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)

    def write(self, event: str, t_ns: int | None = None, **fields: Any) -> None:
        """Append an event; `t_ns` is now on CLOCK_MONOTONIC unless it is given."""
        when = time.monotonic_ns() if t_ns is None else t_ns
        line = json.dumps({"t_ns": when, "event": event, **fields}, separators=(",", ":"))
        os.write(self._fd, line.encode() + b"\n")

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)


def read_events(path: Path | str) -> Iterator[dict[str, Any]]:
    """The events of a file in the order of time; a line cut short by a kill is left out."""
    events = []
    for line in Path(path).read_text().splitlines():
        try:
            events.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    yield from sorted(events, key=lambda event: event["t_ns"])
