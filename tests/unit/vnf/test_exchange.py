"""The exchange between groups: what it says is committed, what it knows converges."""

from __future__ import annotations

import itertools
import random
from collections import deque
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from testbed.scenario.types import FunctionName
from testbed.vnf.exchange.exchange import Address, Exchange
from testbed.vnf.exchange.known import Known
from testbed.vnf.exchange.part_messages import (
    MAX_PART_BYTES,
    PART_RECORDS,
    Answer,
    Part,
    decode,
    encode_answer,
    encode_part,
    shape_of,
)
from testbed.vnf.functions.effect import FILL, HEADER_WORDS, clear, new_effect
from testbed.vnf.functions.function import Call
from testbed.vnf.functions.registry import SHARES, make_function
from testbed.vnf.functions.traffic_monitor import (
    FLOW_TAG,
    ROWS,
    TOTAL_L3_BYTES,
    WIDTH,
    cell_of,
    column_of,
    mixed,
)
from testbed.vnf.functions.traffic_view import contribution, described
from testbed.vnf.replication import member as layout
from testbed.vnf.replication.member import ReplicationConfig, new_member
from testbed.vnf.state.arrays import Words
from testbed.vnf.state.records import KEY_WORDS, apply, contents, insert, remove
from tests.emulation.test_instance_pair import udp_packet

PERIOD_NS = 1_000_000_000
REPLICATION = ReplicationConfig("pipelined", 1, 0, 1, 1, 1, 1, 256)


@dataclass
class Network:
    """Delivers datagrams in an order that is drawn; loses and repeats some."""

    rng: random.Random
    loss: float = 0.0
    ends: dict[Address, Group] = field(default_factory=dict)
    under_way: deque[tuple[bytes, Address, Address]] = field(default_factory=deque)
    delivered: int = 0

    def send(self, data: bytes, source: Address, target: Address) -> None:
        assert len(data) < 60_000
        if self.rng.random() >= self.loss:
            for _ in range(self.rng.choice((1, 1, 2))):
                self.under_way.append((data, source, target))

    def deliver(self) -> None:
        while self.under_way:
            self.under_way.rotate(self.rng.randrange(3))
            data, source, target = self.under_way.popleft()
            self.delivered += 1
            if target in self.ends:
                self.ends[target].exchange.on_datagram(data, source)


class Group:
    """The primary of a group, without its packet loop."""

    def __init__(
        self, name: str, network: Network, number: int, function: FunctionName = "tm"
    ) -> None:
        self.name, self.network = name, network
        self.address = ("10.0.0.1", number)
        self.function = make_function(function, {})
        self.member = new_member(REPLICATION, self.function.new_state(), self.function.config, 0)
        self.words[layout.ROLE] = layout.PRIMARY
        self.exchange = Exchange(
            name, self.function, SHARES[self.function.name], self.member, self._send, PERIOD_NS
        )
        self.now_ns = self.exchange.due_ns
        network.ends[self.address] = self

    @property
    def words(self) -> Words:
        return self.member.words

    def _send(self, data: bytes, target: Address) -> bool:
        self.network.send(data, self.address, target)
        return True

    def count(self, packet: bytes, committed: bool = True) -> None:
        """Handle a packet as a primary does, an entry of the log for each."""
        effect = new_effect()
        clear(effect)
        buffer = np.zeros(1500, np.uint8)
        buffer[: len(packet)] = np.frombuffer(packet, np.uint8)
        records = self.member.records
        config = self.function.config
        self.function.process(Call(buffer, len(packet), 0, 7, records, effect, config))
        apply(records, effect, HEADER_WORDS, HEADER_WORDS + int(effect[FILL]), 0)
        self.words[layout.NEXT] += 1
        if committed:
            self.words[layout.COMMITTED] = self.words[layout.NEXT]

    def work(self, rounds: int = 1) -> None:
        """All that is due within some periods."""
        until_ns = self.now_ns + rounds * PERIOD_NS
        while self.exchange.due_ns < until_ns:
            self.now_ns = self.exchange.due_ns
            self.exchange.work(self.now_ns)
        self.now_ns = until_ns

    def meet(self, groups: list[Group]) -> None:
        """Be told who the others are."""
        peers = [
            {"group": g.name, "name": f"{g.name}@{g.address}", "address": g.address[0]}
            | {"port": g.address[1]}
            for g in groups
            if g.name != self.name
        ]
        self.exchange.share_with({"peers": peers})


def groups_of(count: int, loss: float = 0.0, function: FunctionName = "tm") -> list[Group]:
    network = Network(random.Random(5), loss)
    groups = [Group(f"g{number}", network, number, function) for number in range(count)]
    for group in groups:
        group.meet(groups)
    return groups


def run(groups: list[Group], rounds: int = 1) -> None:
    for _ in range(rounds):
        for group in groups:
            group.work()
        groups[0].network.deliver()


def merged(groups: list[Group]) -> dict[str, Any]:
    """The view, from the states as dumps have them."""
    function = groups[0].function
    each = [
        contribution(function, contents(group.member.records), number)
        for number, group in enumerate(groups)
    ]
    return {"groups": [g.name for g in groups], **described(function, each)}


def test_views_converge_while_datagrams_are_lost_and_states_grow() -> None:
    groups = groups_of(3, loss=0.5)
    for step in range(300):
        groups[step % 3].count(udp_packet(step % 7 if step % 3 else 99, step))
        if step % 40 == 0:
            run(groups)
    run(groups, 40)
    expected = merged(groups)
    assert expected["packets"] == 300 and len(expected["heavy"]) > 3
    assert [group.exchange.view() for group in groups] == [expected] * 3


def test_nothing_is_sent_once_all_is_known() -> None:
    groups = groups_of(2)
    groups[0].count(udp_packet(1, 1))
    run(groups, 3)
    before = groups[0].network.delivered
    assert before > 0
    for group in groups:
        group.meet(groups)  # no news
    run(groups, 10)
    assert groups[0].network.delivered == before
    groups[1].count(udp_packet(2, 1))
    run(groups, 3)
    assert groups[0].network.delivered > before


def test_what_is_not_committed_is_not_shared() -> None:
    """It could be lost with this primary, and the view would count more than there was."""
    groups = groups_of(2)
    groups[0].count(udp_packet(1, 1))
    groups[0].count(udp_packet(1, 2), committed=False)
    run(groups, 3)
    assert groups[1].exchange.view()["groups"] == []
    groups[0].words[layout.COMMITTED] += 1
    run(groups, 3)
    assert groups[1].exchange.view()["packets"] == 2


def test_a_packet_that_is_counted_while_a_copy_is_made_is_committed_first() -> None:
    """The note is read row by row: it must not name what is in no log that survives."""
    first, second = groups_of(2)
    first.count(udp_packet(1, 1))
    first.exchange.work(first.exchange.due_ns)
    first.count(udp_packet(1, 2), committed=False)
    run([first, second], 3)
    assert second.exchange.view()["groups"] == []


def test_a_new_primary_goes_on_with_its_groups_contribution() -> None:
    groups = groups_of(2)
    old, other = groups
    for seq in range(20):
        old.count(udp_packet(seq % 3, seq))
    run(groups, 2)
    new = Group(old.name, old.network, 9)
    for seq in range(20):
        new.count(udp_packet(seq % 3, seq))
    del old.network.ends[old.address]
    for group in (new, other):
        group.meet([new, other])
    before = other.exchange.view()
    other.count(udp_packet(8, 0))
    run([new, other], 2)
    assert other.exchange.view()["packets"] == before["packets"] + 1
    new.count(udp_packet(1, 21))
    run([new, other], 2)
    assert new.exchange.view() == other.exchange.view() == merged([new, other])


def test_who_is_not_the_primary_says_nothing() -> None:
    groups = groups_of(2)
    groups[0].count(udp_packet(1, 1))
    groups[0].words[layout.ROLE] = layout.FOLLOWER
    run(groups, 3)
    assert groups[0].network.delivered == 0


def test_an_answer_of_somebody_else_does_not_count() -> None:
    groups = groups_of(2, loss=1.0)
    groups[0].count(udp_packet(1, 1))
    run(groups, 2)
    groups[0].network.loss = 0.0
    for number in range(10):
        answer = encode_answer(Answer("g1", number, 1 << 40))
        groups[0].exchange.on_datagram(answer, ("10.9.9.9", 1))
    run(groups, 2)
    assert groups[1].exchange.view()["packets"] == 1


@pytest.mark.parametrize("place", [0, 1, 4095, 4096, 8000, 8191, 8192, 12_287])
def test_a_heavy_flow_that_moves_while_rows_are_looked_at_is_not_missed(place: int) -> None:
    """Erased records are replaced by the last ones: here half of them, after the first look."""
    function = make_function("tm", {})
    records = function.new_state()
    keys = [(FLOW_TAG << 56 | 4 << 48 | number, 1, 0, 0, 0) for number in range(12_288)]
    for key in keys:
        insert(records, key, 0)
    heavy = keys[place]
    share = SHARES["tm"]
    assert share.note is not None
    values = np.zeros((len(share.keys(function)), KEY_WORDS), np.int64)
    values[0, TOTAL_L3_BYTES] = 100
    for row in range(int(function.config[ROWS])):
        width = int(function.config[WIDTH])
        block, word = cell_of(row, column_of(mixed(heavy), row, width), width)
        values[1 + block, word] = 50
    work = share.note(function, records, values)
    next(work)
    next(work)
    for key in keys[:6000]:
        if key != heavy:
            remove(records, key)
    while True:
        try:
            next(work)
        except StopIteration as end:
            found = np.frombuffer(end.value, ">i8").reshape(-1, KEY_WORDS).tolist()
            break
    assert list(heavy) in found


def test_signatures_are_counted_over_all_groups() -> None:
    groups = groups_of(2, function="idps")
    rules = len(groups[0].exchange.view()["matched"])
    assert rules > 1
    for number, group in enumerate(groups):
        group.words[layout.NEXT] = group.words[layout.COMMITTED] = 1
        operations = np.array([1 | 1 << 8 | 1 << 32, 0x40 << 56 | 1, 5 + number], np.int64)
        apply(group.member.records, operations, 0, 3, 0)
    run(groups, 2)
    expected = {"groups": ["g0", "g1"], "matched": [0, 11, *[0] * (rules - 2)]}
    assert [group.exchange.view() for group in groups] == [expected] * 2


def parts() -> list[tuple[str, int, int, bytes]]:
    rng = np.random.default_rng(2)
    rows = 2 * PART_RECORDS + 3
    sizes = (PART_RECORDS, PART_RECORDS, 3)
    assert sum(sizes) == rows
    found = [
        (group, number, 1, rng.integers(0, 9, (sizes[number], 2)).astype("<i8").tobytes())
        for group, number in itertools.product("ab", (0, 1, 2, 0, 2))
    ]
    return [*found, ("a", 3, 7, b"late"), ("a", 3, 6, b"zzz"), ("b", 3, 6, b"x"), ("b", 3, 6, b"y")]


def test_what_is_known_does_not_depend_on_order_or_repetition() -> None:
    def known_of(said: list[tuple[str, int, int, bytes]]) -> dict[str, Any]:
        known = Known(2 * PART_RECORDS + 3, 2)
        for each in said:
            known.merge(*each)
        told = known.contributions()
        return {name: (c.values.tolist(), c.note, c.version) for name, c in told.items()}

    expected = known_of(parts())
    assert expected["a"][1:] == (b"late", 7) and expected["b"][1:] == (b"y", 6)
    rng = random.Random(1)
    for _ in range(20):
        shuffled = [*parts(), *rng.sample(parts(), 6)]
        rng.shuffle(shuffled)
        assert known_of(shuffled) == expected


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc1",
        b"\x05",
        encode_answer(Answer("g", 1, 2))[:-1],
        encode_part(Part(1, "g", -1, 2, b"")),
        encode_part(Part(1, "g", 0, 2, bytes(MAX_PART_BYTES + 8))),
        encode_part(Part(1, "g", 0, 2, bytes(40)))[:-1],
    ],
)
def test_a_datagram_that_nobody_wrote_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError):
        decode(data)


def test_parts_that_do_not_fit_are_counted_and_change_nothing() -> None:
    (group,) = groups_of(1)
    (other,) = groups_of(1, function="idps")
    other.words[layout.NEXT] = other.words[layout.COMMITTED] = 1
    keys = SHARES["tm"].keys(group.function)
    shape = shape_of(keys, group.function.value_words)
    bad = [
        Part(shape + 1, "g9", 0, 1, bytes(8)),
        Part(shape, "g0", 0, 1, bytes(8)),
        Part(shape, "g9", 0, 1, bytes(8)),
        Part(shape, "g9", 77, 1, bytes(40)),
        Part(shape, "g9", 2, 1, np.full(5, -1, "<i8").tobytes()),
    ]
    for part in bad:
        group.exchange.on_datagram(encode_part(part), ("10.0.0.1", 4))
    assert group.exchange.counters["malformed"] == len(bad)
    assert group.exchange.view()["groups"] == [] and not group.network.under_way


def test_nothing_is_sent_again_for_the_sake_of_order() -> None:
    """Parts and answers overtake each other and come twice; one round is enough for all."""
    groups = groups_of(3)
    for number, group in enumerate(groups):
        for port in range(40):
            group.count(udp_packet(number, port))
    run(groups)
    sent = [group.exchange.counters["sent"] for group in groups]
    assert all(sent)
    run(groups, 2)
    assert [group.exchange.counters["sent"] for group in groups] == sent
    assert all(group.exchange.view() == groups[0].exchange.view() for group in groups)
