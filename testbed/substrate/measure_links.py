"""Measures links before traffic flows, at their ends, past the switches; a few seconds for all.

Probes go out on the switch's end of a link and are taken at the other one, by sockets of this
process. First small frames go over every direction, far apart: the delays. Then trains of large
frames, back to back, over few directions at a time: the rates. `measure_plan` says how many, so
that they fit the link. The kernel stamps what arrives, so that a late reader measures no delay.
"""

from __future__ import annotations

import ctypes
import socket
import struct
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from operator import itemgetter
from statistics import median

from testbed.records.fidelity_checks import LinkFigures, link_reasons
from testbed.scenario.model import ToleranceSpec
from testbed.scenario.types import NS_PER_S, Link
from testbed.substrate.measure_plan import (
    PROBE_BYTES,
    TRAINS_PPS,
    Measurement,
    measurement_of,
    wire_ns,
)

ETHERTYPE = 0x88B6
"""IEEE 802, local experimental: no rule of a switch matches it, so it goes no further."""
ATTEMPTS = 3
_SETTLE_S, _PAUSE_S = 0.03, 0.001
_ETH_P_ALL = 3
_SOL_PACKET, _IGNORE_OUTGOING, _STATISTICS = 263, 23, 6
_SO_RCVBUFFORCE, _SO_TIMESTAMPNS, _SO_ATTACH_FILTER = 33, 35, 26
_BUFFER_BYTES = 4 << 20
_FIELDS = struct.Struct("!iqq")  # attempt and kind, number, time
_HEADER_BYTES = 14


@dataclass(frozen=True, slots=True)
class Ends:
    """One direction of a link: from interface `out` to interface `into`, in the caller's space.

    `lost_take_time`: a lost frame takes its time on the wire all the same, as on the line.
    """

    name: str
    out: str
    into: str
    link: Link
    lost_take_time: bool


@dataclass(slots=True)
class _Taken:
    """What arrived of one direction: number -> (time sent, time received), by kind."""

    kinds: dict[int, dict[int, tuple[int, int]]] = field(default_factory=dict)

    def of(self, kind: int) -> dict[int, tuple[int, int]]:
        return self.kinds.get(kind, {})


def measure_links(directions: Sequence[Ends], tolerances: ToleranceSpec) -> list[LinkFigures]:
    """The figures of all directions; one outside its tolerances is measured `ATTEMPTS` times.

    The last attempt counts: a host that was busy for a moment is no reason, a link that is not
    what was asked for stays so. Raises OSError.
    """
    figures: dict[str, LinkFigures] = {}
    left = list(directions)
    with _sockets(directions) as sockets:
        for attempt in range(ATTEMPTS):
            figures.update(_measure(left, sockets, attempt))
            left = [
                each
                for each in left
                if link_reasons(figures[each.name], tolerances, len(directions))
            ]
            if not left:
                break
    return [figures[each.name] for each in directions]


def _measure(
    directions: Sequence[Ends], sockets: dict[str, socket.socket], attempt: int
) -> Iterator[tuple[str, LinkFigures]]:
    plans = {each.name: measurement_of(each.link, len(directions)) for each in directions}
    _probe(directions, sockets, plans, 2 * attempt)
    for group in _groups(directions, plans):
        _send_trains(group, sockets, plans, 2 * attempt + 1)
    taken = {each.into: _take(sockets[each.into]) for each in directions}
    for each in directions:
        delays, train = (taken[each.into].of(2 * attempt + kind) for kind in (0, 1))
        yield each.name, _figures(each, plans[each.name], delays, train)


def _figures(
    ends: Ends,
    plan: Measurement,
    delays: dict[int, tuple[int, int]],
    train: dict[int, tuple[int, int]],
) -> LinkFigures:
    link, asked = ends.link, ends.link.impairments
    probe_ns = wire_ns(link, PROBE_BYTES)
    rate_bps, train_ns = _rate(train, plan, ends.lost_take_time)
    # The first probe makes the switch decide what to do with the rest.
    counted = [came - sent - probe_ns for number, (sent, came) in delays.items() if number > 0]
    return LinkFigures(
        name=ends.name,
        asked_delay_ns=link.delay_ns,
        asked_jitter_ns=asked.jitter_ns,
        asked_rate_bps=link.rate_bps,
        asked_loss=asked.total_loss,
        loss_memory=0.0 if asked.burst is None else asked.burst.memory,
        probes=len(counted),
        delay_p50_ns=round(median(counted)) if counted and link.trace is None else None,
        rate_bps=rate_bps,
        train_ns=train_ns,
        sent=plan.probes + plan.frames,
        lost=plan.probes + plan.frames - len(delays) - len(train),
    )


def _rate(
    taken: dict[int, tuple[int, int]], plan: Measurement, lost_take_time: bool
) -> tuple[float | None, int]:
    """(L2 bits a second over all trains, ns that one took); (None, 0) if none has two frames."""
    frames, took_ns, trains = 0, 0, 0
    for train in range(plan.trains):
        numbers = range(train * plan.train_frames, (train + 1) * plan.train_frames)
        came = [number for number in numbers if number in taken]
        if len(came) < 2:
            continue
        frames += came[-1] - came[0] if lost_take_time else len(came) - 1
        took_ns += taken[came[-1]][1] - taken[came[0]][1]
        trains += 1
    if took_ns <= 0:
        return None, 0
    return frames * plan.train_bytes * 8 * NS_PER_S / took_ns, took_ns // trains


def _probe(
    directions: Sequence[Ends],
    sockets: dict[str, socket.socket],
    plans: dict[str, Measurement],
    kind: int,
) -> None:
    """Each direction's probes, evenly in time, and what they take to arrive."""
    begin_ns = time.monotonic_ns()
    for at_ns, number, each in sorted(_probe_times(directions, plans), key=itemgetter(0)):
        _sleep_until(begin_ns + at_ns)
        _send(sockets[each.out], kind, number, PROBE_BYTES)
    time.sleep(_longest_s(directions, plans) + _SETTLE_S)


def _probe_times(
    directions: Sequence[Ends], plans: dict[str, Measurement]
) -> Iterator[tuple[int, int, Ends]]:
    """(when, from the first on; number; direction) of all probes: directions take turns."""
    for place, each in enumerate(directions):
        plan = plans[each.name]
        for number in range(plan.probes):
            turn_ns = place * plan.probe_gap_ns // len(directions)
            yield number * plan.probe_gap_ns + turn_ns, number, each


def _send_trains(
    group: Sequence[Ends],
    sockets: dict[str, socket.socket],
    plans: dict[str, Measurement],
    kind: int,
) -> None:
    """The trains of all directions of a group, side by side; each waits for the one before."""
    for train in range(max(plans[each.name].trains for each in group)):
        sending = [each for each in group if train < plans[each.name].trains]
        for each in sending:
            plan = plans[each.name]
            for number in range(train * plan.train_frames, (train + 1) * plan.train_frames):
                _send(sockets[each.out], kind, number, plan.train_bytes)
        longest_ns = max(
            wire_ns(each.link, plans[each.name].train_frames * plans[each.name].train_bytes)
            for each in sending
        )
        time.sleep(longest_ns / NS_PER_S + _PAUSE_S)
    time.sleep(_longest_s(group, plans) + _SETTLE_S)


def _groups(directions: Sequence[Ends], plans: dict[str, Measurement]) -> Iterator[list[Ends]]:
    """Directions whose trains together leave at no more than `TRAINS_PPS`, or one alone."""
    group: list[Ends] = []
    total = 0.0
    measured = (each for each in directions if plans[each.name].trains)
    for each in sorted(measured, key=lambda ends: ends.link.delay_ns):
        pps = each.link.rate_bps / (8 * plans[each.name].train_bytes)
        if group and total + pps > TRAINS_PPS:
            yield group
            group, total = [], 0.0
        group.append(each)
        total += pps
    if group:
        yield group


def _longest_s(directions: Sequence[Ends], plans: dict[str, Measurement]) -> float:
    """What the last probe of the slowest direction takes to arrive."""
    return max(
        (each.link.delay_ns + each.link.impairments.jitter_ns + plans[each.name].probe_gap_ns)
        / NS_PER_S
        for each in directions
    )


def _sleep_until(at_ns: int) -> None:
    left_ns = at_ns - time.monotonic_ns()
    if left_ns > 0:
        time.sleep(left_ns / NS_PER_S)


def _send(packet: socket.socket, kind: int, number: int, l2_bytes: int) -> None:
    header = b"\x06\0\0\xff\xff\xff\x06\0\0\xff\xff\xfe" + struct.pack("!H", ETHERTYPE)
    fields = _FIELDS.pack(kind, number, time.monotonic_ns())
    packet.send((header + fields).ljust(l2_bytes, b"\0"))


def _take(packet: socket.socket) -> _Taken:
    """All that has arrived so far; of a frame that came twice, the first."""
    taken = _Taken()
    while True:
        try:
            data, control, _, _ = packet.recvmsg(2048, 64)
        except BlockingIOError:
            return taken
        seconds, nanoseconds = struct.unpack("qq", control[0][2])
        came_ns = seconds * NS_PER_S + nanoseconds - _offset_ns()
        kind, number, sent_ns = _FIELDS.unpack_from(data, _HEADER_BYTES)
        taken.kinds.setdefault(kind, {}).setdefault(number, (sent_ns, came_ns))


def _offset_ns() -> int:
    """CLOCK_REALTIME less CLOCK_MONOTONIC, the best of three looks."""
    looks = []
    for _ in range(3):
        before_ns = time.monotonic_ns()
        real_ns = time.clock_gettime_ns(time.CLOCK_REALTIME)
        after_ns = time.monotonic_ns()
        looks.append((after_ns - before_ns, real_ns - (before_ns + after_ns) // 2))
    return min(looks)[1]


@contextmanager
def _sockets(directions: Sequence[Ends]) -> Iterator[dict[str, socket.socket]]:
    """A packet socket on each interface that is an end of one of the directions."""
    with ExitStack() as stack:
        names = {name for each in directions for name in (each.out, each.into)}
        yield {name: stack.enter_context(_socket(name)) for name in sorted(names)}


def _socket(interface: str) -> socket.socket:
    packet = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    packet.setblocking(False)
    packet.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER_BYTES)
    packet.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
    packet.setsockopt(_SOL_PACKET, _IGNORE_OUTGOING, 1)
    # ldh [12]; jeq #ETHERTYPE; accept; drop. Bound to all types: the kernel's switch takes
    # frames away from sockets that are bound to one.
    program = b"".join(
        struct.pack("=HBBI", *each)
        for each in (
            (0x28, 0, 0, 12),
            (0x15, 0, 1, ETHERTYPE),
            (0x06, 0, 0, 65535),
            (0x06, 0, 0, 0),
        )
    )
    buffer = ctypes.create_string_buffer(program, len(program))
    option = struct.pack("HxxxxxxP", 4, ctypes.addressof(buffer))
    packet.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, option)
    packet.bind((interface, _ETH_P_ALL))
    return packet
