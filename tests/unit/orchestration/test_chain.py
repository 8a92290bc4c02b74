"""The segments of a chain lead every frame from each possible sender to each living member."""

from __future__ import annotations

import dataclasses
import ipaddress

import pytest

from testbed.orchestration.deploying.chain import (
    destination_port,
    group_keys,
    instance,
    instances,
    of_shard,
    paths_of,
    placements_left,
    segments,
    shard_of_bucket,
    share_port,
    source_port_base,
    user_address,
)
from testbed.scenario.limits import MAX_NODES, MAX_UNITS
from testbed.scenario.names import GroupKey
from testbed.scenario.steering import forward_path, path_mac, reverse_path, with_shard
from testbed.scenario.types import MAX_MEMBERS, Placement, Request
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
    shards=1,
    first_unit=3,
)
PLACEMENTS = (Placement(1, 2), Placement(3, 1))


FIRST, SECOND = GroupKey(0), GroupKey(1)


def members() -> dict[GroupKey, dict[int, int]]:
    return {FIRST: {0: 1, 1: 2}, SECOND: {0: 3, 1: 1}}


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
    assert paths_of(REQUEST, FIRST)["reverse"] == {"path": path, "hop": 1}


def test_a_dead_member_neither_sends_nor_receives() -> None:
    alive = members()
    del alive[FIRST][0]
    found = segments(REQUEST, alive)
    assert path_mac(forward_path(3), 1, 0) not in {segment.mac for segment in found}
    first = next(s for s in found if s.mac == path_mac(forward_path(3), 0, 0))
    assert first.targets == ("server-2",)


def test_a_function_without_a_member_cuts_the_chain() -> None:
    alive = members()
    alive[SECOND] = {}
    assert all(segment.targets for segment in segments(REQUEST, alive))
    assert {s.mac for s in segments(REQUEST, alive)} == {
        path_mac(forward_path(3), 0, 0),
        path_mac(reverse_path(3), 2, 0),
        path_mac(reverse_path(3), 2, 1),
    }


def test_no_two_members_that_a_group_can_have_share_a_port() -> None:
    specs = instances(REQUEST, PLACEMENTS)
    assert [spec.name for spec in specs] == ["r3-h0-m0", "r3-h0-m1", "r3-h1-m0", "r3-h1-m1"]
    every = [
        instance(REQUEST, GroupKey(hop), member, 0).port for hop in range(2) for member in range(8)
    ]
    assert len(set(every)) == 16
    assert {spec.port for spec in specs} < set(every)
    addresses = {spec.function_config.get("public_address") for spec in specs[:2]}
    assert addresses == {"100.64.3.1"}


def test_what_is_left_of_a_chain_is_led_by_the_survivors() -> None:
    alive = members()
    del alive[FIRST][0], alive[SECOND][1]
    primaries = {0: 1, 1: 0}
    assert placements_left(of_shard(alive, 0), primaries) == [
        Placement(2, None),
        Placement(3, None),
    ]
    alive[SECOND] = {}
    assert placements_left(of_shard(alive, 0), primaries) is None


def test_the_primary_counts_whatever_its_number() -> None:
    alive = members()
    alive[FIRST][5] = 4
    left = placements_left(of_shard(alive, 0), {0: 5, 1: 1})
    assert left is not None
    assert left[0] == Placement(4, alive[FIRST][0], (alive[FIRST][1],))
    assert left[1].primary == alive[SECOND][1]


def test_all_backups_are_members_and_stay_placed() -> None:
    specs = instances(REQUEST, (Placement(1, 2, (4, 0)), Placement(3, None)))
    assert [(spec.member, spec.node) for spec in specs[:4]] == [(0, 1), (1, 2), (2, 4), (3, 0)]
    alive = {FIRST: {0: 1, 1: 2, 2: 4, 3: 0}, SECOND: {0: 3}}
    found = {segment.mac: segment for segment in segments(REQUEST, alive)}
    assert found[path_mac(forward_path(3), 1, 3)].source == "server-0"
    assert found[path_mac(forward_path(3), 0, 0)].targets == tuple(
        f"server-{node}" for node in (1, 2, 4, 0)
    )
    left = placements_left(of_shard(alive, 0), {0: 2, 1: 0})
    assert left == [Placement(4, 1, (2, 0)), Placement(3, None)]
    del alive[FIRST][2], alive[FIRST][0]
    left = placements_left(of_shard(alive, 0), {0: 1, 1: 0})
    assert left == [Placement(2, 0), Placement(3, None)]


def test_functions_that_need_a_configuration_get_one() -> None:
    request = dataclasses.replace(REQUEST, functions=("lb", "nat"))
    balancer, *_, nat = instances(request, PLACEMENTS)
    assert nat.function_config["public_address"] == "100.64.3.2"
    destination = user_address(request.destination)
    assert balancer.function_config["virtual_address"] == destination
    for spec in (balancer, nat):
        assert make_function(spec.function, spec.function_config).name == spec.function


SHARDED = dataclasses.replace(REQUEST, shards=3)


def test_each_shard_has_groups_ports_and_addresses_of_its_own() -> None:
    specs = instances(SHARDED, PLACEMENTS)
    assert [spec.name for spec in specs[:4]] == [
        "r3-h0-s0-m0", "r3-h0-s0-m1", "r3-h0-s1-m0", "r3-h0-s1-m1",
    ]  # fmt: skip
    after = dataclasses.replace(SHARDED, id=4, first_unit=SHARDED.first_unit + 3)
    every = [
        instance(request, key, member, 0).port
        for request in (SHARDED, after)
        for key in group_keys(request)
        for member in range(8)
    ]
    assert len(set(every)) == 2 * 3 * 2 * 8


def test_the_shards_of_a_nat_share_one_address_and_its_ports() -> None:
    nats = [spec for spec in instances(SHARDED, PLACEMENTS) if spec.function == "nat"]
    assert len({spec.function_config["public_address"] for spec in nats}) == 1
    assert {spec.function_config["instance"] for spec in nats} == {0, 1, 2}
    assert all(spec.function_config["claims_blocks"] for spec in nats)
    assert {spec.scope for spec in nats} == {"nat-r3-h0"}
    alone = dataclasses.replace(SHARDED, shards=1)
    assert instance(alone, GroupKey(0), 0, 0).scope is None
    twice = dataclasses.replace(SHARDED, functions=("nat",) * 8)
    addresses = [
        instance(twice, GroupKey(hop), 0, 0).function_config["public_address"] for hop in range(8)
    ]
    assert len(set(addresses)) == 8


def test_no_two_nats_of_a_run_have_the_same_public_address() -> None:
    whole = dataclasses.replace(REQUEST, functions=("nat",) * 8)
    requests = [dataclasses.replace(whole, id=n, first_unit=n) for n in range(MAX_UNITS)]
    addresses = [
        ipaddress.ip_address(instance(each, key, 0, 0).function_config["public_address"])
        for each in requests
        for key in group_keys(each)
    ]
    assert len(set(addresses)) == len(addresses) == 8 * MAX_UNITS
    assert all(each in ipaddress.ip_network("100.64.0.0/10") for each in addresses)
    beyond = dataclasses.replace(whole, id=MAX_UNITS)
    with pytest.raises(ValueError, match="512"):
        instance(beyond, GroupKey(0), 0, 0)


def test_whatever_a_run_is_allowed_has_ports_and_addresses_of_its_own() -> None:
    whole = dataclasses.replace(REQUEST, functions=("fw",) * 8)
    requests = [dataclasses.replace(whole, id=n, first_unit=n) for n in range(MAX_UNITS)]
    on_servers = [
        port
        for each in requests
        for key in group_keys(each)
        for port in (
            share_port(each, key),
            *(instance(each, key, member, 0).port for member in range(MAX_MEMBERS)),
        )
    ]
    assert len(set(on_servers)) == len(on_servers)
    sources = [source_port_base(each.id) + flow for each in requests for flow in range(64)]
    on_users = [*sources, *(destination_port(each.id) for each in requests)]
    assert len(set(on_users)) == len(on_users)
    assert max(*on_servers, *on_users) < 1 << 16
    users = {ipaddress.ip_address(user_address(node)) for node in range(MAX_NODES)}
    assert len(users) == MAX_NODES


def test_all_detectors_of_port_scans_share_what_they_know() -> None:
    scan = dataclasses.replace(SHARDED, functions=("idps", "fw"))
    assert instance(scan, GroupKey(0, 1), 0, 0).scope == "idps"
    assert instance(scan, GroupKey(1, 1), 0, 0).scope is None


def test_the_ports_of_the_last_shard_of_a_run_are_ports() -> None:
    last = dataclasses.replace(REQUEST, functions=("fw",) * 8, shards=8, first_unit=504)
    assert instance(last, GroupKey(7, 7), 7, 0).port == 42767
    with pytest.raises(ValueError, match="512"):
        instance(dataclasses.replace(last, first_unit=505), GroupKey(7, 7), 7, 0)


def test_each_shard_is_led_through_its_own_groups() -> None:
    where = {key: {0: 10 * key.hop + key.shard} for key in group_keys(SHARDED)}
    found = {segment.mac: segment for segment in segments(SHARDED, where)}
    for shard in range(3):
        forward = with_shard(forward_path(3), shard)
        reverse = with_shard(reverse_path(3), shard)
        assert found[path_mac(forward, 0, 0)].targets == (f"server-{shard}",)
        assert found[path_mac(forward, 1, 0)].targets == (f"server-{10 + shard}",)
        assert found[path_mac(reverse, 0, 0)].targets == (f"server-{10 + shard}",)
        assert found[path_mac(reverse, 2, 0)].targets == ("user-0",)
        assert paths_of(SHARDED, GroupKey(1, shard)) == {
            "forward": {"path": forward, "hop": 1},
            "reverse": {"path": reverse, "hop": 0},
        }
    assert len(found) == 3 * 2 * 3


def test_every_bucket_has_a_shard_and_all_shards_about_as_many() -> None:
    for shards in range(1, 9):
        of = [shard_of_bucket(bucket, shards) for bucket in range(64)]
        sizes = [of.count(shard) for shard in range(shards)]
        assert sum(sizes) == 64 and max(sizes) - min(sizes) <= 1
