"""Tells the primaries of other groups what this one has counted, and takes in what they say.

All `period_ns` a primary copies its mergeable records, if its log has grown since, and sends to
each peer the parts that this peer has not answered for. What is not yet committed could be lost
with this member, and the group would count below what others know: so a copy is sent only when
all entries of the log up to it are committed. Then every later primary of the group has them, and
its contribution includes what was sent.

Work is done in pieces between two packets, none of which takes much more than some 100 us.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np

from testbed.vnf.exchange.gather import gather
from testbed.vnf.exchange.known import Known
from testbed.vnf.exchange.part_messages import (
    MAX_PART_BYTES,
    PART_RECORDS,
    Answer,
    Part,
    decode,
    encode_answer,
    encode_part,
    shape_of,
)
from testbed.vnf.functions.function import Function
from testbed.vnf.functions.share import Share
from testbed.vnf.replication import member as layout
from testbed.vnf.replication.member import Member
from testbed.vnf.state.arrays import Words

PAUSE_NS = 1_000_000
"""From one piece of work to the next: packets are handled in between."""
WAIT_NS = 20_000_000
"""From one look to the next whether a copy is committed."""
SENDS = 8
"""Datagrams that are sent in one piece of work."""

Address: TypeAlias = tuple[str, int]
Send: TypeAlias = Callable[[bytes, Address], bool]
"""Sends a datagram; whether it left."""
_Work: TypeAlias = Generator[int, None, None]
"""Pieces of work; each says for how long to pause after it."""


@dataclass(slots=True)
class _Peer:
    """The primary of another group, and which version of each part it has answered for."""

    name: str
    address: Address
    has: dict[int, int] = field(default_factory=dict)


@dataclass(slots=True)
class _Sent:
    """A part as it is sent: the version in which its content became what it is."""

    version: int
    content: bytes
    datagram: bytes


class Exchange:
    """The exchange of a member of `group`; it says something while that member is the primary."""

    def __init__(
        self,
        group: str,
        function: Function,
        share: Share,
        member: Member,
        send: Send,
        period_ns: int,
    ) -> None:
        """Raises ValueError for records that are too large for a datagram."""
        if 8 * PART_RECORDS * function.value_words > MAX_PART_BYTES:
            raise ValueError(f"value_words = {function.value_words}: too many to be shared")
        self._group = group
        self._function = function
        self._share = share
        self._member = member
        self._send = send
        self._period_ns = period_ns
        self._keys = share.keys(function)
        self._shape = shape_of(self._keys, function.value_words)
        self.known = Known(len(self._keys), function.value_words)
        self._parts: dict[int, _Sent] = {}
        self._peers: dict[str, _Peer] = {}
        self._shared_index = 0
        """How long the log was when the last copy was begun that was shared."""
        self._work: _Work | None = None
        self._begun_ns = 0
        # The groups of a run begin together: what they have to do is spread over the period.
        self.due_ns = time.monotonic_ns() + zlib.crc32(group.encode()) % period_ns
        self.counters = dict.fromkeys(("sent", "failed", "received", "malformed"), 0)

    # -------------------------------------------------------------------------------- orders

    def share_with(self, order: dict[str, Any]) -> dict[str, Any]:
        """{"peers": [{"group", "name", "address", "port"}]}: the other groups' primaries now."""
        told = {
            str(peer["group"]): _Peer(str(peer["name"]), (str(peer["address"]), int(peer["port"])))
            for peer in order["peers"]
        }
        for group, peer in told.items():
            known = self._peers.get(group)
            if known is not None and (known.name, known.address) == (peer.name, peer.address):
                told[group] = known  # a new one knows nothing yet
        self._peers = told
        return {}

    def view(self) -> dict[str, Any]:
        """What is known of all groups together; see the function for its keys."""
        return self._share.view(self._function, self.known.contributions())

    # ------------------------------------------------------------------------------- packets

    def on_datagram(self, data: bytes, source: Address) -> None:
        """Take in a part and answer it, or note an answer."""
        self.counters["received"] += 1
        try:
            message = decode(data)
            if isinstance(message, Part):
                self._take(message, source)
            else:
                self._note_answer(message, source)
        except ValueError:
            self.counters["malformed"] += 1

    def _take(self, part: Part, source: Address) -> None:
        if part.shape != self._shape or part.group == self._group:
            raise ValueError(f"part of {part.group}: expected another group with equal records")
        self.known.merge(part.group, part.number, part.version, part.content)
        self._send(encode_answer(Answer(self._group, part.number, part.version)), source)

    def _note_answer(self, answer: Answer, source: Address) -> None:
        peer = self._peers.get(answer.group)
        if peer is not None and peer.address == source:
            peer.has[answer.number] = max(answer.version, peer.has.get(answer.number, 0))

    # ---------------------------------------------------------------------------------- work

    def work(self, now_ns: int) -> None:
        """Do the next piece of work if it is due; `due_ns` says when the one after it is."""
        if now_ns < self.due_ns:
            return
        if self._member.words[layout.ROLE] != layout.PRIMARY:
            self._work = None
            self.due_ns = now_ns + self._period_ns
            return
        if self._work is None:
            self._work, self._begun_ns = self._round(), now_ns
        pause_ns = next(self._work, None)
        if pause_ns is None:
            self._work = None
            self.due_ns = max(now_ns + PAUSE_NS, self._begun_ns + self._period_ns)
        else:
            self.due_ns = now_ns + pause_ns

    def _round(self) -> _Work:
        words = self._member.words
        index = int(words[layout.NEXT])
        if index > self._shared_index:
            values = np.zeros((len(self._keys), self._function.value_words), np.int64)
            for number in range(self.known.parts):
                rows = self.known.rows_of(number)
                gather(self._member.records, self._keys[rows], values[rows])
                yield PAUSE_NS
            note = yield from self._note(values)
            end = int(words[layout.NEXT])
            while words[layout.COMMITTED] < end:
                yield WAIT_NS
            for number in range(self.known.parts):
                content = values[self.known.rows_of(number)].astype("<i8").tobytes()
                if self._update(number, index, content):
                    yield PAUSE_NS
            self._update(self.known.parts, index, note)
            self._shared_index = index
        yield from self._send_parts()

    def _note(self, values: Words) -> Generator[int, None, bytes]:
        if self._share.note is None:
            return b""
        work = self._share.note(self._function, self._member.records, values)
        while True:
            try:
                next(work)
            except StopIteration as end:
                return bytes(end.value)
            yield PAUSE_NS

    def _update(self, number: int, version: int, content: bytes) -> bool:
        """Keep a part that is committed; whether it is news."""
        before = self._parts.get(number)
        # Zeros are what is known of a group that has said nothing.
        if content == (before.content if before is not None else bytes(len(content))):
            return False
        self.known.merge(self._group, number, version, content)
        part = Part(self._shape, self._group, number, version, content)
        self._parts[number] = _Sent(version, content, encode_part(part))
        return True

    def _send_parts(self) -> _Work:
        sent = 0
        for number, part in self._parts.items():
            for peer in self._peers.values():
                if peer.has.get(number, -1) >= part.version:
                    continue
                left = self._send(part.datagram, peer.address)
                self.counters["sent" if left else "failed"] += 1
                sent += 1
                if sent % SENDS == 0:
                    yield PAUSE_NS
