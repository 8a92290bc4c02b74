"""The capacity model "service-time": a server's CPU as one queue that all its processes share.

The server clock is a file that they map. A packet starts when the server is free, occupies it for
its service time, and is handed to the protocol at its end. A lock on the file makes concurrent
updates exact; the kernel drops it with its process, so a killed process leaves no lock behind. (A
process killed within an update may leave the counters one packet apart; each word by itself is
sound.)
"""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
from pathlib import Path

import numpy as np

from testbed.compiled import compiled
from testbed.vnf.dataplane.system import lock_file, unlock_file
from testbed.vnf.state.arrays import Words

_MAGIC = b"deftcpu2"
_FILE = struct.Struct("=8sdQQQQQ")

# Places in the words of a clock; the two before are its mark and its speed.
QUEUE_NS, BUSY_UNTIL_NS, BUSY_TOTAL_NS, ADMITTED, DROPPED = 2, 3, 4, 5, 6


@compiled
def admit(clock: Words, fd: int, now_ns: int, service_ns: int) -> int:
    """When a packet that arrives now and occupies the server for `service_ns` is done.

    -1 if it would wait longer than the queue allows: it is dropped, and counted.
    """
    lock_file(fd, True)
    start_ns = max(now_ns, clock[BUSY_UNTIL_NS])
    end_ns = start_ns + service_ns
    if start_ns - now_ns > clock[QUEUE_NS]:
        clock[DROPPED] += 1
        end_ns = -1
    else:
        clock[BUSY_UNTIL_NS] = end_ns
        clock[BUSY_TOTAL_NS] += service_ns
        clock[ADMITTED] += 1
    unlock_file(fd)
    return end_ns


class ServerCpu:
    """The clock of one server, shared through a file.

    `cores` is the server's speed in reference cores, `queue_ns` the longest time that an admitted
    packet may wait; `words` and `fileno()` are for `admit` in compiled code.
    """

    def __init__(self, descriptor: int) -> None:
        """Use `create` or `open`."""
        self._descriptor = descriptor
        self._map = mmap.mmap(descriptor, _FILE.size)
        self.words: Words = np.frombuffer(self._map, np.int64)
        _, self.cores, self.queue_ns, *_ = _FILE.unpack_from(self._map)

    @staticmethod
    def create(path: Path | str, cores: float, queue_ns: int) -> ServerCpu:
        """Make the clock of a new server; raises FileExistsError, ValueError."""
        if not cores > 0 or queue_ns < 0:
            raise ValueError(f"cores = {cores}, queue_ns = {queue_ns}: expected > 0 and >= 0")
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        os.write(descriptor, _FILE.pack(_MAGIC, cores, queue_ns, 0, 0, 0, 0))
        return ServerCpu(descriptor)

    @staticmethod
    def open(path: Path | str) -> ServerCpu:
        """The clock of an existing server; raises FileNotFoundError or ValueError."""
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        header = os.pread(descriptor, len(_MAGIC), 0)
        if header != _MAGIC or os.fstat(descriptor).st_size != _FILE.size:
            os.close(descriptor)
            raise ValueError(f"{path}: not a server clock")
        return ServerCpu(descriptor)

    def fileno(self) -> int:
        """The descriptor of the file."""
        return self._descriptor

    def service_ns(self, cost_ns: int) -> int:
        """How long a packet that costs `cost_ns` on one reference core occupies this server."""
        return round(cost_ns / self.cores)

    def admit(self, now_ns: int, cost_ns: int) -> int | None:
        """When a packet that arrives now and costs `cost_ns` on one reference core is done.

        None if it would wait longer than `queue_ns`: it is dropped, and counted.
        """
        end_ns = admit(self.words, self._descriptor, now_ns, self.service_ns(cost_ns))
        return None if end_ns < 0 else int(end_ns)

    def sample(self) -> tuple[int, int, int, int]:
        """(busy_until_ns, busy_total_ns, admitted, dropped), of one moment."""
        fcntl.flock(self._descriptor, fcntl.LOCK_SH)
        try:
            values = self.words[BUSY_UNTIL_NS : DROPPED + 1].tolist()
        finally:
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)
        return values[0], values[1], values[2], values[3]

    def close(self) -> None:
        """Unmap, as soon as nobody holds `words` any more, and close."""
        del self.words
        self._map.close()
        os.close(self._descriptor)
