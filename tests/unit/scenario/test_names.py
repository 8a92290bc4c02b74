"""Names are read as they are written, and what is no name of the kind is told."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from testbed.scenario.limits import MAX_UNITS
from testbed.scenario.names import (
    GroupKey,
    MemberKey,
    edge_name,
    fdu_name,
    group_names,
    member_name,
    parse_group,
    parse_member,
    parse_server,
    sender_name,
    server_name,
    user_name,
)
from testbed.scenario.types import MAX_MEMBERS

NUMBER = st.integers(0, MAX_UNITS)


@given(
    NUMBER,
    st.integers(0, 7),
    st.integers(1, 16),
    st.integers(0, 15),
    st.integers(0, MAX_MEMBERS - 1),
)
def test_groups_and_members_are_read_as_they_are_written(
    request: int, hop: int, shards: int, shard: int, number: int
) -> None:
    shard %= shards
    key, group = GroupKey(hop, shard), group_names(request, hop, shards)[shard]
    assert parse_group(group) == (request, key)
    assert parse_member(member_name(group, number)) == MemberKey(request, key, number)
    assert parse_member(group) is None and parse_group(member_name(group, number)) is None


@given(NUMBER)
def test_servers_are_read_as_they_are_written(node: int) -> None:
    assert parse_server(server_name(node)) == node
    for name in (user_name(node), edge_name(node), sender_name(node), fdu_name(node)):
        assert (parse_server(name), parse_group(name), parse_member(name)) == (None, None, None)


@pytest.mark.parametrize(
    "name",
    ["", "r3", "r3-h", "r-h1", "r3-h1-s", "r03-h1", "r3-h1\n", "r3-h1-m0-m0", "server-3", "r٣-h1"],
)
def test_what_is_no_name_is_none(name: str) -> None:
    assert parse_group(name) is None and parse_member(f"{name}-m0") is None


def test_what_they_look_like() -> None:
    assert group_names(3, 1, 1) == ["r3-h1"]
    assert group_names(3, 1, 2) == ["r3-h1-s0", "r3-h1-s1"]
    assert member_name("r3-h1-s1", 14) == "r3-h1-s1-m14"


@pytest.mark.parametrize("name", ["", "server-", "server-x", "server--1", "server-1-m0", "user-1"])
def test_what_is_no_server_is_none(name: str) -> None:
    assert parse_server(name) is None
