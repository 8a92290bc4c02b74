"""The classifier and stamper of a chain's ingress, and the duplicate filter of its egress. Pure.

Flows are named as `testbed.vnf.edge.flow_keys` says. Times are nanoseconds on one clock, handed in.

Fragments. The first fragment of a datagram has the ports and is classified by them. What fragments
of one datagram share is remembered from it for `REASSEMBLY_NS`, for `MAX_DATAGRAMS` at most, and
the later ones follow it: each fragment gets a stamp of the flow, in the order in which they come.
A later fragment of which no first one is remembered (it came before it, or too long after) is
refused and counted as `fragments`: nothing waits here, and the host at the other end would not
put the datagram together without it in any case.

ICMP errors travel opposite to the packet that they quote, so they are stamped as packets of the
flow that goes that way, if this edge knows it: it sent packets of it, or it delivered packets of
the one against it. Functions in between meet the error in the direction in which they can
translate it, at its place in the order of the flow. No rule makes a flow for an error.

Restarts. A restarted stamper must have a higher epoch. It begins with empty tables, so a flow goes
on under a number that may have been another flow's. That mixes nothing: a number with a newer
epoch begins anew wherever stamps are looked at, functions know flows by addresses and ports and
never by number, and once the egress has seen a newer epoch on a path it refuses what is left of
the older ones, whatever the flow (`DuplicateFilter`): a packet from before the restart cannot come
after one of the same flow from after it under another number.
"""

from __future__ import annotations

import zlib
from collections import Counter, OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

from testbed.scenario.steering import BASE_PATH_MASK, with_shard
from testbed.vnf.dataplane.stamp import Stamp
from testbed.vnf.edge.flow_keys import (
    Refusal,
    destination_of,
    error_key,
    flow_key,
    is_icmp_error,
    reversed_key,
    take_apart,
    transport_key,
)

BUCKETS = 64
MAX_FLOWS = 1 << 16
MAX_DATAGRAMS = 4096
EPOCHS = 1 << 16
REASSEMBLY_NS = 30_000_000_000
"""How long later fragments may follow; hosts wait 60 s at most (RFC 1122 3.3.2, RFC 8200 4.5)."""
WINDOW_PACKETS = 1024
"""How far behind the newest a packet may arrive and still be told from a duplicate."""

T = TypeVar("T")


class LeastRecentlyUsed(OrderedDict[bytes, T], Generic[T]):
    """A mapping of at most `capacity` entries: a new one pushes out the one unused for longest."""

    def __init__(self, capacity: int) -> None:
        super().__init__()
        self._capacity = capacity

    def use(self, key: bytes) -> T | None:
        """The value of `key`, which becomes the most recently used; None if there is none."""
        value = self.get(key)
        if value is not None:
            self.move_to_end(key)
        return value

    def put(self, key: bytes, value: T) -> None:
        """Set the value of `key`, which becomes the most recently used."""
        self[key] = value
        self.move_to_end(key)
        if len(self) > self._capacity:
            self.popitem(last=False)


def bucket_of(key: bytes) -> int:
    """The bucket of a flow, below `BUCKETS`; the same in every process."""
    return zlib.crc32(key) % BUCKETS


@dataclass(frozen=True, slots=True)
class Match:
    """Which packets take a path; None stands for any. `destination` is 4 or 16 bytes."""

    protocol: int | None
    destination: bytes
    destination_port: int | None

    def covers(self, key: bytes) -> bool:
        """True if packets of the flow `key` match."""
        return (
            destination_of(key) == self.destination
            and self.protocol in (None, key[0])
            and self.destination_port in (None, int.from_bytes(key[-2:], "big"))
        )


class FirstFragments:
    """The flows of datagrams whose first fragment has come."""

    def __init__(self) -> None:
        self._known: LeastRecentlyUsed[tuple[bytes, int]] = LeastRecentlyUsed(MAX_DATAGRAMS)

    def remember(self, name: bytes, key: bytes, now_ns: int) -> None:
        """The datagram `name` belongs to the flow `key`."""
        self._known.put(name, (key, now_ns + REASSEMBLY_NS))

    def key_of(self, name: bytes, now_ns: int) -> bytes | None:
        """The flow of the datagram `name`, if its first fragment came in time."""
        known = self._known.use(name)
        if known is None:
            return None
        key, deadline_ns = known
        if now_ns < deadline_ns:
            return key
        del self._known[name]
        return None


@dataclass(slots=True)
class Flow:
    """A flow on a base path; `next_seq` is what its next packet gets.

    `route` has the service path of each bucket, and is shared by the flows of the base path.
    """

    path: int
    number: int
    bucket: int
    route: list[int]
    next_seq: int = 0


class Stamper:
    """Puts packets on paths and numbers them; paths are named by their base path.

    A packet follows its flow, else what the egress learnt (`learn`), else the first rule that
    covers it. A flow that was pushed out of the bounded table comes back under a new number.
    A packet's stamp has the shard of its flow's bucket in its path. Numbers go on from shard to
    shard. `refused` counts the packets that got no stamp, by reason.
    """

    def __init__(self, epoch: int, max_flows: int = MAX_FLOWS) -> None:
        """Raises ValueError for an epoch that does not fit a stamp."""
        if not 0 <= epoch < EPOCHS:
            raise ValueError(f"epoch = {epoch}: expected 0 to {EPOCHS - 1}")
        self.refused: Counter[Refusal] = Counter()
        self._epoch = epoch
        self._rules: list[tuple[int, Match]] = []
        self._routes: dict[int, list[int]] = {}
        self._flows: LeastRecentlyUsed[Flow] = LeastRecentlyUsed(max_flows)
        self._learnt: LeastRecentlyUsed[tuple[int, int]] = LeastRecentlyUsed(max_flows)
        self._next_number: dict[int, int] = {}
        self._first_fragments = FirstFragments()

    def add_rule(self, path: int, match: Match) -> None:
        """Packets of `match` that belong to no flow yet take `path`; it may have several rules."""
        if (path, match) not in self._rules:
            self._rules.append((path, match))

    def set_shards(self, path: int, shards: Mapping[int, int]) -> None:
        """From now on the buckets in `shards` (bucket -> shard) of `path` take these shards.

        All buckets of a path take shard 0 at first. Raises ValueError, and then changes nothing.
        """
        route = self._route(path)
        changed = list(route)
        for bucket, shard in shards.items():
            if not 0 <= bucket < BUCKETS:
                raise ValueError(f"bucket {bucket}: expected 0 to {BUCKETS - 1}")
            changed[bucket] = with_shard(path, shard)
        route[:] = changed  # in place: the flows share it

    def learn(self, delivered: bytes, path: int, bucket: int) -> None:
        """Answers to `delivered` take `path`, in the bucket that its own stamp had.

        So both directions of a connection meet the same shard, where its state is, although a
        function may have rewritten the addresses. If answers under these addresses went into
        another bucket so far, they were those of a former connection, and begin a new flow.
        """
        key = flow_key(delivered)
        if key is None:
            key = _first_fragment_key(delivered)
        if key is None:
            return
        key, bucket = reversed_key(key), bucket % BUCKETS
        self._learnt.put(key, (path, bucket))
        flow = self._flows.get(key)
        if flow is not None and flow.path == path and flow.bucket != bucket:
            del self._flows[key]

    def remove_path(self, path: int) -> None:
        """Forget the rules, flows, shards and what was learnt of `path`, not its last number."""
        self._rules = [rule for rule in self._rules if rule[0] != path]
        self._routes.pop(path, None)
        for key in [key for key, flow in self._flows.items() if flow.path == path]:
            del self._flows[key]
        for key in [key for key, learnt in self._learnt.items() if learnt[0] == path]:
            del self._learnt[key]

    def stamp(self, packet: bytes, now_ns: int) -> Stamp | None:
        """The stamp of a packet that enters a chain here, or None if none is for it.

        `now_ns` limits how long fragments are remembered, and need not be exact.
        """
        key = flow_key(packet)
        if key is None:
            found = self._uncommon_key(packet, now_ns)
            if not isinstance(found, bytes):
                self.refused[found] += 1
                return None
            key = found
        flow = self._flows.use(key)
        if flow is None:
            flow = self._new_flow(key)
            if flow is None:
                self.refused["unclassified"] += 1
                return None
        seq = flow.next_seq
        flow.next_seq = seq + 1
        bucket = flow.bucket
        return Stamp(flow.route[bucket], flow.number, bucket, self._epoch, seq)

    def _uncommon_key(self, packet: bytes, now_ns: int) -> bytes | Refusal:
        """The flow of a fragment or an ICMP error, or why there is none."""
        datagram = take_apart(packet)
        if datagram is None:
            return "malformed"
        if datagram.offset:
            return self._first_fragments.key_of(datagram.name, now_ns) or "fragments"
        if is_icmp_error(packet, datagram):
            key = error_key(packet, datagram)
            if isinstance(key, bytes) and key not in self._flows and key not in self._learnt:
                return "unclassified"
        else:
            key = transport_key(packet, datagram)
        if datagram.more and isinstance(key, bytes):
            self._first_fragments.remember(datagram.name, key, now_ns)
        return key

    def _new_flow(self, key: bytes) -> Flow | None:
        path, bucket = self._learnt.use(key) or (None, bucket_of(key))
        if path is None:
            path = next((path for path, rule in self._rules if rule.covers(key)), None)
        if path is None:
            return None
        number = self._next_number.get(path, 0)
        self._next_number[path] = number + 1
        flow = Flow(path, number, bucket, self._route(path))
        self._flows.put(key, flow)
        return flow

    def _route(self, path: int) -> list[int]:
        route = self._routes.get(path)
        if route is None:
            route = self._routes[path] = [path] * BUCKETS
        return route


def _first_fragment_key(packet: bytes) -> bytes | None:
    datagram = take_apart(packet)
    if datagram is None or datagram.offset or not datagram.more:
        return None
    key = transport_key(packet, datagram)
    return key if isinstance(key, bytes) else None


class SeenWindow:
    """Which packets of one flow have come: all below `_next`, and those in `_ahead`.

    `key` is for the caller: under which addresses and ports the flow was last seen to arrive.
    `overtaken`: the last one that came for the first time came after one with a greater number.
    """

    __slots__ = ("_ahead", "_greatest", "_next", "epoch", "key", "overtaken")

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch
        self.key = b""
        self.overtaken = False
        self._next = 0
        self._greatest = -1
        self._ahead: set[int] = set()

    def first_time(self, seq: int) -> bool:
        """True once for each `seq`; False as well for one that comes too late to tell."""
        ahead = self._ahead
        if seq == self._next and not ahead:
            self._next = seq + 1
            # While none is missing, all that came are below the next one.
            self.overtaken = False
            return True
        if seq < self._next or seq in ahead:
            return False
        self.overtaken = seq < self._greatest
        self._greatest = max(self._greatest, seq)
        ahead.add(seq)
        if len(ahead) > WINDOW_PACKETS:
            # What is missing from here was lost on the way: stop waiting for the oldest of it.
            self._next = min(ahead)
        while self._next in ahead:
            ahead.remove(self._next)
            self._next += 1
        return True


class DuplicateFilter:
    """Lets each stamped packet through once; a flow is named by its base path and its number.

    With the first packet of a newer epoch of its stamper all flows of a path start anew, and from
    then on packets of an older one are refused: a flow may have another number in the new epoch,
    so an old packet that is let through could come after newer ones of its own flow. The table of
    flows is bounded: a flow that was pushed out of it is taken for a new one.
    """

    def __init__(self, max_flows: int = MAX_FLOWS) -> None:
        self._windows: OrderedDict[tuple[int, int], SeenWindow] = OrderedDict()
        self._epochs: dict[int, int] = {}
        self._max_flows = max_flows

    def first_time(self, stamp: Stamp) -> SeenWindow | None:
        """The window of the packet's flow if the packet comes for the first time, else None."""
        key = (stamp.path & BASE_PATH_MASK, stamp.flow)
        window = self._windows.get(key)
        if window is None or stamp.epoch != window.epoch:
            if self.is_stale(stamp):
                return None
            window = self._new_window(key, stamp.epoch)
        self._windows.move_to_end(key)
        return window if window.first_time(stamp.seq) else None

    def is_stale(self, stamp: Stamp) -> bool:
        """True for a packet from before a restart of its stamper that has been noticed here."""
        return stamp.epoch < self._epochs.get(stamp.path & BASE_PATH_MASK, 0)

    def remove_path(self, path: int) -> None:
        """Forget the flows of `path`, a base path, and its epoch."""
        self._epochs.pop(path, None)
        for key in [key for key in self._windows if key[0] == path]:
            del self._windows[key]

    def _new_window(self, key: tuple[int, int], epoch: int) -> SeenWindow:
        path = key[0]
        if epoch > self._epochs.get(path, epoch):
            self.remove_path(path)
        self._epochs[path] = epoch
        window = self._windows[key] = SeenWindow(epoch)
        if len(self._windows) > self._max_flows:
            self._windows.popitem(last=False)
        return window
