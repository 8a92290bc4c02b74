"""The frame's encoding: what is written is read, what is not ours is refused, nothing raises."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from testbed.scenario.steering import path_mac
from testbed.vnf.dataplane import nsh
from testbed.vnf.dataplane.socket import MAX_TARGETS, target_filter
from testbed.vnf.dataplane.stamp import Stamp

SOURCE = nsh.mac_bytes("06:00:00:00:00:01")
PACKET = b"\x45" + bytes(range(1, 60))
STAMP = Stamp(path=0x010203, flow=0x04050607, bucket=0x0809, epoch=0x0A0B, seq=0x0C0D0E0F10111213)
PREFIX = nsh.header_prefix(STAMP.path, 4, 1, SOURCE)
FRAME = nsh.encode(PREFIX, STAMP, PACKET)
PACKET6 = b"\x60" + bytes(range(1, 60))
FRAME6 = nsh.encode(PREFIX, STAMP, PACKET6)

stamps = st.builds(
    Stamp,
    path=st.integers(0, (1 << 24) - 1),
    flow=st.integers(0, (1 << 32) - 1),
    bucket=st.integers(0, (1 << 16) - 1),
    epoch=st.integers(0, (1 << 16) - 1),
    seq=st.integers(0, (1 << 64) - 1),
)
packets = st.one_of(
    st.builds(
        lambda first, rest: bytes([first]) + rest,
        st.integers(0x45, 0x4F),
        st.binary(min_size=19, max_size=200),
    ),
    st.builds(
        lambda first, rest: bytes([first]) + rest,
        st.integers(0x60, 0x6F),
        st.binary(min_size=39, max_size=200),
    ),
)


@given(stamps, st.integers(0, 255), st.integers(0, 255), packets)
def test_round_trip(stamp: Stamp, hop: int, member: int, packet: bytes) -> None:
    frame = nsh.encode(nsh.header_prefix(stamp.path, hop, member, SOURCE), stamp, packet)
    assert nsh.decode(frame) == nsh.Frame(hop, member, stamp, packet)


def test_the_bytes_are_those_of_rfc_8300() -> None:
    assert FRAME[:46].hex(" ") == (
        "02 01 02 03 04 01 06 00 00 00 00 01 89 4f "  # Ethernet
        "0f c8 02 01 "  # version 0, TTL 63, 8 words, MD type 2, IPv4
        "01 02 03 fb "  # path, index 255 - 4
        "ff f6 01 14 "  # experimental class, type 1, 20 bytes
        "04 05 06 07 08 09 0a 0b 0c 0d 0e 0f 10 11 12 13 00 00 00 00"
    )
    assert FRAME[:6] == nsh.mac_bytes(path_mac(STAMP.path, 4, 1))
    assert FRAME[46:] == PACKET


def test_only_the_next_protocol_tells_ipv6_from_ipv4() -> None:
    assert FRAME6[:46] == FRAME[:17] + b"\x02" + FRAME[18:46]
    assert FRAME6[46:] == PACKET6


@pytest.mark.parametrize("frame", [FRAME, FRAME6])
def test_the_next_protocol_must_agree_with_the_version(frame: bytes) -> None:
    for protocol in range(256):
        other = frame[:17] + bytes([protocol]) + frame[18:]
        assert (nsh.decode(other) is not None) == (other == frame)


@given(st.binary(max_size=200))
@example(FRAME[:65])
@example(FRAME6[:85])
def test_random_bytes_are_refused(data: bytes) -> None:
    assert nsh.decode(data) is None


@given(st.binary(max_size=200))
def test_random_bytes_behind_a_good_header_are_a_packet_or_refused(data: bytes) -> None:
    frame = nsh.decode(FRAME[:46] + data)
    good = len(data) >= 20 and 0x45 <= data[0] <= 0x4F
    assert frame == (nsh.Frame(4, 1, STAMP, data) if good else None)
    frame = nsh.decode(FRAME6[:46] + data)
    good = len(data) >= 40 and data[0] >> 4 == 6
    assert frame == (nsh.Frame(4, 1, STAMP, data) if good else None)


@given(st.binary(max_size=200))
def test_what_is_decoded_is_what_is_encoded_whatever_the_packet(data: bytes) -> None:
    frame = nsh.encode(PREFIX, STAMP, data)
    assert nsh.decode(frame) in (None, nsh.Frame(4, 1, STAMP, data))


@given(
    st.sampled_from([FRAME, FRAME6]),
    st.lists(st.tuples(st.integers(0, 105), st.integers(0, 255)), max_size=6),
    st.integers(0, 106),
)
def test_a_mutated_frame_never_raises_and_is_read_only_if_encode_writes_it(
    frame: bytes, changes: list[tuple[int, int]], length: int
) -> None:
    mutated = bytearray(frame)
    for at, value in changes:
        mutated[at] = value
    mutated = mutated[:length]
    read = nsh.decode(bytes(mutated))
    if read is not None:
        prefix = nsh.header_prefix(read.stamp.path, read.hop, read.member, bytes(mutated[6:12]))
        written = bytearray(nsh.encode(prefix, read.stamp, read.packet))
        mutated[14:16] = written[14:16]  # the TTL; the fixed bits beside it have a test below
        mutated[42:46] = written[42:46]  # the reserved word
        assert written == mutated


@pytest.mark.parametrize("length", range(66))
def test_a_cut_frame_is_refused(length: int) -> None:
    assert nsh.decode(FRAME[:length]) is None


@pytest.mark.parametrize("frame", [FRAME, FRAME6])
@given(bit=st.integers(0, 46 * 8 - 1))
def test_every_fixed_bit_of_the_header_is_checked(frame: bytes, bit: int) -> None:
    at = bit // 8
    damaged = bytearray(frame)
    damaged[at] ^= 0x80 >> bit % 8
    read = nsh.decode(bytes(damaged))
    member, source, stamp, reserved = at == 5, 6 <= at < 12, 26 <= at < 42, at >= 42
    ttl = (at == 14 and bit % 8 >= 4) or (at == 15 and bit % 8 < 2)
    if member or stamp:
        assert read is not None and read != nsh.decode(frame)
    elif source or reserved or ttl:
        assert read == nsh.decode(frame)
    else:
        assert read is None


def test_the_address_must_agree_with_the_service_path() -> None:
    for at in (1, 2, 3, 4):
        other = bytearray(FRAME)
        other[at] ^= 1
        assert nsh.decode(bytes(other)) is None


@pytest.mark.parametrize(("path", "hop", "member"), [(1 << 24, 0, 0), (1, 256, 0), (1, 0, 256)])
def test_a_prefix_out_of_range_is_refused(path: int, hop: int, member: int) -> None:
    with pytest.raises(ValueError, match="out of range"):
        nsh.header_prefix(path, hop, member, SOURCE)


@pytest.mark.parametrize("mac", ["06:00", "zz:00:00:00:00:01", ""])
def test_a_bad_mac_address_is_refused(mac: str) -> None:
    with pytest.raises(ValueError):
        nsh.mac_bytes(mac)


def test_a_filter_has_a_bound() -> None:
    full = [(path, 0) for path in range(MAX_TARGETS)]
    assert len(target_filter(full)) // 8 <= 4096
    with pytest.raises(ValueError, match="at most"):
        target_filter([*full, (MAX_TARGETS, 0)])


def test_a_probe_goes_the_way_of_the_frames_with_its_address_and_is_none_of_them() -> None:
    mac = path_mac(0x10002A, 3, 2)
    frame = nsh.probe(mac, SOURCE, 77)
    assert frame[:6] == nsh.mac_bytes(mac)
    assert frame[12:14] == nsh.ETHERTYPE_NSH.to_bytes(2, "big")
    assert nsh.read_probe(frame) == (mac, 77)
    assert nsh.decode(frame) is None
    assert nsh.read_probe(FRAME) is None
    assert nsh.read_probe(frame[:20]) is None


def test_only_addresses_of_paths_are_probed() -> None:
    with pytest.raises(ValueError, match="hop of a path"):
        nsh.probe("06:00:00:00:00:01", SOURCE, 1)
