"""Flow rules: what is delivered where, proved on OpenFlow tables in memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.rules import (
    Match,
    Rule,
    SegmentError,
    chain_rules,
    host_rules,
    make_network,
)
from controller.update import (
    EMPTY,
    Barrier,
    DeleteGroup,
    Message,
    Rules,
    SetFlow,
    Table,
    by_match,
    change,
    make_rounds,
    whole,
)
from controller.wiring import Wiring, WiringError
from testbed.scenario.steering import Segment, path_mac
from tests.support.controller_support import make_wiring, wirings
from tests.support.openflow_plant import Plant

MACS = tuple(path_mac(2, hop, 0) for hop in range(3))


def _segments(wiring: Wiring) -> st.SearchStrategy[list[Segment]]:
    """Some of three virtual MAC addresses, each from any host to one host or more."""
    host = st.sampled_from([host.name for host in wiring.hosts])
    targets = st.lists(host, min_size=1, max_size=3, unique=True).map(tuple)
    macs = st.lists(st.sampled_from(MACS), unique=True, max_size=3)
    return macs.flatmap(
        lambda chosen: st.tuples(*(st.builds(Segment, st.just(m), host, targets) for m in chosen))
    ).map(list)


def _entrances(wiring: Wiring) -> set[tuple[str, int | None]]:
    return {(host.switch, host.port) for host in wiring.hosts}


def _changes(tables: dict[str, Table], rules: Rules) -> dict[str, list[Message]]:
    """Bring every switch's table to `rules`; the messages by switch."""
    sent = {}
    for name, table in tables.items():
        mine = {match: outputs for match, outputs in rules.items() if match.switch == name}
        tables[name], sent[name] = change(table, mine)
    return sent


def _installed(wiring: Wiring, rules: Sequence[Rule]) -> Plant:
    plant = Plant(wiring)
    plant.apply(_changes({s.name: EMPTY for s in wiring.switches}, by_match(rules)))
    return plant


@given(st.data())
def test_every_target_gets_one_copy_and_nobody_else(data: st.DataObject) -> None:
    wiring = data.draw(wirings())
    network = make_network(wiring)
    segments = data.draw(_segments(wiring))
    plant = _installed(wiring, [*host_rules(network), *chain_rules(network, segments)])
    for segment in segments:
        assert plant.deliver(segment.source, segment.mac) == dict.fromkeys(segment.targets, 1)


@given(wirings())
def test_host_rules_lead_every_host_to_every_other(wiring: Wiring) -> None:
    plant = _installed(wiring, host_rules(make_network(wiring)))
    for source in wiring.hosts:
        for target in wiring.hosts:
            if source != target:
                assert plant.deliver(source.name, target.mac) == {target.name: 1}


@given(st.data())
@settings(max_examples=300)
def test_an_update_serves_old_or_new_targets_after_every_single_message(
    data: st.DataObject,
) -> None:
    wiring = data.draw(wirings())
    network = make_network(wiring)
    before, after = data.draw(_segments(wiring)), data.draw(_segments(wiring))
    old, new = by_match(chain_rules(network, before)), by_match(chain_rules(network, after))
    tables = {switch.name: EMPTY for switch in wiring.switches}
    plant = Plant(wiring)
    plant.apply(_changes(tables, old))
    was, will = {s.mac: s for s in before}, {s.mac: s for s in after}

    def check(first_rounds: bool) -> None:
        for mac in was.keys() | will.keys():
            served = (was if first_rounds else will).get(mac)
            for source in {s.source for s in (was.get(mac), will.get(mac)) if s is not None}:
                got = plant.deliver(source, mac)  # raises on a loop
                if served is not None and served.source == source:
                    assert set(got) >= set(served.targets)
            if mac in was and mac in will and was[mac].source == will[mac].source:
                got = plant.deliver(was[mac].source, mac)
                assert set(got) <= {*was[mac].targets, *will[mac].targets}
                assert set(got.values()) <= {1}

    for number, rules in enumerate(make_rounds(old, new, _entrances(wiring))):
        queues = {name: list(each) for name, each in _changes(tables, rules).items() if each}
        while queues:  # switches act in any order, each in the order of its messages
            name = data.draw(st.sampled_from(sorted(queues)))
            plant.apply({name: [queues[name].pop(0)]})
            if not queues[name]:
                del queues[name]
            check(first_rounds=number < 2)
    for segment in after:
        assert plant.deliver(segment.source, segment.mac) == dict.fromkeys(segment.targets, 1)
    gone = was.keys() - will.keys()
    assert all(not plant.deliver(was[mac].source, mac) for mac in gone)
    for name, table in tables.items():
        assert set(plant.tables[name].flows) == set(table.rules)
        assert plant.tables[name].groups == {i: outputs for outputs, i in table.groups.items()}


@given(st.data())
@settings(max_examples=300)
def test_switches_a_round_behind_never_drop_a_frame(data: st.DataObject) -> None:
    """A switch may forward by cached actions of the round before, each switch as it likes."""
    wiring = data.draw(wirings())
    network = make_network(wiring)
    source = data.draw(st.sampled_from([host.name for host in wiring.hosts]))
    before, after = (
        [replace(segment, source=source) for segment in data.draw(_segments(wiring))]
        for _ in range(2)
    )
    old, new = by_match(chain_rules(network, before)), by_match(chain_rules(network, after))
    states: list[Rules] = [old, *make_rounds(old, new, _entrances(wiring))]
    macs = {s.mac for s in before} & {s.mac for s in after}
    for earlier, later in pairwise(states):
        late = set(data.draw(st.lists(st.sampled_from([s.name for s in wiring.switches]))))
        mixed = [Rule(m, o) for m, o in earlier.items() if m.switch in late]
        mixed += [Rule(m, o) for m, o in later.items() if m.switch not in late]
        plant = _installed(wiring, mixed)
        for mac in macs:
            assert plant.deliver(source, mac)
        assert not plant.missed


@given(st.data())
def test_group_numbers_are_unique_and_repeatable(data: st.DataObject) -> None:
    wiring = data.draw(wirings())
    network = make_network(wiring)
    history = [by_match(chain_rules(network, data.draw(_segments(wiring)))) for _ in range(4)]

    def play() -> list[dict[str, Table]]:
        tables = {switch.name: EMPTY for switch in wiring.switches}
        states = []
        for rules in history:
            _changes(tables, rules)
            states.append(dict(tables))
        return states

    states = play()
    assert states == play()
    for tables in states:
        for table in tables.values():
            assert len(set(table.groups.values())) == len(table.groups)
            assert set(table.groups) == {o for o in table.rules.values() if len(o) > 1}


@given(st.data())
def test_a_whole_table_fills_an_empty_switch(data: st.DataObject) -> None:
    wiring = data.draw(wirings())
    rules = by_match(chain_rules(make_network(wiring), data.draw(_segments(wiring))))
    tables = {switch.name: EMPTY for switch in wiring.switches}
    step, fresh = Plant(wiring), Plant(wiring)
    step.apply(_changes(tables, rules))
    fresh.apply({name: whole(table) for name, table in tables.items()})
    for name in tables:
        assert fresh.tables[name].flows == step.tables[name].flows
        assert fresh.tables[name].groups == step.tables[name].groups


def test_a_frame_for_its_own_host_goes_back_by_in_port() -> None:
    network = make_network(make_wiring(2, [(0, 1, 1)]))
    (alone,) = chain_rules(network, [Segment(MACS[0], "server-0", ("server-0",))])
    assert alone == Rule(Match("s0", 100, 1, MACS[0]), (0xFFFFFFF8,))
    both = chain_rules(network, [Segment(MACS[0], "server-0", ("server-0", "server-1"))])
    assert both[0].outputs == (3, 0xFFFFFFF8)


def test_nothing_to_change_sends_nothing() -> None:
    network = make_network(make_wiring(3, [(0, 1, 1), (1, 2, 1)]))
    rules = by_match(chain_rules(network, [Segment(MACS[0], "user-0", ("server-1", "server-2"))]))
    mine = {match: outputs for match, outputs in rules.items() if match.switch == "s1"}
    table, _ = change(EMPTY, mine)
    assert change(table, mine) == (table, [])


def test_a_group_goes_only_after_a_barrier_behind_its_last_flow() -> None:
    match = Match("s0", 100, 1, MACS[0])
    table, _ = change(EMPTY, {match: (2, 3)})
    _, messages = change(table, {match: (2,)})
    assert messages == [SetFlow(match, 2, None), Barrier(), DeleteGroup(1), Barrier()]


@pytest.mark.parametrize(
    ("segment", "words"),
    [
        (Segment("02:00:00:00:00:1", "user-0", ("user-1",)), "segments.0.mac"),
        (Segment("03:00:00:00:00:01", "user-0", ("user-1",)), "unicast"),
        (Segment("0a:00:00:00:01:01", "user-0", ("user-1",)), "host server-1"),
        (Segment(MACS[0], "user-9", ("user-1",)), "segments.0.source = 'user-9'"),
        (Segment(MACS[0], "user-0", ("user-1", "x")), "segments.0.targets = 'x'"),
        (Segment(MACS[0], "user-0", ()), "segments.0.targets"),
    ],
)
def test_a_bad_segment_is_named(segment: Segment, words: str) -> None:
    network = make_network(make_wiring(2, [(0, 1, 1)]))
    with pytest.raises(SegmentError, match=words):
        chain_rules(network, [segment])


def test_a_mac_used_twice_in_a_chain_is_refused() -> None:
    network = make_network(make_wiring(2, [(0, 1, 1)]))
    segment = Segment(MACS[0], "user-0", ("user-1",))
    with pytest.raises(SegmentError, match=r"segments\.1\.mac.*segments\.0"):
        chain_rules(network, [segment, segment])


def test_a_switch_out_of_reach_is_refused() -> None:
    with pytest.raises(WiringError, match="s2"):
        make_network(make_wiring(3, [(0, 1, 1)]))
