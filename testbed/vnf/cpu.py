"""The capacity model "service-time": a server's CPU as one queue that all its processes share.

The server clock is a file that they map. A packet starts when the server is free, occupies it for
cost / cores, and is handed to the protocol at its end. A record lock makes concurrent updates
exact; the kernel drops it with its process, so a killed process leaves no lock behind. (A process
killed within an update may leave the counters one packet apart; each field by itself is sound.)
"""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
from pathlib import Path

_MAGIC = b"deftcpu1"
_HEADER = struct.Struct("=8sdQ")
_CLOCK = struct.Struct("=QQQQ")
_FILE_BYTES = _HEADER.size + _CLOCK.size


class ServerCpu:
    """The clock of one server, shared through a file.

    One object is for one thread of one process, except for `sample`. `cores` is the server's
    speed in reference cores, `queue_ns` the longest time that an admitted packet may wait.
    """

    def __init__(self, descriptor: int) -> None:
        """Use `create` or `open`."""
        self._descriptor = descriptor
        self._map = mmap.mmap(descriptor, _FILE_BYTES)
        _, self.cores, self.queue_ns = _HEADER.unpack_from(self._map)

    @staticmethod
    def create(path: Path | str, cores: float, queue_ns: int) -> ServerCpu:
        """Make the clock of a new server; raises FileExistsError, ValueError."""
        if not cores > 0 or queue_ns < 0:
            raise ValueError(f"cores = {cores}, queue_ns = {queue_ns}: expected > 0 and >= 0")
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        os.write(descriptor, _HEADER.pack(_MAGIC, cores, queue_ns) + _CLOCK.pack(0, 0, 0, 0))
        return ServerCpu(descriptor)

    @staticmethod
    def open(path: Path | str) -> ServerCpu:
        """The clock of an existing server; raises FileNotFoundError or ValueError."""
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        header = os.pread(descriptor, len(_MAGIC), 0)
        if header != _MAGIC or os.fstat(descriptor).st_size != _FILE_BYTES:
            os.close(descriptor)
            raise ValueError(f"{path}: not a server clock")
        return ServerCpu(descriptor)

    def admit(self, now_ns: int, cost_ns: int) -> int | None:
        """When a packet that arrives now and costs `cost_ns` on one reference core is done.

        None if it would wait longer than `queue_ns`: it is dropped, and counted.
        """
        fcntl.lockf(self._descriptor, fcntl.LOCK_EX)
        try:
            busy_until_ns, busy_total_ns, admitted, dropped = _CLOCK.unpack_from(
                self._map, _HEADER.size
            )
            start_ns: int = max(now_ns, busy_until_ns)
            if start_ns - now_ns > self.queue_ns:
                _CLOCK.pack_into(
                    self._map, _HEADER.size, busy_until_ns, busy_total_ns, admitted, dropped + 1
                )
                return None
            service_ns: int = round(cost_ns / self.cores)
            end_ns: int = start_ns + service_ns
            _CLOCK.pack_into(
                self._map, _HEADER.size, end_ns, busy_total_ns + service_ns, admitted + 1, dropped
            )
            return end_ns
        finally:
            fcntl.lockf(self._descriptor, fcntl.LOCK_UN)

    def sample(self) -> tuple[int, int, int, int]:
        """(busy_until_ns, busy_total_ns, admitted, dropped), of one moment."""
        fcntl.lockf(self._descriptor, fcntl.LOCK_SH)
        try:
            values: tuple[int, int, int, int] = _CLOCK.unpack_from(self._map, _HEADER.size)
            return values
        finally:
            fcntl.lockf(self._descriptor, fcntl.LOCK_UN)

    def close(self) -> None:
        """Unmap and close."""
        self._map.close()
        os.close(self._descriptor)
