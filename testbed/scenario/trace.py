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
from testbed.scenario.limits import LEAST_RATE_BPS, MOST_RATE_BPS

OPPORTUNITY_BYTES = 1500
MAX_TRACE_BYTES = 1 << 24
MAX_TIME_MS = 1_000_000_000
ETHERNET_BYTES = 14
"""Not counted: a full IP packet uses up one opportunity."""
_DIGITS = 30
"""Characters of a line that are looked at."""


@dataclass(frozen=True, slots=True)
class RateTrace:
    """A trace file, by its path and what was in it when the scenario was planned."""

    path: str
    sha256: str
    mean_bps: float


def load_trace(path: str, field: str = "trace") -> RateTrace:
    """A trace that can be used; raises InputError naming `field`, or the line that cannot."""
    content = _content(path, field)
    times_ms = parse_trace(content.decode("utf-8", "replace"), path)
    mean_bps = len(times_ms) * OPPORTUNITY_BYTES * 8 * 1e3 / int(times_ms[-1])
    if not LEAST_RATE_BPS <= mean_bps <= MOST_RATE_BPS:
        expected = f"a mean rate from {LEAST_RATE_BPS:g} to {MOST_RATE_BPS:g} bits per second"
        raise InputError(field, f"{path}, of {mean_bps:g} bits per second", expected)
    return RateTrace(str(Path(path).resolve()), hashlib.sha256(content).hexdigest(), mean_bps)


def _content(path: str, field: str) -> bytes:
    try:
        with Path(path).open("rb") as file:
            content = file.read(MAX_TRACE_BYTES + 1)
    except (OSError, ValueError) as error:
        raise InputError(field, path, f"a readable file ({error})") from error
    if len(content) > MAX_TRACE_BYTES:
        raise InputError(field, path, f"a file of at most {MAX_TRACE_BYTES} bytes")
    return content


@cache
def opportunities_ms(path: str) -> NDArray[np.int64]:
    """The times of a trace, in milliseconds from its beginning, in ascending order."""
    return parse_trace(_content(path, "trace").decode("utf-8", "replace"), path)


def parse_trace(text: str, path: str) -> NDArray[np.int64]:
    """The times in a trace's text; raises InputError naming `path` and the line."""
    times: list[int] = []
    for number, line in enumerate(text.splitlines(), 1):
        word = line.strip()
        if not (word.isascii() and word.isdigit()):
            shown = word[:_DIGITS]
            raise InputError(f"{path}, line {number}", shown, "a whole number of milliseconds")
        if len(word) > _DIGITS or int(word) > MAX_TIME_MS:
            expected = f"at most {MAX_TIME_MS} milliseconds"
            raise InputError(f"{path}, line {number}", word[:_DIGITS], expected)
        if times and int(word) < times[-1]:
            raise InputError(f"{path}, line {number}", word, f"at least {times[-1]}, the one above")
        times.append(int(word))
    if not times or times[-1] == 0:
        raise InputError(path, "no period", "a last line above 0")
    return np.array(times, dtype=np.int64)
