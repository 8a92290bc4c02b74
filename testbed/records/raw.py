"""Raw records: senders and receivers write them while packets flow; reports read them.

Both files are memory-mapped: what a process has written is in the kernel's page cache, so that
killing the process loses none of it.

- A **schedule** (`raw/schedule-<request>.npy`): array of `SCHEDULE_DTYPE`, sorted by time.
- A **sent file** (`raw/sent/request-<request>.npy`): int64 per row of the schedule, nanoseconds
  from the run's origin at which the packet was handed to the kernel; 0 means not sent.
- An **arrival file** (`raw/received-<node>`): a header of `HEADER_BYTES`, then records of
  `ARRIVAL_DTYPE` in the order of arrival. The header holds the number of valid records, which is
  raised after a record is whole.
"""

from __future__ import annotations

import mmap
import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from testbed.records.files import RawFormatError as RawFormatError
from testbed.scenario.names import parse_member

SCHEDULE_DTYPE = np.dtype([("flow", "<u4"), ("seq", "<u8"), ("scheduled_ns", "<i8")])
ARRIVAL_DTYPE = np.dtype(
    [("request", "<u4"), ("flow", "<u4"), ("seq", "<u8"), ("received_ns", "<i8")]
)
ARRIVAL_FORMAT = 1
HEADER_BYTES = 64
CHUNK_RECORDS = 1 << 16

Records = NDArray[Any]
"""A structured array; the docstring that takes or gives one names its dtype."""

_MAGIC = b"DTBARRIV"
_HEADER = struct.Struct("<8sIIQQQ")  # magic, format, record size, count, malformed, dropped
_COUNT_OFFSET = 16
_COUNTERS = struct.Struct("<QQ")
_COUNTERS_OFFSET = 24
_U64 = struct.Struct("<Q")
_RECORD = struct.Struct("<IIQq")


def schedule_path(raw: Path, request: int) -> Path:
    """Where the schedule of a request lies."""
    return raw / f"schedule-{request}.npy"


def instance_dumps(raw: Path) -> list[Path]:
    """What the instances of a run wrote of themselves as they ended, by their names."""
    return sorted(path for path in raw.glob("*.json") if parse_member(path.stem) is not None)


def sizes_path(raw: Path, request: int) -> Path:
    """Where the L3 bytes of each packet of the schedule lie, as uint16, if they differ."""
    return raw / f"sizes-{request}.npy"


def flow_numbers_path(raw: Path, request: int) -> Path:
    """Where the number of each packet's flow lies, as uint32, if flows take ports in turn."""
    return raw / f"flow-numbers-{request}.npy"


def contents_path(raw: Path, request: int) -> Path:
    """Where it lies which part of the payloads each packet carries, as CONTENT_DTYPE."""
    return raw / f"contents-{request}.npy"


def payloads_path(raw: Path) -> Path:
    """Where the payloads of a recording that is replayed lie one after the other, as uint8."""
    return raw / "payloads.npy"


def sent_path(folder: Path, request: int) -> Path:
    """Where the sent file of a request lies in the folder that senders write to."""
    return folder / f"request-{request}.npy"


class ArrivalFile:
    """Appends arrivals to a file that grows in chunks of `CHUNK_RECORDS`."""

    def __init__(self, path: Path | str, chunk_records: int = CHUNK_RECORDS) -> None:
        self._chunk_bytes = chunk_records * _RECORD.size
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
        self._size = HEADER_BYTES + self._chunk_bytes
        # Allocated, not sparse: a full disk is then an error here and not a SIGBUS later.
        os.posix_fallocate(self._fd, 0, self._size)
        self._map = mmap.mmap(self._fd, self._size)
        _HEADER.pack_into(self._map, 0, _MAGIC, ARRIVAL_FORMAT, _RECORD.size, 0, 0, 0)
        self._end = HEADER_BYTES
        self.count = 0

    def append(self, request: int, flow: int, seq: int, received_ns: int) -> None:
        """Add a record; raises OSError if the file cannot grow."""
        offset = self._end
        if offset + _RECORD.size > self._size:
            self._grow()
        _RECORD.pack_into(self._map, offset, request, flow, seq, received_ns)
        self._end = offset + _RECORD.size
        self.count += 1
        _U64.pack_into(self._map, _COUNT_OFFSET, self.count)

    def set_counters(self, malformed: int, socket_drops: int) -> None:
        """Note how many datagrams were not ours, and how many the sockets dropped, so far."""
        _COUNTERS.pack_into(self._map, _COUNTERS_OFFSET, malformed, socket_drops)

    def close(self) -> None:
        """Cut the file to what is valid and close it."""
        self._map.close()
        os.ftruncate(self._fd, self._end)
        os.close(self._fd)

    def _grow(self) -> None:
        os.posix_fallocate(self._fd, self._size, self._chunk_bytes)
        self._size += self._chunk_bytes
        self._map.resize(self._size)


@dataclass(frozen=True, slots=True)
class Arrivals:
    """The content of an arrival file; `records` is an array of `ARRIVAL_DTYPE`."""

    records: Records
    malformed: int
    socket_drops: int


def read_arrivals(path: Path) -> Arrivals:
    """The valid records of an arrival file, of a killed receiver too; raises RawFormatError."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise RawFormatError(str(path), error.strerror, "a file that can be read") from error
    if len(content) < HEADER_BYTES:
        raise RawFormatError(str(path), f"{len(content)} bytes", f"a header of {HEADER_BYTES}")
    magic, version, size, count, malformed, dropped = _HEADER.unpack_from(content)
    if (magic, version, size) != (_MAGIC, ARRIVAL_FORMAT, _RECORD.size):
        raise RawFormatError(
            str(path),
            f"{magic!r} format {version}, records of {size} bytes",
            f"{_MAGIC!r} format {ARRIVAL_FORMAT}, records of {_RECORD.size}",
        )
    count = min(count, (len(content) - HEADER_BYTES) // _RECORD.size)
    records = np.frombuffer(content, ARRIVAL_DTYPE, count, HEADER_BYTES)
    return Arrivals(records, malformed, dropped)


def create_sent(path: Path, packets: int) -> NDArray[np.int64]:
    """Make a sent file for `packets` packets: a memory-mapped array of zeros."""
    sent = np.lib.format.open_memmap(path, mode="w+", dtype=np.int64, shape=(packets,))
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        os.posix_fallocate(fd, 0, os.fstat(fd).st_size)
    finally:
        os.close(fd)
    return sent


def read_array(path: Path, dtype: np.dtype[Any]) -> Records:
    """A one-dimensional `.npy` array of `dtype`, memory-mapped; raises RawFormatError."""
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError, SyntaxError, TypeError, OverflowError) as error:
        raise RawFormatError(str(path), str(error), "a .npy array") from error
    if not isinstance(array, np.ndarray):
        raise RawFormatError(str(path), "an archive of arrays", "a .npy array")
    if array.dtype != dtype or array.ndim != 1:
        raise RawFormatError(str(path), f"{array.dtype} {array.shape}", f"{dtype} [n]")
    return np.asarray(array)
