"""/run/deftbed: what the runs of this host keep while they go on, for their owner's eyes alone."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO

STATE = Path("/run/deftbed")


def make_folder(folder: Path) -> None:
    """Make a folder for records and sockets of runs, which nobody but its owner may look into."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.chmod(0o700)


@contextlib.contextmanager
def locked(path: Path) -> Iterator[IO[str]]:
    """Hold the lock that the file at `path` stands for; the file, for what is kept in it."""
    make_folder(path.parent)
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    with os.fdopen(os.open(path, flags, 0o600), "r+") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield held
