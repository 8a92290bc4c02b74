"""Decides which shards of a function move when it is spread over other servers. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence


def servers_of(where: Mapping[int, int]) -> list[int]:
    """The servers that hold shards, those with most first; `where[shard]` is a node."""
    held = Counter(where.values())
    return sorted(held, key=lambda node: (-held[node], node))


def spread(where: Mapping[int, int], servers: Sequence[int]) -> list[tuple[int, int]]:
    """(shard, node) of the fewest moves after which `servers` hold all shards, evenly.

    Each server ends with the same number, or one more than another. `servers` are distinct, and
    at least one and at most as many as there are shards.
    """
    held = {node: [shard for shard in sorted(where) if where[shard] == node] for node in servers}
    least, more = divmod(len(where), len(servers))
    # Who has most already keeps the odd ones.
    order = sorted(servers, key=lambda node: -len(held[node]))
    due = {node: least + (place < more) for place, node in enumerate(order)}
    staying = {shard for node in servers for shard in held[node][: due[node]]}
    free = [node for node in servers for _ in range(due[node] - len(held[node]))]
    leaving = [shard for shard in sorted(where) if shard not in staying]
    return list(zip(leaving, free, strict=True))
