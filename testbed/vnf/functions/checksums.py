"""Big-endian numbers in packets, and Internet checksums (RFC 1071) that follow a rewrite.

Nothing here checks bounds: the caller has looked at the packet's length before.
"""

from __future__ import annotations

import numpy as np

from testbed.compiled import compiled
from testbed.vnf.state.arrays import Bytes


@compiled
def byte(packet: Bytes, at: int) -> int:
    """The byte at `at` as an int64: unsigned numbers must not mix with signed ones."""
    return int(np.int64(packet[at]))


@compiled
def be16(packet: Bytes, at: int) -> int:
    """The 16 bit number at `at`."""
    return byte(packet, at) << 8 | byte(packet, at + 1)


@compiled
def be32(packet: Bytes, at: int) -> int:
    """The 32 bit number at `at`, never negative."""
    return be16(packet, at) << 16 | be16(packet, at + 2)


@compiled
def be64(packet: Bytes, at: int) -> int:
    """The 64 bits at `at` as an int64: negative if the first bit is set."""
    return be32(packet, at) << 32 | be32(packet, at + 4)


@compiled
def put_be16(packet: Bytes, at: int, value: int) -> None:
    """Write 16 bits; higher ones are ignored."""
    packet[at] = value >> 8 & 0xFF
    packet[at + 1] = value & 0xFF


@compiled
def put_be32(packet: Bytes, at: int, value: int) -> None:
    """Write 32 bits; higher ones are ignored."""
    put_be16(packet, at, value >> 16)
    put_be16(packet, at + 2, value)


@compiled
def put_be64(packet: Bytes, at: int, value: int) -> None:
    """Write 64 bits."""
    put_be32(packet, at, value >> 32)
    put_be32(packet, at + 4, value)


@compiled
def sum16(packet: Bytes, begin: int, end: int, initial: int) -> int:
    """`initial` plus the 16 bit words of `packet[begin:end]`; an odd last byte is padded."""
    total = initial
    at = begin
    while at + 3 < end:
        word = be32(packet, at)
        total += (word >> 16) + (word & 0xFFFF)
        at += 4
    if at + 1 < end:
        total += be16(packet, at)
        at += 2
    if at < end:
        total += byte(packet, at) << 8
    return total


@compiled
def fold(total: int) -> int:
    """A sum of 16 bit words (below 2**47) as one, with the carries added back in."""
    total = (total & 0xFFFF) + (total >> 16)
    total = (total & 0xFFFF) + (total >> 16)
    return (total & 0xFFFF) + (total >> 16)


@compiled
def checksum(packet: Bytes, begin: int, end: int, initial: int) -> int:
    """The checksum of `packet[begin:end]`, in which its own field is 0; `initial` is added.

    With the checksum in its place the result is 0 if and only if it is right.
    """
    return 0xFFFF ^ fold(sum16(packet, begin, end, initial))


@compiled
def sum_of_word(word: int) -> int:
    """The sum of the four 16 bit words in 64 bits."""
    return (word & 0xFFFF) + (word >> 16 & 0xFFFF) + (word >> 32 & 0xFFFF) + (word >> 48 & 0xFFFF)


@compiled
def difference16(old: int, new: int) -> int:
    """What a change of 16 bits adds to the complement of a checksum: ~m + m' of RFC 1624.

    Differences of several changes may be added (a few thousand of them), then `adjusted` applies
    them at once.
    """
    return (0xFFFF ^ old) + new


@compiled
def difference32(old: int, new: int) -> int:
    """`difference16` for 32 bits at an even offset, such as an IPv4 address."""
    return 0x1FFFE - (old >> 16) - (old & 0xFFFF) + (new >> 16) + (new & 0xFFFF)


@compiled
def difference64(old: int, new: int) -> int:
    """`difference16` for 64 bits at an even offset: half of an IPv6 address."""
    return 0x3FFFC - sum_of_word(old) + sum_of_word(new)


@compiled
def adjusted(before: int, difference: int) -> int:
    """The checksum after a change: HC' = ~(~HC + ~m + m'), RFC 1624, equation 3.

    Unlike RFC 1141's form it never gives 0xFFFF by mistake.
    """
    return 0xFFFF ^ fold((0xFFFF ^ before) + difference)


@compiled
def adjust16(before: int, old: int, new: int) -> int:
    """The checksum after 16 bits changed."""
    return adjusted(before, difference16(old, new))


@compiled
def adjust32(before: int, old: int, new: int) -> int:
    """The checksum after 32 bits changed."""
    return adjusted(before, difference32(old, new))


@compiled
def adjust64(before: int, old: int, new: int) -> int:
    """The checksum after 64 bits changed."""
    return adjusted(before, difference64(old, new))


@compiled
def put_adjusted(packet: Bytes, at: int, difference: int, udp: bool) -> None:
    """Adjust the checksum at `at` by all that has changed (see `difference16`).

    For UDP, 0 means that there is no checksum and stays; a sum of 0 is written as 0xFFFF (RFC 768).
    """
    value = be16(packet, at)
    if udp and value == 0:
        return
    value = adjusted(value, difference)
    if udp and value == 0:
        value = 0xFFFF
    put_be16(packet, at, value)
