"""The TUN device through which a user host's kernel hands IP packets to its edge, and back."""

from __future__ import annotations

import fcntl
import os
import struct
import subprocess
from pathlib import Path

TUN_MTU_BYTES = 1400
QUEUE_PACKETS = 4096
_TUNSETIFF = 0x400454CA
_IFF_TUN, _IFF_NO_PI = 0x0001, 0x1000
_REQUEST = struct.Struct("16sH22x")


class TunDevice:
    """A TUN device with an address and the default route; it goes when it is closed.

    The descriptor is non-blocking: one read is one IP packet, and so is one write.
    """

    def __init__(self, name: str, address: str) -> None:
        """Needs CAP_NET_ADMIN. Raises OSError, or subprocess.CalledProcessError from `ip`."""
        self.name = name
        self._descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            request = _REQUEST.pack(name.encode(), _IFF_TUN | _IFF_NO_PI)
            fcntl.ioctl(self._descriptor, _TUNSETIFF, request)
            _configure(name, address)
        except (OSError, subprocess.CalledProcessError):
            os.close(self._descriptor)
            raise

    def fileno(self) -> int:
        """The descriptor, for select."""
        return self._descriptor

    def read(self) -> bytes:
        """The next packet that the kernel sends; BlockingIOError when there is none."""
        return os.read(self._descriptor, TUN_MTU_BYTES)

    def write(self, packet: bytes) -> None:
        """Hand a packet to the kernel; OSError if it does not take it."""
        os.write(self._descriptor, packet)

    def close(self) -> None:
        """Remove the device."""
        os.close(self._descriptor)


def _configure(name: str, address: str) -> None:
    # Without IPv6 the kernel sends nothing of its own accord (router solicitations, MLD).
    ipv6 = Path(f"/proc/sys/net/ipv6/conf/{name}/disable_ipv6")
    if ipv6.exists():
        ipv6.write_text("1", encoding="ascii")
    for arguments in (
        ["address", "add", f"{address}/32", "dev", name],
        ["link", "set", name, "mtu", str(TUN_MTU_BYTES), "txqueuelen", str(QUEUE_PACKETS), "up"],
        ["route", "replace", "default", "dev", name, "src", address],
    ):
        subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)
