"""Virtual MAC addresses: which hop of which service path a frame is for (RFC 7665, RFC 8300).

A chain of n functions has two service paths, forward and reverse. Hop 0 .. n-1 are its
functions, hop n is the edge where it ends. A frame for hop `hop` of path `path` has the
destination address 02:pp:pp:pp:hh:mm, where mm is the member (0 or 1) of the replica group that
sent it (0 from the ingress edge): the two members sit on different nodes, so their frames need
trees of their own, and a promoted member finds its tree installed already.
"""

from __future__ import annotations

from dataclasses import dataclass

FIRST_SERVICE_INDEX = 255
"""NSH service index of a frame for hop 0; it counts down by one a hop."""


def path_mac(path: int, hop: int, member: int) -> str:
    """The virtual MAC address of a frame for `hop` of `path` sent by group member `member`.

    Raises ValueError outside 0 <= path < 2**24, 0 <= hop < 256, 0 <= member < 256.
    """
    if not (0 <= path < 1 << 24 and 0 <= hop < 256 and 0 <= member < 256):
        raise ValueError(f"path {path}, hop {hop}, member {member}: out of range")
    return f"02:{path >> 16:02x}:{path >> 8 & 255:02x}:{path & 255:02x}:{hop:02x}:{member:02x}"


def forward_path(request: int) -> int:
    """The service path identifier of a request's packets from source to destination."""
    return 2 * request + 2


def reverse_path(request: int) -> int:
    """The service path identifier of the answers, through the same instances."""
    return 2 * request + 3


@dataclass(frozen=True, slots=True)
class Segment:
    """Frames for `mac` that enter at host `source` reach every host of `targets`."""

    mac: str
    source: str
    targets: tuple[str, ...]
