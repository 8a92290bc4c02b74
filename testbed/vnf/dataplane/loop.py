"""The packet loop of an instance: frames in, the protocol, messages and frames out; compiled.

`serve` runs until somebody else has to do something: a descriptor that is not its own is readable,
a member of the group has caught up, or the time that it was given is over. Each turn it

1. takes the messages of the other members (`protocol.on_message`);
2. takes the frames that the ring has, a burst at most: through the server's CPU queue if it is
   modelled, then to the protocol (`handling.on_packet`);
3. does what is due by time, and closes the batch if the input ran empty;
4. sends the messages that are due, first of all the log, since outputs wait for its answer;
5. emits the outputs that may go out (`handling.release_bound`), in the order of the log;
6. sleeps if none of this found anything to do.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from testbed.compiled import compiled
from testbed.records import traces
from testbed.records.traces import no_trace
from testbed.vnf.dataplane.ahead import look_ahead
from testbed.vnf.dataplane.cpu import admit
from testbed.vnf.dataplane.frames import Head, read_head, write_head
from testbed.vnf.dataplane.nsh import HEADER_BYTES
from testbed.vnf.dataplane.pending import (
    has_place,
    new_pending,
    next_done_ns,
    put_note,
    put_packet,
    take_done,
)
from testbed.vnf.dataplane.ring import (
    TX_WAITING,
    Ring,
    rx_peek,
    rx_release,
    rx_settle,
    tx_commit,
    tx_kick,
    tx_slot,
)
from testbed.vnf.dataplane.system import (
    ADDRESS_BYTES,
    now_ns,
    poll_others,
    poll_readable,
    receive_bytes,
    send_words_to,
)
from testbed.vnf.dataplane.tracing import note_emitted, note_frame, note_logged
from testbed.vnf.functions.checksums import byte
from testbed.vnf.functions.function import Process
from testbed.vnf.replication.batches import close_batch
from testbed.vnf.replication.copying import copy_from_words
from testbed.vnf.replication.flow_table import BASE_PATH_MASK
from testbed.vnf.replication.handling import on_packet, release_bound
from testbed.vnf.replication.log import OUTPUT_BIT, entry_at, is_granted, length_of, output_at
from testbed.vnf.replication.member import (
    FOLLOWER,
    MAX_MEMBERS,
    NO_CPU,
    NOT_LOST,
    P_CAUGHT_UP,
    P_STATE,
    PRIMARY,
    RELEASED,
    REQUIRED,
    ROLE,
    SELF,
    TAKEN,
    Member,
    peer_at,
)
from testbed.vnf.replication.messages import message_due, take_message
from testbed.vnf.replication.protocol import next_time_ns, on_idle, on_message, on_released, on_time
from testbed.vnf.replication.shared import ask_due
from testbed.vnf.state.arrays import Bytes, Words

SEND_AGAIN_NS = 100_000
"""How soon frames are offered again to an interface that took none."""
BURST = 64
"""Frames, and messages, that are taken before the others have their turn."""
COPIES_WAIT_NS = 250_000
"""How long a follower leaves copies in the ring at most, while it sleeps for the log to come: to
wake for each of them would cost more than all that is done with it."""
MANY_COPIES = 4
"""It does so if it took this many since it slept last."""
MESSAGE_WORDS = 8192
"""Room for a message; a datagram over IPv4 carries 65,507 bytes at most."""

# Places in `Plane.words`: what the loop is told, what it keeps, what it counts.
GROUP, UDP_FD, SOURCE_MAC, FORWARD, FORWARD_HOP, REVERSE, REVERSE_HOP = 0, 1, 2, 3, 4, 5, 6
CLOCK_FD, PRIMARY_SERVICE_NS, BACKUP_SERVICE_NS = 7, 8, 9
FIRST_RELEASE_NS = 12  # WATCHING: the time of the next release is wanted
RECEIVED, MALFORMED, FOREIGN, NO_CPU_COUNT, HANDED, EMITTED = 16, 17, 18, 19, 20, 21
MESSAGES_SENT, MESSAGES_FAILED, MESSAGES_RECEIVED, MESSAGES_MALFORMED = 22, 23, 24, 25
FATES = 32  # a word for each of COPY_FATES
LOSSES_BY_REASON = 40  # a word for each of LOSS_REASONS
VERDICTS = 48  # a word for each of the function's reasons
WORDS = 112

WATCHING = -1
OWN_DESCRIPTORS = 2
"""The first of the poll set: the ring and the socket of the group."""
CAUGHT_UP = 1 << 61
"""What `serve` returns when a learner has caught up."""
ASK_DUE = 1 << 60
"""What it returns when operations on shared records are to be asked for (`replication.shared`)."""


class Plane(NamedTuple):
    """What the loop works on beside the member: its ring, sockets, buffers and counters."""

    ring: Ring
    words: Words
    inbox: Bytes
    inbox_words: Words
    outbox: Words
    polled: Words
    addresses: Bytes
    pending: Words
    clock: Words
    trace: Words


def new_plane(ring: Ring, polled: Words, clock: Words, trace: Words | None = None) -> Plane:
    """A plane with empty buffers; `clock` is that of the server, or any word without one.

    `trace` is made by `results.traces.create_trace`; without it nothing is noted.
    """
    inbox = np.zeros(8 * MESSAGE_WORDS, np.uint8)
    return Plane(
        ring=ring,
        words=np.zeros(WORDS, np.int64),
        inbox=inbox,
        inbox_words=inbox.view(np.int64),
        outbox=np.zeros(MESSAGE_WORDS, np.int64),
        polled=polled,
        addresses=np.zeros(MAX_MEMBERS * ADDRESS_BYTES, np.uint8),
        pending=new_pending(),
        clock=clock,
        trace=no_trace() if trace is None else trace,
    )


@compiled
def serve(member: Member, process: Process, plane: Plane, until_ns: int) -> int:
    """Run until `until_ns` or until somebody else has to act.

    Returns the bits of `poll_readable` for descriptors that are not the loop's own, with
    `CAUGHT_UP` if a learner has caught up since the last call, `ASK_DUE`; 0: the time is over.
    """
    m = member.words
    took = 0  # frames, since it slept
    hurries = False
    while True:
        now = now_ns()
        if now >= until_ns:
            return 0
        messages = _take_messages(member, process, plane, now)
        # A follower answers before it looks at copies, which the log may have made needless.
        hurries = messages > 0 and m[ROLE] == FOLLOWER and not hurries
        frames = 0 if hurries else _take_frames(member, process, plane, now)
        took += frames
        handed = _hand_over_done(member, process, plane, now)
        if frames < BURST:
            on_idle(member, process, now)
        elif m[ROLE] == PRIMARY:
            close_batch(m, now, False)
        if next_time_ns(m, now) <= now:
            on_time(member, process, now)
        sent = _send_messages(member, plane, now)
        note_logged(m, plane.trace)
        emitted = _emit(member, plane)
        if messages and _caught_up(m):
            return CAUGHT_UP
        if ask_due(m):
            return ASK_DUE
        if frames + messages + handed + sent + emitted == 0:
            due_ns = min(until_ns, min(next_time_ns(m, now), next_done_ns(plane.pending)))
            if plane.ring.cursors[TX_WAITING]:
                due_ns = min(due_ns, now + SEND_AGAIN_NS)  # the interface was busy
            if took >= MANY_COPIES and m[ROLE] == FOLLOWER and plane.words[CLOCK_FD] < 0:
                due_ns = min(due_ns, now + COPIES_WAIT_NS)
                ready = poll_others(plane.polled, max(0, due_ns - now_ns()))
            else:
                ready = poll_readable(plane.polled, max(0, due_ns - now_ns()))
            took = 0
            if ready > 0 and ready >> OWN_DESCRIPTORS:
                return ready
            if ready & 1 and rx_peek(plane.ring)[0] < 0:
                rx_settle(plane.ring)


@compiled
def _take_frames(member: Member, process: Process, plane: Plane, now: int) -> int:
    words, ring = plane.words, plane.ring
    for taken in range(BURST):
        length, at = rx_peek(ring)
        if length < 0:
            return taken
        look_ahead(member.words, ring)
        head = read_head(ring.rx, at, length)
        if head.sound == 0:
            words[MALFORMED] += 1
        elif head.hop != _own_hop(words, head.path):
            words[FOREIGN] += 1
        else:
            words[RECEIVED] += 1
            note_frame(plane.trace, traces.TAKEN, 0, head, head.member)
            begin = at + HEADER_BYTES
            _take_packet(member, process, plane, now, head, begin, length - HEADER_BYTES)
        rx_release(ring)
    return BURST


@compiled
def _own_hop(words: Words, path: int) -> int:
    """Which hop of the path this instance is, whatever the shard; -1: none."""
    base = path & BASE_PATH_MASK
    if base == words[FORWARD]:
        return words[FORWARD_HOP]
    return words[REVERSE_HOP] if base == words[REVERSE] else -1


@compiled
def _take_packet(
    member: Member, process: Process, plane: Plane, now: int, head: Head, begin: int, length: int
) -> None:
    """A packet came: to the protocol, or into the server's CPU first."""
    words = plane.words
    if words[CLOCK_FD] < 0:
        _hand_over(member, process, plane, now, head, plane.ring.rx, begin, length, NOT_LOST)
        return
    leads = member.words[ROLE] == PRIMARY
    done_ns = -1
    if has_place(plane.pending):
        cost_ns = words[PRIMARY_SERVICE_NS] if leads else words[BACKUP_SERVICE_NS]
        done_ns = admit(plane.clock, words[CLOCK_FD], now, cost_ns)
    if done_ns >= 0:
        put_packet(plane.pending, done_ns, head, plane.ring.rx, begin, length)
        return
    words[NO_CPU_COUNT] += 1
    # A backup that lacks a copy learns from the log what became of it.
    if leads and not put_note(plane.pending, head, NO_CPU):
        _hand_over(member, process, plane, now, head, plane.ring.rx, begin, 0, NO_CPU)


@compiled
def _hand_over_done(member: Member, process: Process, plane: Plane, now: int) -> int:
    """Hand the packets that the CPU is done with to the protocol, and what it refused."""
    handed = 0
    while next_done_ns(plane.pending) <= now:
        done_ns = next_done_ns(plane.pending)
        # The inbox is free between two messages.
        head, reason, length = take_done(plane.pending, plane.inbox)
        if reason == NOT_LOST:
            leads = member.words[ROLE] == PRIMARY
            cost_ns = plane.words[PRIMARY_SERVICE_NS if leads else BACKUP_SERVICE_NS]
            note_frame(plane.trace, traces.DONE, done_ns, head, cost_ns)
        if reason == NOT_LOST or member.words[ROLE] == PRIMARY:
            _hand_over(member, process, plane, now, head, plane.inbox, 0, length, reason)
        handed += 1
    return handed


@compiled
def _hand_over(
    member: Member,
    process: Process,
    plane: Plane,
    now: int,
    head: Head,
    packet: Bytes,
    begin: int,
    length: int,
    reason: int,
) -> None:
    plane.words[HANDED] += 1
    note_frame(plane.trace, traces.HANDED, 0, head, int(reason == NO_CPU))
    fate = on_packet(
        member,
        process,
        now,
        head.path,
        head.flow,
        head.bucket,
        head.epoch,
        head.seq,
        packet,
        begin,
        length,
        reason,
    )
    note_logged(member.words, plane.trace)
    if fate != TAKEN:
        plane.words[FATES + fate] += 1


@compiled
def _take_messages(member: Member, process: Process, plane: Plane, now: int) -> int:
    words, inbox = plane.words, plane.inbox
    taken = 0
    while taken < BURST:
        length = receive_bytes(words[UDP_FD], inbox, 0, len(inbox))
        if length < 0:
            # Nothing more, or the kernel's word that a datagram was refused: its receiver is gone.
            return taken
        taken += 1
        words[MESSAGES_RECEIVED] += 1
        sound = length & 7 == 0 and on_message(
            member, process, now, words[GROUP], plane.inbox_words, 0, length >> 3
        )
        if not sound:
            words[MESSAGES_MALFORMED] += 1
    return taken


@compiled
def _send_messages(member: Member, plane: Plane, now: int) -> int:
    words, m = plane.words, member.words
    sent = 0
    for to in range(MAX_MEMBERS):
        while message_due(m, to):
            length = take_message(member, now, to, words[GROUP], plane.outbox)
            if length == 0:
                break
            # One that cannot leave is lost as on the way: the protocol sends again.
            if send_words_to(words[UDP_FD], plane.outbox, length, plane.addresses, to) < 0:
                words[MESSAGES_FAILED] += 1
            else:
                words[MESSAGES_SENT] += 1
            sent += 1
    return sent


@compiled
def _emit(member: Member, plane: Plane) -> int:
    """Send what may go out on its way, as far as the ring has room."""
    m, ring = member.words, plane.ring
    # Asked right before: a lease may have run out since this turn began.
    bound = release_bound(m, now_ns())
    first = index = m[RELEASED]
    while index < bound:
        at = entry_at(m, index)
        if m[at] & OUTPUT_BIT:
            slot = tx_slot(ring)
            if slot < 0:
                tx_kick(ring)
                slot = tx_slot(ring)
            if slot < 0:
                break
            _write_frame(m, plane, at, slot)
        elif not is_granted(m[at]):
            _count_drop(plane.words, m[at])
        index += 1
    if index > first:
        on_released(m, index)
    tx_kick(ring)
    return index - first


@compiled
def _write_frame(m: Words, plane: Plane, at: int, slot: int) -> None:
    """Write the output of the entry at `at` as a frame for the next hop of its path."""
    words, ring = plane.words, plane.ring
    where = m[at + 1]
    path = where & 0xFFFFFF
    head = Head(
        1,
        path,
        _own_hop(words, path) + 1,
        m[SELF],
        m[at + 2],
        (where >> 24) & 0xFFFF,
        (where >> 40) & 0xFFFF,
        m[at + 4],
    )
    length = length_of(m[at])
    copy_from_words(m, output_at(m, at), ring.tx, slot + HEADER_BYTES, length)
    write_head(ring.tx, slot, words[SOURCE_MAC], head, byte(ring.tx, slot + HEADER_BYTES))
    tx_commit(ring, HEADER_BYTES + length)
    words[EMITTED] += 1
    note_emitted(m, plane.trace, at)
    if words[FIRST_RELEASE_NS] == WATCHING:
        words[FIRST_RELEASE_NS] = now_ns()


@compiled
def _count_drop(words: Words, entry_head: int) -> None:
    reason = (entry_head >> 32) & 0xFF
    if reason == NOT_LOST:
        code = (entry_head >> 41) & 0xFFFF
        words[VERDICTS + min(code, WORDS - VERDICTS - 1)] += 1
    else:
        words[LOSSES_BY_REASON + reason] += 1


@compiled
def _caught_up(m: Words) -> bool:
    for number in range(MAX_MEMBERS):
        peer = peer_at(number)
        if m[peer + P_STATE] == REQUIRED and m[peer + P_CAUGHT_UP] == 1:
            return True
    return False
