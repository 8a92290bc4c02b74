"""Unix datagram sockets between the processes of a run, with room for many datagrams."""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from testbed.records.sockets import bind_private

CLONE_NEWNET = 0x40000000
QUEUE_DATAGRAMS = 1024
BUFFER_BYTES = 1 << 22
QUEUE_LENGTH = Path("/proc/sys/net/unix/max_dgram_qlen")
_LIBC = ctypes.CDLL(None, use_errno=True)


@contextlib.contextmanager
def long_queues() -> Iterator[None]:
    """Unix datagram sockets made inside queue up to `QUEUE_DATAGRAMS`; needs CAP_SYS_ADMIN.

    The host's default of 10 would refuse the heartbeats of a few dozen instances. The bound is a
    property of the network namespace in which a socket is made, so they are made in one of their
    own, which ends with them; only the calling thread goes there. Raises OSError.
    """
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        _check(_LIBC.unshare(CLONE_NEWNET), "unshare of the network namespace")
        try:
            QUEUE_LENGTH.write_text(str(QUEUE_DATAGRAMS), encoding="ascii")
            yield
        finally:
            _check(_LIBC.setns(home, CLONE_NEWNET), "return to the network namespace")
    finally:
        os.close(home)


def _check(result: int, what: str) -> None:
    if result != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"{what}: {os.strerror(error)}")


def bound_socket(path: str) -> socket.socket:
    """A non-blocking socket that receives at `path`, for this user alone.

    A file left there by a process that died is replaced.
    """
    endpoint = sending_socket()
    endpoint.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER_BYTES)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    bind_private(endpoint, path)
    return endpoint


def sending_socket() -> socket.socket:
    """A non-blocking socket to send from.

    One for each receiver: what a stopped process has not read counts against its sender's
    buffer, and a full buffer would silence the sender towards everyone.
    """
    endpoint = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    endpoint.setblocking(False)
    endpoint.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER_BYTES)
    return endpoint
