"""Traces that drive a link's rate, in mahimahi's format.

A file has one whole number of milliseconds a line, in ascending order. At each of these times the
link can deliver 1500 bytes; a number that is there twice stands for two such opportunities. What
is left of an opportunity when nothing waits is lost. After the last line, whose time is the
period, the trace begins anew (R. Netravali et al., "Mahimahi", USENIX ATC 2015; mm-link(1)).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from testbed.scenario.errors import InputError

OPPORTUNITY_BYTES = 1500
ETHERNET_BYTES = 14
"""Not counted: a full IP packet uses up one opportunity."""


@dataclass(frozen=True, slots=True)
class Trace:
    """A trace file, by its path and what was in it when the scenario was planned."""

    path: str
    sha256: str
    mean_bps: float


def load_trace(path: str) -> Trace:
    """A trace that can be used; raises InputError naming the line that cannot."""
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise InputError("trace", path, f"a readable file ({error.strerror})") from error
    times_ms = parse_trace(content.decode("utf-8", "replace"), path)
    mean_bps = len(times_ms) * OPPORTUNITY_BYTES * 8 * 1e3 / int(times_ms[-1])
    return Trace(str(Path(path).resolve()), hashlib.sha256(content).hexdigest(), mean_bps)


@cache
def opportunities_ms(path: str) -> NDArray[np.int64]:
    """The times of a trace, in milliseconds from its beginning, in ascending order."""
    return parse_trace(Path(path).read_text(encoding="utf-8"), path)


def parse_trace(text: str, path: str) -> NDArray[np.int64]:
    """The times in a trace's text; raises InputError naming `path` and the line."""
    times: list[int] = []
    for number, line in enumerate(text.splitlines(), 1):
        word = line.strip()
        if not (word.isascii() and word.isdigit()):
            raise InputError(f"{path}, line {number}", word, "a whole number of milliseconds")
        if times and int(word) < times[-1]:
            raise InputError(f"{path}, line {number}", word, f"at least {times[-1]}, the one above")
        times.append(int(word))
    if not times or times[-1] == 0:
        raise InputError(path, "no period", "a last line above 0")
    return np.array(times, dtype=np.int64)
