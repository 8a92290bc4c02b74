"""Room in the sockets through which the userspace switch takes frames."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from testbed.scenario.endings import Endings
from testbed.substrate.runtime_folder import STATE, locked

DEFAULT = Path("/proc/sys/net/core/rmem_default")
LOCK = STATE / "buffers.lock"
BUFFER_BYTES = 8 << 20


@contextlib.contextmanager
def deep_buffers(
    default: Path = DEFAULT, lock: Path = LOCK, size: int = BUFFER_BYTES
) -> Iterator[None]:
    """Sockets that any process opens meanwhile hold `size` bytes of what it has not read yet.

    The userspace switch opens a packet socket for each port and leaves its size at the host's
    default, 208 KiB: some 200 small frames, fewer than a primary lets out at once after it was
    held up. What does not fit there is lost, though the scenario's links have room for it. The
    default is the host's alone, so it is raised only while ports are made. The lock lets one run
    at a time do so; its file holds the default of before, for the next run after one that died.
    """
    with locked(lock) as held:
        before = held.read().strip() or default.read_text(encoding="ascii").strip()
        _note(held.fileno(), before)
        default.write_text(str(max(size, int(before))), encoding="ascii")
        with Endings() as endings:
            endings.add(_restore, default, before, held.fileno())
            yield


def _restore(default: Path, before: str, descriptor: int) -> None:
    default.write_text(before, encoding="ascii")
    _note(descriptor, "")


def _note(descriptor: int, text: str) -> None:
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, text.encode(), 0)
