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

# Without IPv6 the kernel sends nothing of its own accord (router solicitations, MLD).
_IPV6_OFF = {"disable_ipv6": "1"}
_IPV6_QUIET = {
    "addr_gen_mode": "1",  # no link-local address
    "accept_ra": "0",
    "autoconf": "0",
    "router_solicitations": "0",
    "dad_transmits": "0",
    "disable_ipv6": "0",
}


class TunDevice:
    """A TUN device with an address and the default route; it goes when it is closed.

    With an IPv6 address too it has the IPv6 default route as well, and the kernel is kept from
    sending anything of its own accord; without one IPv6 is off. The descriptor is non-blocking:
    one read is one IP packet, and so is one write.
    """

    def __init__(self, name: str, address: str, address6: str | None = None) -> None:
        """Needs CAP_NET_ADMIN. Raises OSError, or subprocess.CalledProcessError from `ip`."""
        self.name = name
        self._descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            request = _REQUEST.pack(name.encode(), _IFF_TUN | _IFF_NO_PI)
            fcntl.ioctl(self._descriptor, _TUNSETIFF, request)
            _configure(name, address, address6)
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


def _configure(name: str, address: str, address6: str | None) -> None:
    settings = _IPV6_OFF if address6 is None else _IPV6_QUIET
    for key, value in settings.items():
        path = Path(f"/proc/sys/net/ipv6/conf/{name}/{key}")
        # A kernel without IPv6 has nothing to turn off.
        if address6 is not None or path.exists():
            path.write_text(value, encoding="ascii")
    # The device goes up after that: it is then that the kernel would solicit routers.
    _ip("address", "add", f"{address}/32", "dev", name)
    _ip("link", "set", name, "mtu", str(TUN_MTU_BYTES), "txqueuelen", str(QUEUE_PACKETS), "up")
    _ip("route", "replace", "default", "dev", name, "src", address)
    if address6 is not None:
        _ip("-6", "address", "add", f"{address6}/128", "dev", name, "nodad")
        _ip("-6", "route", "replace", "default", "dev", name, "src", address6)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)
