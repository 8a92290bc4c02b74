"""Numbers in packets and checksums, against scapy's."""

from __future__ import annotations

import struct

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.utils import checksum as scapy_checksum

from testbed.vnf.functions import checksums
from testbed.vnf.state.arrays import Bytes


def array(data: bytes) -> Bytes:
    """Bytes that may be written to."""
    return np.frombuffer(data, np.uint8).copy()


words = st.integers(-(2**63), 2**63 - 1)


@settings(deadline=None)
@given(st.binary(min_size=8, max_size=8))
def test_numbers_are_big_endian(data: bytes) -> None:
    read = array(data)
    assert checksums.be16(read, 0) == struct.unpack_from("!H", data)[0]
    assert checksums.be32(read, 0) == struct.unpack_from("!I", data)[0]
    assert checksums.be64(read, 0) == struct.unpack_from("!q", data)[0]
    written = np.zeros(14, np.uint8)
    checksums.put_be16(written, 0, checksums.be16(read, 0))
    checksums.put_be32(written, 2, checksums.be32(read, 0))
    checksums.put_be64(written, 6, checksums.be64(read, 0))
    assert written.tobytes() == data[:2] + data[:4] + data


@settings(deadline=None)
@given(st.binary(max_size=80), st.integers(0, 3))
def test_checksum_equals_scapys(data: bytes, begin: int) -> None:
    begin = min(begin, len(data))
    expected = scapy_checksum(data[begin:])
    assert checksums.checksum(array(data), begin, len(data), 0) == expected


def test_a_checksum_may_be_taken_in_parts() -> None:
    data = bytes(range(60))
    first = checksums.sum16(array(data), 0, 24, 0)
    assert checksums.checksum(array(data), 24, 60, first) == scapy_checksum(data)
    largest = b"\xff" * 1500
    assert checksums.checksum(array(largest), 0, 1500, 2**20) == scapy_checksum(
        largest + b"\0\x10\0\0"
    )


@settings(deadline=None)
@given(words, words, st.integers(0, 3))
def test_adjusting_equals_computing_anew(old: int, new: int, zeros: int) -> None:
    rest = bytes(2 * zeros)
    for bits, adjust in ((16, checksums.adjust16), (32, checksums.adjust32),
                         (64, checksums.adjust64)):  # fmt: skip
        mask, size = (1 << bits) - 1, bits // 8
        before, after = (
            scapy_checksum((word & mask).to_bytes(size, "big") + rest + b"\x12\x34")
            for word in (old, new)
        )
        if bits < 64:
            assert adjust(before, old & mask, new & mask) == after
        else:
            assert adjust(before, old, new) == after


def test_rfc_1624_example() -> None:
    # RFC 1624 section 4: HC = 0xDD2F, m = 0x5555, m' = 0x3285 gives 0x0000, not 0xFFFF.
    assert checksums.adjust16(0xDD2F, 0x5555, 0x3285) == 0x0000


def test_udp_checksum_never_becomes_zero_and_zero_stays() -> None:
    difference = checksums.difference16(0x5555, 0x3285)
    for before, udp, after in (
        (b"\xdd\x2f", True, b"\xff\xff"),
        (b"\xdd\x2f", False, b"\0\0"),
        (b"\0\0", True, b"\0\0"),
        (b"\0\0", False, b"\x22\xd0"),
    ):
        packet = array(before)
        checksums.put_adjusted(packet, 0, difference, udp)
        assert packet.tobytes() == after


@settings(deadline=None)
@given(st.lists(st.tuples(words, words), max_size=20))
def test_differences_add_up(changes: list[tuple[int, int]]) -> None:
    packet, at_once, total = 0x1234, 0x1234, 0
    for old, new in changes:
        packet = checksums.adjust64(packet, old, new)
        total += checksums.difference64(old, new)
    at_once = checksums.adjusted(at_once, total)
    assert (packet - at_once) % 0xFFFF == 0
