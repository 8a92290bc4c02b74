"""The load of benchmarks: a compiled open-loop sender and receiver, each a process of its own.

A frame carries its number and the time at which it was sent, 64 bits each, big-endian, wherever
the template has room for them. The sender never waits for the receiver: frame i is due at
`start_ns + i / rate`, and a sender that comes late sends at once what is due, so its lag is part
of what it returns; a measurement whose sender lagged is void. All namespaces of a host share the
clock, so times of sender and receiver compare.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np

from bench.rigs.workers import Ready
from testbed.compiled import compiled
from testbed.vnf.dataplane.ring import (
    PacketRing,
    Ring,
    rx_peek,
    rx_release,
    rx_settle,
    tx_commit,
    tx_kick,
    tx_slot,
)
from testbed.vnf.dataplane.system import now_ns, poll_readable, poll_set
from testbed.vnf.state.arrays import Bytes, Words
from testbed.vnf.state.memory import copy_bytes

BATCH = 64
"""Frames a system call at most: a sender that comes late must not make bursts of any size."""
_NS_PER_S = 1_000_000_000
_SPIN_NS = 30_000
_GRACE_NS = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Load:
    """`count` frames at `rate_pps`, from the templates in turn, on `interface`.

    `number_at` and `time_at` are offsets of the two 64 bit fields in every template. Frames are
    numbered from `first`. The sender starts `delay_ns` after it is ready.
    """

    interface: str
    templates: tuple[bytes, ...]
    number_at: int
    time_at: int
    count: int
    rate_pps: int
    first: int = 0
    delay_ns: int = 20_000_000


@dataclass(frozen=True, slots=True)
class Sent:
    """What a sender did: `sent` of `count` frames; how late they were compared to their due times.

    Frame i (counted from the load's first) was due at `start_ns + i * 10**9 // rate_pps`.
    """

    count: int
    sent: int
    start_ns: int
    end_ns: int
    lag_p50_ns: int
    lag_p99_ns: int
    lag_max_ns: int


@dataclass(frozen=True, slots=True)
class Intake:
    """Receive on `interface` frames of `targets`, up to `room`, until `quiet_ns` pass without one.

    The first may take `patience_ns`. With `nap_ns`, the receiver looks that often and sleeps in
    between, which costs little CPU but tells nothing of latency; 0: it wakes for each frame.
    """

    interface: str
    targets: tuple[tuple[int, int], ...]
    number_at: int
    time_at: int
    room: int
    quiet_ns: int = 200_000_000
    patience_ns: int = 60_000_000_000
    nap_ns: int = 0
    rx_frames: int = 8192


@dataclass(frozen=True, slots=True)
class Received:
    """Frames in order of arrival: number, time sent and time received (CLOCK_MONOTONIC)."""

    numbers: Words
    sent_ns: Words
    received_ns: Words
    kernel_drops: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of `count` numbers; latency is NaN if nothing came. See `outcome`."""

    lost: int
    duplicates: int
    strange: int
    reordered: int
    latency_p50_us: float
    latency_p99_us: float


class Places(NamedTuple):
    """Where a frame's two fields are."""

    number: int
    time: int


class Numbered(Protocol):
    """A load, as far as its frames' numbers tell: `first` to `first + count - 1`."""

    @property
    def first(self) -> int:
        """The number of the first frame."""

    @property
    def count(self) -> int:
        """How many there are."""


def outcome(load: Numbered, received: Received) -> Outcome:
    """Losses, duplicates, reordering, and latency from the time sent to the first arrival.

    `reordered` counts first arrivals that a higher number had overtaken (RFC 4737); `strange`
    numbers that were not in the load.
    """
    known = (received.numbers >= load.first) & (received.numbers < load.first + load.count)
    numbers = received.numbers[known]
    latency_ns = (received.received_ns - received.sent_ns)[known]
    _, first = np.unique(numbers, return_index=True)
    first.sort()
    arrived = numbers[first]
    overtaken = arrived < np.maximum.accumulate(arrived)
    p50, p99 = np.quantile(latency_ns[first], (0.5, 0.99)) if len(first) else (np.nan, np.nan)
    return Outcome(
        lost=load.count - len(first),
        duplicates=len(numbers) - len(first),
        strange=int((~known).sum()),
        reordered=int(overtaken.sum()),
        latency_p50_us=float(p50) / 1e3,
        latency_p99_us=float(p99) / 1e3,
    )


def send_load(ready: Ready, load: Load) -> Sent:
    """Send a load; to be run in a worker (see `bench.rigs.workers`)."""
    length = max(len(template) for template in load.templates)
    frames = np.zeros((len(load.templates), length), dtype=np.uint8)
    lengths = np.array([len(template) for template in load.templates], dtype=np.int64)
    for row, template in zip(frames, load.templates, strict=True):
        row[: len(template)] = np.frombuffer(template, dtype=np.uint8)
    places = Places(load.number_at, load.time_at)
    lags = np.zeros(load.count, dtype=np.int64)
    ring = PacketRing(load.interface, rx_frames=32)
    try:
        send_open_loop(ring.ring, frames, lengths, places, 0, 0, 1, 0, lags)  # compiles
        ready()
        start_ns = clock_ns() + load.delay_ns
        sent = send_open_loop(
            ring.ring,
            frames,
            lengths,
            places,
            load.first,
            load.count,
            load.rate_pps,
            start_ns,
            lags,
        )
        end_ns = clock_ns()
    finally:
        ring.close()
    p50, p99, worst = np.quantile(lags, (0.5, 0.99, 1.0)).astype(int).tolist()
    return Sent(load.count, sent, start_ns, end_ns, p50, p99, worst)


def receive_load(ready: Ready, intake: Intake) -> Received:
    """Receive until it is quiet; to be run in a worker. Ready when frames are taken."""
    columns = [np.zeros(intake.room, dtype=np.int64) for _ in range(3)]
    places = Places(intake.number_at, intake.time_at)
    ring = PacketRing(intake.interface, intake.targets, rx_frames=intake.rx_frames, tx_frames=32)
    polled = poll_set([ring.fileno()])
    try:
        receive_until_quiet(ring.ring, polled, places, 0, 0, 0, *columns)  # compiles
        ready()
        count = receive_until_quiet(
            ring.ring, polled, places, intake.patience_ns, intake.quiet_ns, intake.nap_ns, *columns
        )
        drops = ring.kernel_drops()
    finally:
        ring.close()
    numbers, sent_ns, received_ns = (column[:count] for column in columns)
    return Received(numbers, sent_ns, received_ns, drops)


@compiled
def clock_ns() -> int:
    """CLOCK_MONOTONIC, for callers that are not compiled."""
    return now_ns()


@compiled
def store_number(buffer: Bytes, at: int, value: int) -> None:
    """Write 64 bits, big-endian."""
    for i in range(8):
        buffer[at + i] = (value >> (56 - 8 * i)) & 255


@compiled
def load_number(buffer: Bytes, at: int) -> int:
    """Read 64 bits, big-endian."""
    value = 0
    for i in range(8):
        value = value << 8 | int(buffer[at + i])
    return value


@compiled
def send_open_loop(
    ring: Ring,
    frames: Bytes,
    lengths: Words,
    places: Places,
    first: int,
    count: int,
    rate_pps: int,
    start_ns: int,
    lags: Words,
) -> int:
    """Send `count` frames (rows of `frames` in turn) when they are due; how many were sent.

    Gives up one second after the last was due. `lags` [count] is filled with nanoseconds.
    """
    nothing = np.zeros(2, dtype=np.int64)
    flat = frames.reshape(frames.size)
    done = 0
    while done < count:
        due_ns = start_ns + done * _NS_PER_S // rate_pps
        now = now_ns()
        if now < due_ns:
            if due_ns - now > _SPIN_NS:
                poll_readable(nothing, due_ns - now - _SPIN_NS // 2)
            continue
        batch = 0
        while batch < BATCH and done < count and due_ns <= now:
            at = tx_slot(ring)
            if at < 0:
                break
            row = done % len(lengths)
            copy_bytes(ring.tx, at, flat, row * frames.shape[1], lengths[row])
            store_number(ring.tx, at + places.number, first + done)
            store_number(ring.tx, at + places.time, now)
            tx_commit(ring, lengths[row])
            lags[done] = now - due_ns
            batch += 1
            done += 1
            due_ns = start_ns + done * _NS_PER_S // rate_pps
        if tx_kick(ring) > 0 and now > start_ns + count * _NS_PER_S // rate_pps + _GRACE_NS:
            break
    while tx_kick(ring) > 0:
        pass  # ends: what an interface refuses is given up
    return done


@compiled
def receive_until_quiet(
    ring: Ring,
    polled: Words,
    places: Places,
    patience_ns: int,
    quiet_ns: int,
    nap_ns: int,
    numbers: Words,
    sent: Words,
    received: Words,
) -> int:
    """Record frames until `quiet_ns` pass without one or there is no room; how many came."""
    nothing = np.zeros(2, dtype=np.int64)
    count = 0
    until = now_ns() + patience_ns
    while count < len(numbers):
        length, at = rx_peek(ring)
        now = now_ns()
        if length >= 0:
            if length >= max(places.number, places.time) + 8:
                numbers[count] = load_number(ring.rx, at + places.number)
                sent[count] = load_number(ring.rx, at + places.time)
                received[count] = now
                count += 1
            rx_release(ring)
            until = now + quiet_ns
        elif now >= until:
            break
        elif nap_ns > 0:
            poll_readable(nothing, nap_ns)
        elif poll_readable(polled, until - now) == 1 and rx_peek(ring)[0] < 0:
            rx_settle(ring)
    return count
