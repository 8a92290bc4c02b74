"""The end of a process is seen by the pipe that it held, before the kernel has cleared it away."""

from __future__ import annotations

import os
import select
import signal
from pathlib import Path

from testbed.vnf.process.process import hold_sign_of_life

WAIT_MS = 5000


def test_a_kill_is_seen_and_nothing_before(tmp_path: Path) -> None:
    path = str(tmp_path / "alive")
    ready, told = os.pipe()
    pid = os.fork()
    if pid == 0:
        hold_sign_of_life(path)
        os.write(told, b"x")
        signal.pause()
        os._exit(1)
    os.read(ready, 1)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        poll = select.poll()
        poll.register(reader, select.POLLIN)
        assert poll.poll(50) == []
        os.kill(pid, signal.SIGSTOP)  # a process that is stopped has not ended
        assert poll.poll(50) == []
        os.kill(pid, signal.SIGKILL)
        assert poll.poll(WAIT_MS) == [(reader, select.POLLHUP)]
    finally:
        os.waitpid(pid, 0)
        for descriptor in (reader, ready, told):
            os.close(descriptor)


def test_the_pipe_is_closed_before_sockets_with_lower_numbers(tmp_path: Path) -> None:
    """The kernel closes the highest descriptor first."""
    descriptor = hold_sign_of_life(str(tmp_path / "alive"))
    try:
        assert descriptor >= 512
        assert not os.get_inheritable(descriptor)
    finally:
        os.close(descriptor)
