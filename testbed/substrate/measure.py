"""Measures links before traffic flows, at their ends, past the switches; a few seconds for all.

Probes go out on the switch's end of a link and are taken at the other one, by sockets of this
process. First a small frame goes over every direction in turn, `PROBES` times: the delays. Then
a train of large frames, back to back, over few directions at a time: the rates. The kernel stamps
what arrives, so that a late reader measures no delay.
"""

from __future__ import annotations

import ctypes
import socket
import struct
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from statistics import median

from testbed.results.fidelity import LinkFigures, link_reasons
from testbed.scenario.model import ToleranceSpec
from testbed.scenario.types import NS_PER_S, Link

ETHERTYPE = 0x88B6
"""IEEE 802, local experimental: no rule of a switch matches it, so it goes no further."""
PROBES, PROBE_BYTES = 40, 100
TRAIN_BYTES, TRAIN_FRAMES, TRAIN_S = 1400, 120, 1.0
PROBES_PPS, TRAINS_PPS = 4_000, 20_000
"""Frames a second at most, over all links: the emulator itself must not be what is measured."""
ATTEMPTS = 3
_SETTLE_S = 0.03
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
    _probe(directions, sockets, 2 * attempt)
    trains = {each.name: _train_frames(each.link) for each in directions}
    _send_trains(directions, sockets, trains, 2 * attempt + 1)
    taken = {each.into: _take(sockets[each.into]) for each in directions}
    for each in directions:
        delays, train = (taken[each.into].of(2 * attempt + kind) for kind in (0, 1))
        yield each.name, _figures(each, delays, train, trains[each.name])


def _figures(
    ends: Ends,
    delays: dict[int, tuple[int, int]],
    train: dict[int, tuple[int, int]],
    frames: int,
) -> LinkFigures:
    link, asked = ends.link, ends.link.impairments
    wire_ns = PROBE_BYTES * 8 * NS_PER_S // link.rate_bps
    rate_bps, train_ns = _rate(train, ends.lost_take_time)
    measured = link.trace is None
    # The first probe makes the switch decide what to do with the rest.
    counted = [came - sent - wire_ns for number, (sent, came) in delays.items() if number > 0]
    lost = PROBES + frames - len(delays) - len(train)
    return LinkFigures(
        name=ends.name,
        asked_delay_ns=link.delay_ns,
        asked_jitter_ns=asked.jitter_ns,
        asked_rate_bps=link.rate_bps,
        asked_loss=asked.total_loss,
        loss_memory=0.0 if asked.burst is None else asked.burst.memory,
        probes=len(counted),
        delay_p50_ns=round(median(counted)) if counted and measured else None,
        rate_bps=rate_bps if measured else None,
        train_ns=train_ns,
        sent=PROBES + frames,
        lost=lost,
    )


def _rate(train: dict[int, tuple[int, int]], lost_take_time: bool) -> tuple[float | None, int]:
    """(L2 bits a second, the time it took) of a train; (None, 0) of fewer than two frames."""
    if len(train) < 2:
        return None, 0
    first, last = min(train), max(train)
    took_ns = train[last][1] - train[first][1]
    frames = last - first if lost_take_time else len(train) - 1
    if took_ns <= 0:
        return None, 0
    return frames * TRAIN_BYTES * 8 * NS_PER_S / took_ns, took_ns


def _train_frames(link: Link) -> int:
    """As many as the queue takes at once, and as leave in `TRAIN_S`; at least 2."""
    room = int(0.8 * link.queue_bytes / TRAIN_BYTES)
    leave = int(TRAIN_S * link.rate_bps / (8 * TRAIN_BYTES))
    return max(2, min(TRAIN_FRAMES, room, leave))


def _probe(directions: Sequence[Ends], sockets: dict[str, socket.socket], kind: int) -> None:
    """`PROBES` rounds over all directions, evenly in time, and what they take to arrive."""
    widest_ns = max(each.link.impairments.jitter_ns for each in directions)
    # Further apart than the jitter: what keeps the order would delay the next one, too.
    round_ns = max(len(directions) * NS_PER_S // PROBES_PPS, 2 * widest_ns, 2_000_000)
    begin_ns = time.monotonic_ns()
    for number in range(PROBES):
        for place, each in enumerate(directions):
            _sleep_until(begin_ns + number * round_ns + place * round_ns // len(directions))
            _send(sockets[each.out], kind, number, PROBE_BYTES)
    time.sleep(_longest_s(directions) + _SETTLE_S)


def _send_trains(
    directions: Sequence[Ends],
    sockets: dict[str, socket.socket],
    trains: dict[str, int],
    kind: int,
) -> None:
    for group in _groups(directions):
        for each in group:
            for number in range(trains[each.name]):
                _send(sockets[each.out], kind, number, TRAIN_BYTES)
        wire_s = max(
            trains[each.name] * TRAIN_BYTES * 8 / each.link.rate_bps
            for each in group
            if each.link.rate_bps
        )
        time.sleep(wire_s + _longest_s(group) + _SETTLE_S)


def _groups(directions: Sequence[Ends]) -> Iterator[list[Ends]]:
    """Directions whose trains together leave at no more than `TRAINS_PPS`, or one alone."""
    group: list[Ends] = []
    total = 0.0
    for each in sorted(directions, key=lambda ends: ends.link.delay_ns):
        pps = each.link.rate_bps / (8 * TRAIN_BYTES)
        if group and total + pps > TRAINS_PPS:
            yield group
            group, total = [], 0.0
        group.append(each)
        total += pps
    if group:
        yield group


def _longest_s(directions: Sequence[Ends]) -> float:
    links = [each.link for each in directions]
    return max((link.delay_ns + link.impairments.jitter_ns) / NS_PER_S for link in links)


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
