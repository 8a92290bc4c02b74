"""The segments of a chain lead every frame from each possible sender to each living member."""

from __future__ import annotations

import dataclasses

from testbed.orchestration.chain import (
    instance,
    instances,
    paths_of,
    placements_left,
    segments,
    user_address,
)
from testbed.scenario.steering import forward_path, path_mac, reverse_path
from testbed.scenario.types import Placement, Request
from testbed.vnf.functions.registry import make_function

REQUEST = Request(
    id=3,
    chain="industry",
    functions=("nat", "fw"),
    source=0,
    destination=4,
    arrival_ns=0,
    start_ns=1,
    end_ns=2,
    rate_pps=10.0,
    l3_bytes=100,
    delay_bound_ns=1,
    flows=1,
)
PLACEMENTS = (Placement(1, 2), Placement(3, 1))


def members() -> dict[int, dict[int, int]]:
    return {0: {0: 1, 1: 2}, 1: {0: 3, 1: 1}}


def test_every_member_can_reach_every_member_of_the_next_function() -> None:
    found = {segment.mac: segment for segment in segments(REQUEST, members())}
    path = forward_path(3)
    first = found[path_mac(path, 0, 0)]
    assert (first.source, first.targets) == ("user-0", ("server-1", "server-2"))
    for member, source in ((0, "server-1"), (1, "server-2")):
        middle = found[path_mac(path, 1, member)]
        assert (middle.source, middle.targets) == (source, ("server-3", "server-1"))
    for member, source in ((0, "server-3"), (1, "server-1")):
        last = found[path_mac(path, 2, member)]
        assert (last.source, last.targets) == (source, ("user-4",))
    assert len(found) == 2 * (1 + 2 + 2)


def test_the_reverse_path_passes_the_same_functions_backwards() -> None:
    found = {segment.mac: segment for segment in segments(REQUEST, members())}
    path = reverse_path(3)
    assert found[path_mac(path, 0, 0)].source == "user-4"
    assert found[path_mac(path, 0, 0)].targets == ("server-3", "server-1")
    assert found[path_mac(path, 2, 0)].targets == ("user-0",)
    assert paths_of(REQUEST, 0)["reverse"] == {"path": path, "hop": 1}


def test_a_dead_member_neither_sends_nor_receives() -> None:
    alive = members()
    del alive[0][0]
    found = segments(REQUEST, alive)
    assert path_mac(forward_path(3), 1, 0) not in {segment.mac for segment in found}
    first = next(s for s in found if s.mac == path_mac(forward_path(3), 0, 0))
    assert first.targets == ("server-2",)


def test_a_function_without_a_member_cuts_the_chain() -> None:
    alive = members()
    alive[1] = {}
    assert all(segment.targets for segment in segments(REQUEST, alive))
    assert {s.mac for s in segments(REQUEST, alive)} == {
        path_mac(forward_path(3), 0, 0),
        path_mac(reverse_path(3), 2, 0),
        path_mac(reverse_path(3), 2, 1),
    }


def test_no_two_members_that_a_group_can_have_share_a_port() -> None:
    specs = instances(REQUEST, PLACEMENTS)
    assert [spec.name for spec in specs] == ["r3-h0-m0", "r3-h0-m1", "r3-h1-m0", "r3-h1-m1"]
    every = [instance(REQUEST, hop, member, 0).port for hop in range(2) for member in range(8)]
    assert len(set(every)) == 16
    assert {spec.port for spec in specs} < set(every)
    addresses = {spec.function_config.get("public_address") for spec in specs[:2]}
    assert addresses == {"100.64.3.1"}


def test_what_is_left_of_a_chain_is_led_by_the_survivors() -> None:
    alive = members()
    del alive[0][0], alive[1][1]
    primaries = {0: 1, 1: 0}
    assert placements_left(alive, primaries) == [Placement(2, None), Placement(3, None)]
    alive[1] = {}
    assert placements_left(alive, primaries) is None


def test_the_primary_counts_whatever_its_number() -> None:
    alive = members()
    alive[0][5] = 4
    left = placements_left(alive, {0: 5, 1: 1})
    assert left is not None
    assert left[0] == Placement(4, alive[0][0])
    assert left[1].primary == alive[1][1]


def test_functions_that_need_a_configuration_get_one() -> None:
    request = dataclasses.replace(REQUEST, functions=("lb", "nat"))
    balancer, *_, nat = instances(request, PLACEMENTS)
    assert nat.function_config["public_address"] == "100.64.3.2"
    destination = user_address(request.destination)
    assert balancer.function_config["virtual_address"] == destination
    for spec in (balancer, nat):
        assert make_function(spec.function, spec.function_config).name == spec.function
