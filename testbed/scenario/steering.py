"""Virtual MAC addresses: which hop of which service path a frame is for (RFC 7665, RFC 8300).

A chain of n functions has two service paths, forward and reverse. Hop 0 .. n-1 are its
functions, hop n is the edge where it ends. A frame for hop `hop` of path `path` has the
destination address 02:pp:pp:pp:hh:mm, where mm is the member of the replica group that sent it
(0 from the ingress edge): the members sit on different nodes, so their frames need trees of their
own, and a promoted member finds its tree installed already.

Shards. A chain has both paths once for each of its shards; each leads through that shard's replica
groups. The top four of a path's 24 bits are the shard; the other twenty, the base path, are the
same for all of them. A flow is named by its base path, so that it would go on under its numbers
if its bucket changed shard.
"""

from __future__ import annotations

from dataclasses import dataclass

FIRST_SERVICE_INDEX = 255
"""NSH service index of a frame for hop 0; it counts down by one a hop."""

PATH_BITS = 24
SHARD_BITS = 4
SHARDS = 1 << SHARD_BITS
BASE_PATH_BITS = PATH_BITS - SHARD_BITS
BASE_PATHS = 1 << BASE_PATH_BITS
BASE_PATH_MASK = BASE_PATHS - 1


def path_mac(path: int, hop: int, member: int) -> str:
    """The virtual MAC address of a frame for `hop` of `path` sent by group member `member`.

    Raises ValueError outside 0 <= path < 2**24, 0 <= hop < 256, 0 <= member < 256.
    """
    if not (0 <= path < 1 << PATH_BITS and 0 <= hop < 256 and 0 <= member < 256):
        raise ValueError(f"path {path}, hop {hop}, member {member}: out of range")
    return f"02:{path >> 16:02x}:{path >> 8 & 255:02x}:{path & 255:02x}:{hop:02x}:{member:02x}"


def shard_of(path: int) -> int:
    """The shard of a service path, below `SHARDS`."""
    return path >> BASE_PATH_BITS


def base_path(path: int) -> int:
    """The path of shard 0 that `path` is a shard of."""
    return path & BASE_PATH_MASK


def with_shard(path: int, shard: int) -> int:
    """The service path of `shard` beside `path`, whatever shard that is of.

    Raises ValueError outside 0 <= path < 2**24, 0 <= shard < 16.
    """
    if not (0 <= path < 1 << PATH_BITS and 0 <= shard < SHARDS):
        raise ValueError(f"path {path}, shard {shard}: out of range")
    return shard << BASE_PATH_BITS | path & BASE_PATH_MASK


def forward_path(request: int) -> int:
    """The service path identifier of a request's packets from source to destination.

    Raises ValueError for a request that leaves no room for the shard: 0 <= request < 2**19 - 1.
    """
    return _checked(2 * request + 2, request)


def reverse_path(request: int) -> int:
    """The service path identifier of the answers, through the same instances; see `forward_path`.

    Raises ValueError.
    """
    return _checked(2 * request + 3, request)


def is_forward(path: int) -> bool:
    """Whether packets of a request take this path, and no answers to them."""
    return path % 2 == 0


def _checked(path: int, request: int) -> int:
    if not 2 <= path < BASE_PATHS:
        raise ValueError(f"request {request}: expected 0 to {BASE_PATHS // 2 - 2}")
    return path


@dataclass(frozen=True, slots=True)
class Segment:
    """Frames for `mac` that enter at host `source` reach every host of `targets`."""

    mac: str
    source: str
    targets: tuple[str, ...]
