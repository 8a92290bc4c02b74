"""The stamper on IPv6, shards, fragments, ICMP errors, and over restarts of itself."""

from __future__ import annotations

import random
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, UDP, fragment
from scapy.layers.inet6 import ICMPv6DestUnreach, IPv6, IPv6ExtHdrFragment, fragment6
from scapy.packet import Packet

from testbed.scenario.steering import base_path, shard_of, with_shard
from testbed.vnf.dataplane.stamp import Stamp
from testbed.vnf.edge.stamper import (
    BUCKETS,
    MAX_DATAGRAMS,
    REASSEMBLY_NS,
    DuplicateFilter,
    Match,
    Stamper,
)

A4, B4, A6, B6 = "10.77.0.1", "10.77.0.2", "fd77::1", "fd77::2"
PATH, REVERSE = 2, 3
RULES = [
    Match(17, socket.inet_pton(socket.AF_INET, B4), 5000),
    Match(17, socket.inet_pton(socket.AF_INET6, B6), 5000),
]


def ingress(epoch: int = 0) -> Stamper:
    stamper = Stamper(epoch)
    for rule in RULES:
        stamper.add_rule(PATH, rule)
    return stamper


def udp(port: int, number: int = 0, version: int = 4) -> bytes:
    """Packet `number` of the flow from `port`."""
    header = IP(src=A4, dst=B4) if version == 4 else IPv6(src=A6, dst=B6)
    return bytes(header / UDP(sport=port, dport=5000) / number.to_bytes(4, "big"))


def answer(port: int, version: int = 4) -> bytes:
    header = IP(src=B4, dst=A4) if version == 4 else IPv6(src=B6, dst=A6)
    return bytes(header / UDP(sport=5000, dport=port))


def stamped(stamper: Stamper, packet: bytes, now_ns: int = 0) -> Stamp:
    stamp = stamper.stamp(packet, now_ns)
    assert stamp is not None
    return stamp


def test_a_path_has_rules_of_both_families() -> None:
    stamper = ingress()
    got = [stamped(stamper, udp(port, 0, version)) for port in (1, 2) for version in (4, 6, 4)]
    assert [(stamp.path, stamp.flow, stamp.seq) for stamp in got] == [
        (2, 0, 0), (2, 1, 0), (2, 0, 1), (2, 2, 0), (2, 3, 0), (2, 2, 1),
    ]  # fmt: skip
    stamper.remove_path(PATH)
    assert stamper.stamp(udp(1), 0) is stamper.stamp(udp(1, 0, 6), 0) is None


@pytest.mark.parametrize("version", [4, 6])
def test_answers_go_back_in_the_bucket_of_what_they_answer(version: int) -> None:
    stamper = Stamper(0)
    for bucket in (5, BUCKETS + 5):
        stamper.learn(udp(4000, 0, version), REVERSE, bucket)
        stamp = stamped(stamper, answer(4000, version))
        assert (stamp.path, stamp.flow, stamp.bucket) == (REVERSE, 0, 5)
    # The same addresses in another bucket: a new connection, where a NAT gave a port again.
    stamper.learn(udp(4000, 0, version), REVERSE, 6)
    stamp = stamped(stamper, answer(4000, version))
    assert (stamp.flow, stamp.bucket, stamp.seq) == (1, 6, 0)


# -------------------------------------------------------------------------------------- shards


def test_shards_take_buckets_and_flows_go_on() -> None:
    stamper = ingress()
    flows: dict[int, list[Stamp]] = {port: [] for port in range(1, 300)}

    def send() -> None:
        for port, stamps in flows.items():
            stamps.append(stamped(stamper, udp(port)))

    send()
    taken = {bucket: 1 + bucket % 15 for bucket in range(0, BUCKETS, 2)}
    stamper.set_shards(PATH, taken)
    send()
    stamper.set_shards(PATH, {0: 0, 1: 7})
    send()
    now = {**taken, 0: 0, 1: 7}
    assert {stamps[0].bucket for stamps in flows.values()} == set(range(BUCKETS))
    for stamps in flows.values():
        bucket = stamps[0].bucket
        assert [stamp.seq for stamp in stamps] == [0, 1, 2]
        assert len({(base_path(stamp.path), stamp.flow, stamp.bucket) for stamp in stamps}) == 1
        assert base_path(stamps[0].path) == PATH
        shards = [shard_of(stamp.path) for stamp in stamps]
        assert shards == [0, taken.get(bucket, 0), now.get(bucket, 0)]


def test_shards_are_those_of_one_path_and_go_with_it() -> None:
    stamper = ingress()
    stamper.set_shards(REVERSE, dict.fromkeys(range(BUCKETS), 3))
    assert stamped(stamper, udp(1)).path == PATH
    stamper.set_shards(PATH, dict.fromkeys(range(BUCKETS), 15))
    assert stamped(stamper, udp(2)).path == with_shard(PATH, 15)
    stamper.remove_path(PATH)
    stamper.add_rule(PATH, RULES[0])
    assert stamped(stamper, udp(1)).path == PATH


@pytest.mark.parametrize("shards", [{0: 1, BUCKETS: 1}, {0: 1, -1: 1}, {0: 1, 1: 16}, {1: -1}])
def test_a_bad_order_of_shards_changes_nothing(shards: dict[int, int]) -> None:
    stamper = ingress()
    with pytest.raises(ValueError, match=r"bucket|shard"):
        stamper.set_shards(PATH, shards)
    assert {stamped(stamper, udp(port)).path for port in range(1, 300)} == {PATH}


def test_a_duplicate_is_one_whatever_its_shard() -> None:
    passed = DuplicateFilter()
    assert passed.first_time(Stamp(PATH, 7, 1, 0, 0)) is not None
    assert passed.first_time(Stamp(with_shard(PATH, 4), 7, 1, 0, 0)) is None
    assert passed.first_time(Stamp(with_shard(PATH, 4), 7, 1, 0, 1)) is not None
    assert passed.first_time(Stamp(with_shard(REVERSE, 4), 7, 1, 0, 0)) is not None
    passed.remove_path(PATH)
    assert passed.first_time(Stamp(with_shard(PATH, 4), 7, 1, 0, 0)) is not None


# ----------------------------------------------------------------------------------- fragments


def fragments(port: int, identification: int, version: int, size: int = 4000) -> list[bytes]:
    payload = UDP(sport=port, dport=5000) / bytes(size)
    parts: list[Packet]
    if version == 4:
        parts = fragment(IP(src=A4, dst=B4, id=identification) / payload, 1200)
    else:
        parts = fragment6(
            IPv6(src=A6, dst=B6) / IPv6ExtHdrFragment(id=identification) / payload, 1280
        )
    assert len(parts) >= 3
    return [bytes(part) for part in parts]


@pytest.mark.parametrize("version", [4, 6])
def test_fragments_follow_the_first_one(version: int) -> None:
    stamper = ingress()
    one, other = fragments(1, 70, version), fragments(2, 71, version)
    whole = stamped(stamper, udp(1, 0, version))
    got = [
        stamped(stamper, packet)
        for packet in (one[0], other[0], other[1], one[2], one[1], udp(1, 0, version), other[2])
    ]
    assert whole.flow == 0
    assert [(stamp.flow, stamp.seq) for stamp in got] == [
        (0, 1), (1, 0), (1, 1), (0, 2), (0, 3), (0, 4), (1, 2),
    ]  # fmt: skip
    assert not stamper.refused


@pytest.mark.parametrize("version", [4, 6])
def test_a_later_fragment_needs_its_first_one_in_time(version: int) -> None:
    stamper = ingress()
    parts = fragments(1, 70, version)
    assert stamper.stamp(parts[1], 0) is None
    stamped(stamper, parts[0], 1_000)
    assert stamper.stamp(fragments(1, 71, version)[1], 2_000) is None
    stamped(stamper, parts[1], 1_000 + REASSEMBLY_NS - 1)
    assert stamper.stamp(parts[2], 1_000 + REASSEMBLY_NS) is None
    assert stamper.refused == {"fragments": 3}
    # The same identification anew, for another flow.
    again = fragments(2, 70, version)
    late_ns = 2 * REASSEMBLY_NS
    assert [stamped(stamper, part, late_ns).flow for part in again] == [1] * len(again)


def test_ipv4_datagrams_of_two_protocols_are_apart() -> None:
    stamper = ingress()
    first, second, *_ = fragments(1, 70, 4)
    stamped(stamper, first)
    assert stamper.stamp(second[:9] + b"\x06" + second[10:], 0) is None
    assert stamper.refused == {"fragments": 1}


def test_fragments_without_a_path_are_unclassified_all() -> None:
    stamper = Stamper(0)
    assert [stamper.stamp(part, 0) for part in fragments(1, 70, 4)] == [None] * 4
    assert stamper.refused == {"unclassified": 4}


def test_the_table_of_datagrams_is_bounded() -> None:
    stamper = ingress()
    first, second, *_ = fragments(1, 0, 4)

    def numbered(packet: bytes, identification: int) -> bytes:
        return packet[:4] + identification.to_bytes(2, "big") + packet[6:]

    for identification in range(MAX_DATAGRAMS + 1):
        stamped(stamper, numbered(first, identification))
    assert stamper.stamp(numbered(second, 0), 0) is None
    stamped(stamper, numbered(second, 1))


@pytest.mark.parametrize("version", [4, 6])
def test_a_flow_of_fragments_alone_is_learnt(version: int) -> None:
    stamper = Stamper(0)
    for part in fragments(1, 70, version):
        stamper.learn(part, REVERSE, 9)
    assert stamped(stamper, answer(1, version)).bucket == 9


# --------------------------------------------------------------------------------- ICMP errors


def unreachable(quoted: bytes, version: int, source: str, destination: str) -> bytes:
    if version == 4:
        return bytes(IP(src=source, dst=destination) / ICMP(type=3, code=3) / quoted[:28])
    return bytes(IPv6(src=source, dst=destination) / ICMPv6DestUnreach(code=4) / quoted)


@pytest.mark.parametrize("version", [4, 6])
def test_an_error_about_a_forward_packet_goes_along_the_reverse_path(version: int) -> None:
    source, destination = (A4, B4) if version == 4 else (A6, B6)
    stamper = Stamper(0)  # at the destination
    delivered = udp(4000, 0, version)
    error = unreachable(delivered, version, destination, source)
    assert stamper.stamp(error, 0) is None
    stamper.learn(delivered, REVERSE, 11)
    got = [stamped(stamper, packet) for packet in (error, answer(4000, version), error)]
    assert [(stamp.path, stamp.flow, stamp.bucket, stamp.seq) for stamp in got] == [
        (REVERSE, 0, 11, seq) for seq in range(3)
    ]
    assert stamper.refused == {"unclassified": 1}


@pytest.mark.parametrize("version", [4, 6])
def test_an_error_about_an_answer_goes_along_the_forward_path(version: int) -> None:
    source, destination = (A4, B4) if version == 4 else (A6, B6)
    stamper = ingress()
    error = unreachable(answer(4000, version), version, source, destination)
    # A rule would cover the packets that are quoted in reverse, but there is no such flow.
    assert stamper.stamp(error, 0) is None
    first = stamped(stamper, udp(4000, 0, version))
    stamp = stamped(stamper, error)
    assert (stamp.path, stamp.flow, stamp.seq) == (PATH, first.flow, 1)
    # An error about a packet that went the other way than the error does not exist.
    wrong = unreachable(udp(4000, 0, version), version, source, destination)
    assert stamper.stamp(wrong, 0) is None


# ------------------------------------------------------------------------------------ restarts


def test_flows_go_on_in_order_over_a_restart_that_gives_their_numbers_to_others() -> None:
    for seed in range(200):
        rng = random.Random(seed)
        passed = DuplicateFilter()
        in_flight: list[tuple[Stamp, int, int]] = []
        sent = dict.fromkeys((1, 2, 3), 0)
        arrived: dict[int, list[int]] = {port: [] for port in sent}
        fresh: list[int] = []
        for epoch in (7, 8):
            stamper = ingress(epoch)
            ports = sorted(sent, key=lambda _: rng.random())
            for port in [*ports, *rng.choices(ports, k=30)]:
                stamp = stamped(stamper, udp(port, sent[port]))
                in_flight += [(stamp, port, sent[port])] * 2
                sent[port] += 1
            if epoch == 7:
                fresh = list(sent.values())
        # Each flow of each epoch arrives in order, as it leaves a chain; all else is mixed.
        lanes: dict[tuple[int, int], list[tuple[Stamp, int, int]]] = {}
        for item in in_flight:
            lanes.setdefault((item[0].epoch, item[0].flow), []).append(item)
        while lanes:
            lane = rng.choice(sorted(lanes))
            stamp, port, number = lanes[lane].pop(0)
            if not lanes[lane]:
                del lanes[lane]
            if passed.first_time(stamp) is not None:
                arrived[port].append(number)
        for port, numbers in arrived.items():
            assert numbers == sorted(set(numbers)), (seed, port)
            after = [number for number in numbers if number >= fresh[port - 1]]
            assert after == list(range(fresh[port - 1], sent[port])), (seed, port)


def test_what_is_left_of_an_older_epoch_is_stale_on_its_path_alone() -> None:
    passed = DuplicateFilter()
    assert passed.first_time(Stamp(PATH, 0, 0, 1, 0)) is not None
    assert passed.first_time(Stamp(with_shard(PATH, 2), 5, 0, 2, 0)) is not None
    old = Stamp(PATH, 1, 0, 1, 0)
    assert passed.is_stale(old) and passed.first_time(old) is None
    other = Stamp(REVERSE, 1, 0, 1, 0)
    assert not passed.is_stale(other) and passed.first_time(other) is not None
    repeated = Stamp(PATH, 5, 0, 2, 0)
    assert not passed.is_stale(repeated) and passed.first_time(repeated) is None


# ----------------------------------------------------------------------------- malformed packets

VALID = [
    udp(1),
    udp(1, 0, 6),
    fragments(1, 70, 4)[0],
    fragments(1, 70, 4)[1],
    fragments(1, 70, 6)[0],
    fragments(1, 70, 6)[1],
    unreachable(answer(1), 4, A4, B4),
    unreachable(answer(1, 6), 6, A6, B6),
]


@given(
    st.sampled_from(VALID),
    st.lists(st.tuples(st.integers(0, 99), st.integers(0, 255)), max_size=4),
    st.integers(0, 200),
)
def test_mutated_packets_never_raise_and_are_counted(
    valid: bytes, changes: list[tuple[int, int]], length: int
) -> None:
    data = bytearray(valid)
    for at, value in changes:
        data[at % len(data)] = value
    check_any(bytes(data[:length]))


@given(st.binary(max_size=120), st.sampled_from([b"", b"\x45", b"\x60"]))
def test_arbitrary_bytes_never_raise_and_are_counted(data: bytes, first: bytes) -> None:
    check_any(first + data)


def check_any(data: bytes) -> None:
    stamper = ingress()
    for valid in VALID:
        stamper.stamp(valid, 0)
    refused = stamper.refused.total()
    stamper.learn(data, REVERSE, 3)
    stamp = stamper.stamp(data, 0)
    assert (stamp is None) == (stamper.refused.total() == refused + 1)
