"""Trace files: a row for each sight of a packet by an edge or an instance.

A trace file (`raw/trace-<process>.npy`) is an array of words of 64 bits: `HEAD_WORDS` of a header,
then rows of `ROW_WORDS`. It is memory-mapped, so that killing its process loses no row, and its
room is allocated beforehand, so that a row costs a few stores. When it is full, further rows are
counted as `MISSED` and not kept. Beside it, `raw/trace-<process>.json` says whose it is.

Words of a row: `T_NS` (CLOCK_MONOTONIC), `KIND`, the stamp of the packet as this process knows it
(`PATH`, `FLOW`, `EPOCH`, `SEQ`), and `NOTE`, by kind:

    ENTERED    an edge put it on its way; 4 words, big-endian: `NOTE_BYTES` after 28 of headers
    TAKEN      an instance took the frame from its ring; the group member that sent it
    DONE       `T_NS` is when the server's emulated CPU is done with it; for how long it had it
    HANDED     it was handed to the protocol; 1: refused for lack of CPU
    LOGGED     its turn came, and the log has what became of it: the sequence number of its output
               (-1: none), the reason of a loss (`replication.member.LOSS_REASONS`), the function's
               reason of a drop
    EMITTED    its output, committed, was put into the ring to the next hop; the output's number
    LEFT       an edge handed it to the kernel of its destination
    REPEATED   an edge dropped it: a copy came before
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from testbed.records.files import write_text
from testbed.records.manifest import read_object
from testbed.records.raw import RawFormatError, read_array

FORMAT = 1
HEAD_WORDS, ROW_WORDS = 8, 10
ROWS, ROOM, MISSED, VERSION = 0, 1, 2, 3
"""Places in the header: rows that are valid, rows that have room, rows that had none."""
T_NS, KIND, PATH, FLOW, EPOCH, SEQ, NOTE = 0, 1, 2, 3, 4, 5, 6
ENTERED, TAKEN, DONE, HANDED, LOGGED, EMITTED, LEFT, REPEATED = 1, 2, 3, 4, 5, 6, 7, 8
KINDS = (ENTERED, TAKEN, DONE, HANDED, LOGGED, EMITTED, LEFT, REPEATED)
NOTE_BYTES = 8 * (ROW_WORDS - NOTE)

Words = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Trace:
    """A trace file that was read: [n, ROW_WORDS] rows, in the order in which they were written.

    `about` is what its process said of itself: `kind` ("edge" or "instance"), `name`, and of an
    instance `group`, `member`, `function`, `reasons` (names of the function's
    reasons), `losses` (names of the reasons of losses).
    """

    about: Mapping[str, Any]
    rows: Words
    missed: int


def no_trace() -> Words:
    """A trace without room, which nothing is written to."""
    return np.zeros(HEAD_WORDS, np.int64)


def create_trace(path: Path | str, rows: int, about: Mapping[str, Any]) -> Words:
    """Make a trace file with room for `rows`, and the file beside it; the words to write to.

    Raises OSError if there is no room for it.
    """
    path = Path(path)
    words = HEAD_WORDS + rows * ROW_WORDS
    # First: a trace without it could not be read.
    write_text(path.with_suffix(".json"), json.dumps(dict(about)))
    trace = np.lib.format.open_memmap(path, mode="w+", dtype=np.int64, shape=(words,))
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        # Allocated, not sparse: a full disk is then an error here and not a SIGBUS later.
        os.posix_fallocate(fd, 0, os.fstat(fd).st_size)
    finally:
        os.close(fd)
    trace[:HEAD_WORDS] = [0, rows, 0, FORMAT, 0, 0, 0, 0]
    return np.asarray(trace)


def read_trace(path: Path) -> Trace:
    """The valid rows of a trace file, of a killed process too; raises RawFormatError."""
    words = read_array(path, np.dtype(np.int64))
    if len(words) < HEAD_WORDS or int(words[VERSION]) != FORMAT:
        raise RawFormatError(str(path), "another file", f"a trace of format {FORMAT}")
    if int(words[ROWS]) < 0 or int(words[MISSED]) < 0:
        raise RawFormatError(str(path), int(words[ROWS]), "a number of rows")
    room = (len(words) - HEAD_WORDS) // ROW_WORDS
    count = min(int(words[ROWS]), room)
    rows = np.array(words[HEAD_WORDS : HEAD_WORDS + count * ROW_WORDS]).reshape(count, ROW_WORDS)
    unknown = ~np.isin(rows[:, KIND], KINDS)
    if unknown.any():
        raise RawFormatError(f"{path}: kind", int(rows[unknown, KIND][0]), "1 to 8")
    about = _about(path.with_suffix(".json"))
    return Trace(about, rows, int(words[MISSED]))


def _about(path: Path) -> Mapping[str, Any]:
    """Whose a trace is: an edge or an instance with its group, function and reasons."""
    about = read_object(path)
    texts = ["kind", "name", *(("group", "function") if about.get("kind") == "instance" else ())]
    for name in texts:
        if not isinstance(about.get(name), str):
            raise RawFormatError(f"{path}: {name}", about.get(name), "a text")
    return about


def read_traces(raw: Path) -> list[Trace]:
    """All traces in the folder of a run's raw records, by name; empty if it was not traced."""
    return [read_trace(path) for path in sorted(raw.glob("trace-*.npy"))]
