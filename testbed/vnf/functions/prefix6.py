"""Stateless translation of IPv6 prefixes that leaves checksums as they are (NPTv6, RFC 6296).

The prefix is replaced, and what that does to the sum of the address is taken back in another 16
bits: bits 48-63 for prefixes up to /48 (3.4), else the first 16 bits after bit 64 that are not
0xFFFF (3.5). So no transport checksum changes, and every protocol and fragment is translated.
"""

from __future__ import annotations

from testbed.compiled import compiled
from testbed.vnf.functions.checksums import be16, be64, fold, put_be16, put_be64
from testbed.vnf.state.arrays import Bytes

LONGEST_FOR_SUBNET = 48


@compiled
def in_prefix(high: int, prefix: int, mask: int) -> bool:
    """Whether the upper half of an address lies in a prefix of at most 64 bits."""
    return high & mask == prefix


@compiled
def mappable(packet: Bytes, at: int, bits: int) -> bool:
    """Whether the address at `at` has an image.

    Not if the 16 bits that are to take the difference are 0xFFFF, which is the same number as 0 in
    one's complement; nor, beyond /48, if the interface identifier is zero: the anycast address of
    the subnet's routers (RFC 4291 2.6.1) would become that of a host.
    """
    if bits <= LONGEST_FOR_SUBNET:
        return be16(packet, at + 6) != 0xFFFF
    return be64(packet, at + 8) != 0 and be64(packet, at + 8) != -1


@compiled
def translate(packet: Bytes, at: int, bits: int, mask: int, prefix: int, adjustment: int) -> None:
    """Put the address at `at`, which is `mappable`, under another prefix.

    `adjustment` is the one's complement difference of the sums of the old and the new prefix.
    """
    put_be64(packet, at, be64(packet, at) & ~mask | prefix)
    place = at + 6
    if bits > LONGEST_FOR_SUBNET:
        place = at + 8
        while place < at + 14 and be16(packet, place) == 0xFFFF:
            place += 2
    value = fold(be16(packet, place) + adjustment)
    put_be16(packet, place, 0 if value == 0xFFFF else value)


def adjustment_between(old: int, new: int) -> int:
    """The difference that takes back what replacing a prefix does; both are 64 bit numbers."""

    def total(number: int) -> int:
        return sum(number >> shift & 0xFFFF for shift in (0, 16, 32, 48))

    return (total(old) - total(new)) % 0xFFFF
