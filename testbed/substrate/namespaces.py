"""Network namespaces by the process that holds them, and interface settings without a tool.

`os.setns` came with Python 3.12; until then the call goes through libc.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import socket
import struct
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from testbed.scenario.endings import Endings

_CLONE_NEWNET = 0x40000000
_SIOCETHTOOL = 0x8946
_ETHTOOL_SET_TX, _ETHTOOL_SET_RX = 0x17, 0x15
_ETHTOOL_SET_TSO, _ETHTOOL_SET_GSO, _ETHTOOL_SET_GRO = 0x1F, 0x24, 0x2C
_OFFLOADS = (
    # TSO and GSO first: the kernel switches them with transmit checksums.
    ("tso", _ETHTOOL_SET_TSO),
    ("gso", _ETHTOOL_SET_GSO),
    ("gro", _ETHTOOL_SET_GRO),
    ("tx", _ETHTOOL_SET_TX),
    ("rx", _ETHTOOL_SET_RX),
)


@contextmanager
def inside(pid: int) -> Iterator[None]:
    """Let the calling thread, and what it starts, be in the network namespace of `pid`.

    Raises OSError if the process is gone or the caller may not enter.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    with Endings() as endings:
        endings.add(os.close, home)
        target = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            _enter(libc, target, f"network namespace of process {pid}")
        finally:
            os.close(target)
        endings.add(_enter, libc, home, "the network namespace it came from")
        yield


def _enter(libc: ctypes.CDLL, descriptor: int, what: str) -> None:
    if libc.setns(descriptor, _CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), f"cannot enter {what}")


def offloads_off(interfaces: Iterable[str]) -> None:
    """Switch off what merges, splits or leaves unsummed the packets of these interfaces.

    Raises OSError, naming interface and offload, if one cannot be switched off.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        for interface in interfaces:
            for name, command in _OFFLOADS:
                value = ctypes.create_string_buffer(struct.pack("=II", command, 0), 8)
                request = struct.pack("16sP16x", interface.encode(), ctypes.addressof(value))
                try:
                    fcntl.ioctl(control, _SIOCETHTOOL, request)
                except OSError as error:
                    raise OSError(error.errno, f"{interface}: {name} offload stays on") from error


def no_ipv6(interfaces: Iterable[str]) -> None:
    """Keep IPv6, and so its router solicitations, off interfaces of the caller's namespace.

    "all" and "default" are names too. Without IPv6 in the kernel there is nothing to do.
    """
    root = Path("/proc/sys/net/ipv6/conf")
    if root.is_dir():
        for interface in interfaces:
            (root / interface / "disable_ipv6").write_text("1")
