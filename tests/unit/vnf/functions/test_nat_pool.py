"""The NAT's port pool: blocks with owners, exhaustion, contiguity; and its bounded tables."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, UDP
from scapy.packet import Packet as ScapyPacket

from testbed.scenario.errors import InputError
from testbed.scenario.types import NS_PER_S
from testbed.vnf.functions.nat import make
from testbed.vnf.functions.nat_pool import FRUITLESS_BLOCKS
from testbed.vnf.functions.nat_state import (
    ABOVE_ENDPOINT,
    BLOCK,
    ENDPOINT,
    ENDPOINT_MASK,
    EXPIRES,
    FULL,
    INTERNAL,
    MAPPING,
    NEXT,
    SESSION,
    block_count,
    block_in_use,
    grant,
    owns,
    withdraw,
)
from testbed.vnf.functions.sharing import Scope, scope_of
from testbed.vnf.state.records import apply
from tests.support.functions_support import (
    INSIDE,
    OTHER_SERVER,
    PUBLIC,
    SERVER,
    Runner,
    echo,
    icmp_error,
    tcp,
    udp,
)

NEWCOMER = "10.99.0.1"


def nat(**config: Any) -> Runner:
    return Runner("nat", {"public_address": PUBLIC, **config})


def change(runner: Runner, operations: tuple[int, ...]) -> None:
    """Carry out operations that come from outside, at the replica too."""
    words = np.array(operations, np.int64)
    for records in (runner.records, runner.replica):
        apply(records, words, 0, len(words), 0)


def port_of(runner: Runner, number: int, sport: int = 5000, at_s: float = 0) -> int:
    """The public port of the port of host number so-and-so."""
    source = f"10.77.{number >> 8}.{number & 255}"
    return int(runner.passes(udp(source, sport), at_s=at_s)[UDP].sport)


def check_consistency(runner: Runner) -> None:
    """What `nat_state` says about its records: no mapping without sessions, chains whole."""
    sessions = runner.tagged(SESSION)
    reached = 0
    for key, value in runner.tagged(MAPPING).items():
        link, latest_ns = value[NEXT], 0
        for _ in range(value[ENDPOINT] >> ABOVE_ENDPOINT):
            session = sessions[(SESSION << 56 | key[0] & (1 << 56) - 1, link - 1, 0, 0, 0)]
            assert session[ENDPOINT] & ENDPOINT_MASK == value[ENDPOINT] & ENDPOINT_MASK
            latest_ns = max(latest_ns, session[EXPIRES])
            link = session[NEXT]
            reached += 1
        assert link == 0 and value[ENDPOINT] >> ABOVE_ENDPOINT > 0
        assert latest_ns <= value[EXPIRES] <= latest_ns + NS_PER_S
    assert reached == len(sessions), "a session without a mapping"
    for key, value in runner.tagged(INTERNAL).items():
        protocol, endpoint = key[0] >> 48 & 0xFF, key[0] & ENDPOINT_MASK
        mapping = runner.state[(MAPPING << 56 | protocol << 48 | value[0], 0, 0, 0, 0)]
        assert mapping[ENDPOINT] & ENDPOINT_MASK == endpoint


@pytest.mark.parametrize("block_ports", [64, 512, 4096])
def test_ports_come_from_owned_blocks_alone(block_ports: int) -> None:
    owned = [2 * 1024 // block_ports + 1, 40_000 // block_ports]
    runner = nat(blocks=owned, block_ports=block_ports)
    ports = [port_of(runner, number, 5000 + number % 2) for number in range(64)]
    assert len(set(ports)) == len(ports)
    assert {port // block_ports for port in ports} <= set(owned)
    assert all(port % 2 == number % 2 for number, port in enumerate(ports))
    assert port_of(runner, 100, 40_001) == 40_001, "kept where the block is owned"


def test_owned_blocks_are_used_up_exactly() -> None:
    runner = nat(blocks=[20, 30, 40], block_ports=64)
    even = {port_of(runner, number) for number in range(96)}
    assert even == {
        port for block in (20, 30, 40) for port in range(block * 64, block * 64 + 64, 2)
    }
    assert runner.dropped(udp(NEWCOMER, 5000)) == "no-port"
    assert port_of(runner, 1000, 5001) % 2 == 1, "the other parity has ports left"
    check_consistency(runner)


def test_privileged_ports_need_a_block_of_their_own() -> None:
    assert port_of(nat(blocks=[0]), 1, 500) == 500
    assert nat(blocks=[0]).dropped(udp(INSIDE, 5000)) == "no-port"
    assert nat(blocks=[2]).dropped(udp(INSIDE, 500)) == "no-port"


def test_identifiers_of_icmp_come_from_owned_blocks_too() -> None:
    runner = nat(blocks=[3])
    out = runner.passes(echo("echo-request", INSIDE, SERVER, 7))
    assert out[ICMP].id // 512 == 3


def test_granted_and_withdrawn_blocks() -> None:
    runner = nat(blocks=[], instance=7)
    config = runner.function.config
    assert runner.dropped(udp()) == "no-port"
    change(runner, grant(config, 9))
    assert owns(runner.records, config, 9) and not owns(runner.records, config, 8)
    port = port_of(runner, 1)
    assert port // 512 == 9
    assert block_in_use(runner.records, config, 9, 1_000 * NS_PER_S)
    assert not block_in_use(runner.records, config, 10, 1_000 * NS_PER_S)
    assert not block_in_use(runner.records, config, 9, 1_302 * NS_PER_S)
    change(runner, withdraw(config, 9))
    assert not owns(runner.records, config, 9)
    assert runner.dropped(udp("10.77.0.2", 5000), at_s=1) == "no-port"
    assert port_of(runner, 1, at_s=1) == port, "a mapping outlives its block"
    assert runner.passes(udp(SERVER, 53, PUBLIC, port), True, at_s=2).dst == "10.77.0.1"
    # Once it has expired it does not come to life again there.
    assert runner.dropped(udp("10.77.0.1", 5000), at_s=400) == "no-port"
    change(runner, grant(config, 11))
    assert port_of(runner, 1, at_s=400) // 512 == 11
    check_consistency(runner)


def test_owners_are_alike_at_all_instances() -> None:
    first, second = nat(instance=0), nat(instance=1, blocks=[])
    assert grant(first.function.config, 9, instance=1) == grant(second.function.config, 9)
    for runner in (first, second):
        change(runner, grant(second.function.config, 9))
        assert [scope_of(key) for key in runner.tagged(BLOCK)] == [Scope.LINEARIZABLE]
    assert not owns(first.records, first.function.config, 9)
    assert owns(second.records, second.function.config, 9)
    for block in (-1, block_count(first.function.config)):
        with pytest.raises(ValueError):
            grant(first.function.config, block)


def test_ownership_of_every_block_costs_no_record() -> None:
    runner = nat()
    assert all(owns(runner.records, runner.function.config, block) for block in range(128))
    port_of(runner, 1)
    assert not runner.tagged(BLOCK)


def test_an_expired_mapping_comes_to_life_with_its_port() -> None:
    runner = nat()
    port_of(runner, 1)
    port = port_of(runner, 2)
    assert port_of(runner, 2, at_s=1000) == port
    answer = udp(SERVER, 53, PUBLIC, port)
    assert runner.passes(answer, True, at_s=1001)
    check_consistency(runner)


@pytest.mark.parametrize("rtp_first", [True, False])
def test_ports_of_a_pair_stay_a_pair(rtp_first: bool) -> None:
    runner = nat()
    port_of(runner, 1, 5000)
    port_of(runner, 1, 5001)
    sports = (5000, 5001) if rtp_first else (5001, 5000)
    for number in range(3, 7):  # the searches for both parities go on from different places
        port_of(runner, number, sports[0])
    ports = {sport: port_of(runner, 2, sport) for sport in sports}
    assert ports[5000] != 5000 and ports[5001] == ports[5000] + 1


def test_a_nearly_full_pool_is_searched_on() -> None:
    blocks = list(range(20, 20 + 2 * FRUITLESS_BLOCKS))
    runner = nat(blocks=blocks, block_ports=64)
    last = 32 * len(blocks) - 1
    for number in range(last + 1):
        port_of(runner, number, at_s=0 if number == last else 10)
    # Only the last port is free again. A packet looks at so many blocks, the next goes on.
    newcomer = udp(NEWCOMER, 5000)
    reasons = [runner.send(newcomer, at_s=302).reason for _ in range(3)]
    assert reasons == ["no-port", "", ""]
    # Now all blocks are known to be full, until the first of their mappings ends.
    assert runner.dropped(udp(NEWCOMER, 5002), at_s=302) == "no-port"
    assert len(runner.tagged(FULL)) == len(blocks)
    result = runner.send(udp(NEWCOMER, 5002), at_s=302)
    assert (result.reason, result.operations) == ("no-port", ())
    assert runner.passes(udp(NEWCOMER, 5002), at_s=312)
    check_consistency(runner)


def test_sessions_are_bounded_and_expired_ones_make_room() -> None:
    runner = nat(max_sessions=16)
    ports = [port_of(runner, number) for number in range(16)]
    assert runner.dropped(udp(NEWCOMER, 6000), at_s=1) == "table-full"
    assert port_of(runner, 3, at_s=200) == ports[3], "an existing session goes on"
    # A second session of mapping 3; the slots' hand finds expired sessions of other mappings.
    assert runner.dropped(udp("10.77.0.3", 5000, OTHER_SERVER), at_s=200) == "table-full"
    runner.passes(udp("10.77.0.3", 5000, OTHER_SERVER), at_s=302)
    check_consistency(runner)
    for number in range(20, 34):
        port_of(runner, number, 6000, at_s=302)
        check_consistency(runner)
    assert len(runner.tagged(SESSION)) == 16
    assert len(runner.tagged(MAPPING)) == len(runner.tagged(INTERNAL)) == 15


@pytest.mark.parametrize(("newcomer", "mappings"), [(INSIDE, 1), (NEWCOMER, 2)])
def test_an_expired_session_leaves_the_middle_of_its_chain(newcomer: str, mappings: int) -> None:
    """Its slot is taken by a session of the same mapping, or of another."""
    runner = nat(max_sessions=8)
    for number in range(8):
        runner.passes(tcp("S", dport=80 + number))
        if number != 3:
            runner.passes(tcp("SA", SERVER, 80 + number, PUBLIC, 5000), True)
    runner.passes(tcp("S", newcomer, 5000, OTHER_SERVER, 99), at_s=1000)
    check_consistency(runner)
    remote_ports = sorted(key[1] & 0xFFFF for key in runner.tagged(SESSION))
    assert remote_ports == [80, 81, 82, 84, 85, 86, 87, 99]
    assert len(runner.tagged(MAPPING)) == mappings


def test_records_stay_consistent_under_random_traffic() -> None:
    """With few slots, ports and hosts, so that all that ends does end."""
    rng = np.random.default_rng(3)
    runner = nat(max_sessions=24, first_port=2000, last_port=2011, filtering="endpoint-independent")
    at_s, passed = 0.0, 0
    for step in range(3000):
        if step % 100 == 0:
            check_consistency(runner)
        at_s += float(rng.choice([0.01, 1.0, 45.0]))
        host, remote = f"10.77.0.{rng.integers(1, 6)}", f"10.9.0.{rng.integers(1, 4)}"
        sport, dport = 4000 + int(rng.integers(4)), 80 + int(rng.integers(3))
        flags = str(rng.choice(["S", "SA", "A", "FA", "R"]))
        packet: ScapyPacket
        if rng.random() < 0.6:
            packet = tcp(flags, host, sport, remote, dport)
            passed += runner.send(packet, at_s=at_s).packet is not None
        else:
            packet = tcp(flags, remote, dport, PUBLIC, 2000 + int(rng.integers(12)))
            passed += runner.send(packet, True, at_s).packet is not None
    check_consistency(runner)
    assert passed > 500


@pytest.mark.parametrize(
    ("bad", "field"),
    [
        ({}, "nat.public_address"),
        ({"public_address": "100.64.0.256"}, "nat.public_address"),
        ({"public_address": "fd00::1"}, "nat.public_address"),
        ({"public_address": 5}, "nat.public_address"),
        ({"udp_timeout_s": 119}, "nat.udp_timeout_s"),
        ({"filtering": "none"}, "nat.filtering"),
        ({"first_port": 2000, "last_port": 2000}, "nat.last_port"),
        ({"x": 1}, "nat configuration"),
        ({"block_ports": 500}, "nat.block_ports"),
        ({"block_ports": 32}, "nat.block_ports"),
        ({"blocks": "none"}, "nat.blocks"),
        ({"blocks": [128]}, "nat.blocks"),
        ({"blocks": [1, 1]}, "nat.blocks"),
        ({"blocks": [True]}, "nat.blocks"),
        ({"instance": -1}, "nat.instance"),
        ({"max_sessions": 0}, "nat.max_sessions"),
        ({"public_prefix6": "2001:db8::/48"}, "nat.internal_prefix6"),
        ({"internal_prefix6": "fd00::/48"}, "nat.public_prefix6"),
        ({"internal_prefix6": "fd00::/65", "public_prefix6": "2001:db8::/65"},
         "nat.internal_prefix6"),
        ({"internal_prefix6": "fd00::/48", "public_prefix6": "2001:db8::/56"},
         "nat.public_prefix6"),
        ({"internal_prefix6": "fd00::/48", "public_prefix6": "fd00::/48"}, "nat.public_prefix6"),
    ],
)  # fmt: skip
def test_bad_configuration_is_refused(bad: dict[str, Any], field: str) -> None:
    given = bad if not bad or "public_address" in bad else {"public_address": PUBLIC, **bad}
    with pytest.raises(InputError) as caught:
        make(given)
    assert caught.value.field == field


SEEDS = tuple(
    bytes(packet)
    for packet in (
        udp(),
        udp(SERVER, 53, PUBLIC, 5000),
        tcp("S"),
        tcp("SA", SERVER, 80, PUBLIC, 5000),
        echo("echo-request", INSIDE, SERVER),
        echo("echo-reply", SERVER, PUBLIC),
        icmp_error("10.9.9.9", PUBLIC, udp(PUBLIC)),
        icmp_error("10.9.9.9", INSIDE, udp(SERVER, 53, INSIDE, 5000)),
        icmp_error("10.9.9.9", PUBLIC, echo("echo-request", PUBLIC, SERVER)),
        udp("fd01:203:405:1::1", 5000, "fd00:77::2", 53),
        tcp("S", "fd00:77::2", 53, "2001:db8:1:d550::1", 5000),
        icmp_error("fd00:77::2", "2001:db8:1:d550::1", udp("2001:db8:1:d550::1", 1, "fd00::1", 2)),
    )
)


def mutated(raw: bytes, changes: list[tuple[int, int]], cut: int, mend: bool) -> bytes:
    """`raw` with bytes changed and cut off; `mend` repairs the header checksum to get deeper."""
    buffer = bytearray(raw[: max(0, len(raw) - cut)])
    for at, value in changes:
        if buffer:
            buffer[at % len(buffer)] = value
    length = (buffer[0] & 15) * 4 if buffer else 0
    if mend and buffer and buffer[0] >> 4 == 4 and 20 <= length <= len(buffer):
        buffer[10:12] = b"\0\0"
        buffer[10:12] = (-int.from_bytes(buffer[:length], "big") % 0xFFFF).to_bytes(2, "big")
    return bytes(buffer)


MUTATIONS = st.builds(
    mutated,
    st.sampled_from(SEEDS),
    st.lists(st.tuples(st.integers(0, 110), st.integers(0, 255)), max_size=6),
    st.one_of(st.just(0), st.integers(0, 90)),
    st.booleans(),
)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.one_of(st.binary(max_size=90), MUTATIONS), st.booleans())))
def test_arbitrary_packets_never_fail(packets: list[tuple[bytes, bool]]) -> None:
    runner = nat(
        max_sessions=8, internal_prefix6="fd01:203:405::/48", public_prefix6="2001:db8:1::/48"
    )
    for number, (raw, reverse) in enumerate(packets):
        runner.send(raw, reverse, number * 20)
    check_consistency(runner)


def sharing_nat(instance: int, **config: Any) -> Runner:
    return nat(blocks=[], claims_blocks=True, instance=instance, block_ports=64, **config)


def test_a_nat_that_claims_blocks_asks_for_one_and_then_has_ports() -> None:
    runner = sharing_nat(3)
    assert runner.dropped(udp(sport=5000)) == "no-port"
    blocks = runner.tagged(BLOCK)
    assert [value[0] for value in blocks.values()] == [3]
    assert runner.passes(udp(sport=5000))
    assert runner.tagged(BLOCK) == blocks, "one was enough"


def test_a_nat_claims_another_block_when_its_own_are_full_and_none_that_others_own() -> None:
    runner = sharing_nat(0, first_port=1024, last_port=1024 + 4 * 64 - 1)
    change(runner, grant(runner.function.config, 17, 5))
    for port in range(2000, 2000 + 2 * 64, 2):
        while runner.send(udp(sport=port)).packet is None:
            pass
    owners = [value[0] for value in runner.tagged(BLOCK).values()]
    assert sorted(owners) == [0, 0, 5], "64 even ports are those of two blocks"
    for port in range(3000, 3000 + 2 * 32, 2):
        runner.send(udp(sport=port))
        runner.send(udp(sport=port))
    assert runner.dropped(udp(sport=4000)) == "no-port"
    assert sorted(value[0] for value in runner.tagged(BLOCK).values()) == [0, 0, 0, 5]


def test_what_a_claim_writes_is_linearizable_and_nothing_else_is() -> None:
    runner = sharing_nat(1)
    runner.send(udp())
    runner.passes(udp())
    assert {scope_of(key) for key in runner.state} <= {Scope.LINEARIZABLE, Scope.LOCAL}
    assert [key for key in runner.state if scope_of(key) is Scope.LINEARIZABLE] == list(
        runner.tagged(BLOCK)
    )


def test_claims_need_a_pool_that_is_nobodys() -> None:
    with pytest.raises(InputError, match=r"nat\.blocks.*\[\] with claims_blocks"):
        nat(claims_blocks=True)
    with pytest.raises(InputError, match=r"nat\.claims_blocks.*true or false"):
        nat(blocks=[], claims_blocks=1)
