"""The classifier and stamper of a chain's ingress, and the duplicate filter of its egress. Pure.

A directed flow is named by 13 bytes: protocol, source, destination, source port, destination
port; ICMP queries and replies have their identifier in place of both ports.
"""

from __future__ import annotations

import zlib
from collections import OrderedDict
from dataclasses import dataclass
from typing import Generic, TypeVar

from testbed.vnf.replication.types import Stamp

BUCKETS = 64
MAX_FLOWS = 1 << 16
WINDOW_PACKETS = 1024
"""How far behind the newest a packet may arrive and still be told from a duplicate."""

_ICMP, _TCP, _UDP = 1, 6, 17
_ICMP_WITH_IDENTIFIER = frozenset((0, 8, 13, 14))

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


def flow_key(packet: bytes) -> bytes | None:
    """The directed flow of an IPv4 packet, or None: not IPv4, cut short, or without ports.

    A fragment is without ports, and so is an ICMP error: neither can be put into a chain.
    """
    if len(packet) < 28 or not 0x45 <= packet[0] <= 0x4F:
        return None
    if packet[6] & 0x3F or packet[7]:  # more fragments, or an offset
        return None
    protocol = packet[9]
    at = (packet[0] & 15) * 4
    if protocol in (_UDP, _TCP):
        ports = packet[at : at + 4]
    elif protocol == _ICMP and packet[at] in _ICMP_WITH_IDENTIFIER:
        ports = packet[at + 4 : at + 6] * 2
    else:
        return None
    return packet[9:10] + packet[12:20] + ports if len(ports) == 4 else None


def reversed_key(key: bytes) -> bytes:
    """The flow of the packets the other way."""
    return key[:1] + key[5:9] + key[1:5] + key[11:13] + key[9:11]


def bucket_of(key: bytes) -> int:
    """The bucket of a flow, below `BUCKETS`; the same in every process."""
    return zlib.crc32(key) % BUCKETS


@dataclass(frozen=True, slots=True)
class Match:
    """Which packets take a path; None stands for any. `destination` is 4 bytes."""

    protocol: int | None
    destination: bytes
    destination_port: int | None

    def covers(self, key: bytes) -> bool:
        """True if packets of the flow `key` match."""
        return (
            key[5:9] == self.destination
            and self.protocol in (None, key[0])
            and self.destination_port in (None, int.from_bytes(key[11:13], "big"))
        )


@dataclass(slots=True)
class Flow:
    """A flow on a path; `next_seq` is what its next packet gets."""

    path: int
    number: int
    bucket: int
    next_seq: int = 0


class Stamper:
    """Puts packets on paths and numbers them.

    A packet follows its flow, else what the egress learnt (`learn`), else the first rule that
    covers it. A flow that was pushed out of the bounded table comes back under a new number.
    """

    def __init__(self, epoch: int, max_flows: int = MAX_FLOWS) -> None:
        self._epoch = epoch
        self._rules: dict[int, Match] = {}
        self._flows: LeastRecentlyUsed[Flow] = LeastRecentlyUsed(max_flows)
        self._learnt: LeastRecentlyUsed[int] = LeastRecentlyUsed(max_flows)
        self._next_number: dict[int, int] = {}

    def add_rule(self, path: int, match: Match) -> None:
        """Packets of `match` that belong to no flow yet take `path`."""
        self._rules[path] = match

    def learn(self, delivered: bytes, path: int) -> None:
        """Answers to the packet `delivered` take `path`."""
        key = flow_key(delivered)
        if key is not None:
            self._learnt.put(reversed_key(key), path)

    def remove_path(self, path: int) -> None:
        """Forget the rule, the flows and what was learnt of `path`; numbers are not given again."""
        self._rules.pop(path, None)
        for key in [key for key, flow in self._flows.items() if flow.path == path]:
            del self._flows[key]
        for key in [key for key, learnt in self._learnt.items() if learnt == path]:
            del self._learnt[key]

    def stamp(self, packet: bytes) -> Stamp | None:
        """The stamp of a packet that enters a chain here, or None if none is for it."""
        key = flow_key(packet)
        if key is None:
            return None
        flow = self._flows.use(key)
        if flow is None:
            flow = self._new_flow(key)
            if flow is None:
                return None
        seq = flow.next_seq
        flow.next_seq = seq + 1
        return Stamp(flow.path, flow.number, flow.bucket, self._epoch, seq)

    def _new_flow(self, key: bytes) -> Flow | None:
        path = self._learnt.use(key)
        if path is None:
            path = next((path for path, rule in self._rules.items() if rule.covers(key)), None)
        if path is None:
            return None
        number = self._next_number.get(path, 0)
        self._next_number[path] = number + 1
        flow = Flow(path, number, bucket_of(key), 0)
        self._flows.put(key, flow)
        return flow


class SeenWindow:
    """Which packets of one flow have come: all below `_next`, and those in `_ahead`."""

    __slots__ = ("_ahead", "_next", "addresses", "epoch")

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch
        self.addresses = b""
        self._next = 0
        self._ahead: set[int] = set()

    def first_time(self, seq: int) -> bool:
        """True once for each `seq`; False as well for one that comes too late to tell."""
        ahead = self._ahead
        if seq == self._next and not ahead:
            self._next = seq + 1
            return True
        if seq < self._next or seq in ahead:
            return False
        ahead.add(seq)
        if len(ahead) > WINDOW_PACKETS:
            # What is missing from here was lost on the way: stop waiting for the oldest of it.
            self._next = min(ahead)
        while self._next in ahead:
            ahead.remove(self._next)
            self._next += 1
        return True


class DuplicateFilter:
    """Lets each stamped packet through once.

    A newer epoch of the stamper starts a flow anew; packets of an older one are refused. The
    table of flows is bounded: a flow that was pushed out of it is taken for a new one.
    """

    def __init__(self, max_flows: int = MAX_FLOWS) -> None:
        self._windows: OrderedDict[tuple[int, int], SeenWindow] = OrderedDict()
        self._max_flows = max_flows

    def first_time(self, stamp: Stamp) -> SeenWindow | None:
        """The window of the packet's flow if the packet comes for the first time, else None."""
        key = (stamp.path, stamp.flow)
        window = self._windows.get(key)
        if window is None or stamp.epoch > window.epoch:
            window = self._windows[key] = SeenWindow(stamp.epoch)
            if len(self._windows) > self._max_flows:
                self._windows.popitem(last=False)
        elif stamp.epoch < window.epoch:
            return None
        self._windows.move_to_end(key)
        return window if window.first_time(stamp.seq) else None

    def remove_path(self, path: int) -> None:
        """Forget the flows of `path`."""
        for key in [key for key in self._windows if key[0] == path]:
            del self._windows[key]
