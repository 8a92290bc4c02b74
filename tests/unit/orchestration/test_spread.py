"""Shards are spread evenly, by the fewest moves."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from testbed.orchestration.deploying.spread import servers_of, spread

WHERE = st.lists(st.integers(0, 5), min_size=1, max_size=8).map(lambda at: dict(enumerate(at)))


def after(where: dict[int, int], servers: list[int]) -> dict[int, int]:
    return {**where, **dict(spread(where, servers))}


def test_half_of_the_shards_go_to_the_new_server() -> None:
    where = {0: 7, 1: 7, 2: 7, 3: 7}
    assert spread(where, [7, 2]) == [(2, 2), (3, 2)]


def test_the_emptiest_server_is_left() -> None:
    where = {0: 7, 1: 2, 2: 7, 3: 5, 4: 5}
    assert servers_of(where) == [5, 7, 2]
    assert spread(where, servers_of(where)[:2]) == [(1, 5)]


def test_what_is_even_already_stays() -> None:
    assert spread({0: 1, 1: 1, 2: 2}, [1, 2]) == []
    assert spread({0: 1, 1: 2, 2: 2}, [1, 2]) == []


def test_a_server_without_any_of_them_may_take_all() -> None:
    assert spread({0: 1, 1: 2}, [3]) == [(0, 3), (1, 3)]


@given(WHERE, st.data())
def test_even_and_by_the_fewest_moves(where: dict[int, int], data: st.DataObject) -> None:
    nodes = st.lists(st.integers(0, 9), unique=True, min_size=1, max_size=len(where))
    servers = data.draw(nodes)
    moves = spread(where, servers)
    held = Counter(after(where, servers).values())
    sizes = [held[node] for node in servers]
    assert sum(sizes) == len(where) and max(sizes) - min(sizes) <= 1
    assert len({shard for shard, _ in moves}) == len(moves)
    assert all(where[shard] != node for shard, node in moves)
    # A server must take what it lacks of the smaller share: no plan has fewer moves than that,
    # with the larger shares where they save most.
    before = Counter(where.values())
    least, more = divmod(len(where), len(servers))
    kept = sorted((min(before[node], least) for node in servers), reverse=True)
    extra = sum(1 for node in servers if before[node] > least)
    assert len(moves) == len(where) - sum(kept) - min(extra, more)


@pytest.mark.parametrize("shards", range(1, 9))
def test_out_and_in_again_ends_at_one_server(shards: int) -> None:
    where = dict.fromkeys(range(shards), 0)
    out = after(where, list(range(shards)))
    assert len(servers_of(out)) == shards
    assert len(servers_of(after(out, servers_of(out)[:1]))) == 1
