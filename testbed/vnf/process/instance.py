"""An instance of a network function: a member of a replica group, its orders, what it reports.

Counters. Of the frames that reached the ring, `kernel_drops` were lost there; the others are
`received`, `malformed` or `foreign` (for a hop that is not this instance's). What was received
was refused by the server's CPU (`no_cpu`), waits for its completion (`waiting`) or was handed to
the protocol (`handed`). The protocol's answers are `emitted` and `dropped` by reason; what it keeps
is `buffered` (inputs out of turn, or a backup's copies) and `unacknowledged` (log entries whose
outputs are not out).
"""

from __future__ import annotations

import hashlib
import time
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np

from testbed.records.events import EventLog
from testbed.vnf.dataplane import loop, pending, ring
from testbed.vnf.dataplane.calls import Bound, configure, drain, serve
from testbed.vnf.dataplane.cpu import ServerCpu
from testbed.vnf.dataplane.loop import Plane
from testbed.vnf.dataplane.system import ipv4_endpoint
from testbed.vnf.functions.function import Function
from testbed.vnf.replication import member as layout
from testbed.vnf.replication.member import Member, ReplicationConfig, new_member, peer_at
from testbed.vnf.replication.protocol import is_drained
from testbed.vnf.state.records import REFUSED, contents, digest

ROLES = ("out", "backup", "primary")
COUNTERS = {
    "received": loop.RECEIVED,
    "malformed": loop.MALFORMED,
    "foreign": loop.FOREIGN,
    "no_cpu": loop.NO_CPU_COUNT,
    "handed": loop.HANDED,
    "emitted": loop.EMITTED,
    "messages_sent": loop.MESSAGES_SENT,
    "messages_failed": loop.MESSAGES_FAILED,
    "messages_received": loop.MESSAGES_RECEIVED,
    "messages_malformed": loop.MESSAGES_MALFORMED,
}


@dataclass(frozen=True, slots=True)
class Identity:
    """Who the instance is, and which hop of its chain's two base paths it takes."""

    name: str
    group: str
    member: int
    mac: str
    forward: tuple[int, int]
    reverse: tuple[int, int]


class Instance:
    """A member of a group and its plane; `testbed.vnf.process.runtime` runs its loop."""

    def __init__(
        self,
        identity: Identity,
        function: Function,
        replication: ReplicationConfig,
        plane: Plane,
        events: EventLog,
    ) -> None:
        self.identity = identity
        self.function = function
        self.plane = plane
        self.member: Member = new_member(
            replication, function.new_state(), function.config, identity.member
        )
        self._bound = Bound(self.member, function.process, plane)
        self._events = events
        words = plane.words
        words[loop.GROUP] = zlib.crc32(identity.group.encode())
        words[loop.SOURCE_MAC] = int(identity.mac.replace(":", ""), 16)
        words[loop.FORWARD], words[loop.FORWARD_HOP] = identity.forward
        words[loop.REVERSE], words[loop.REVERSE_HOP] = identity.reverse
        words[loop.CLOCK_FD] = -1

    def use_cpu(self, clock: ServerCpu, primary_ns: int, backup_ns: int) -> None:
        """Let packets pass the server's CPU queue; costs are those on one reference core."""
        words = self.plane.words
        words[loop.CLOCK_FD] = clock.fileno()
        words[loop.PRIMARY_SERVICE_NS] = clock.service_ns(primary_ns)
        words[loop.BACKUP_SERVICE_NS] = clock.service_ns(backup_ns)

    def serve(self, until_ns: int) -> int:
        """Run the packet loop (see `loop.serve`); then note what has to be noted."""
        ready: int = serve(self._bound, until_ns)
        released_ns = int(self.plane.words[loop.FIRST_RELEASE_NS])
        if released_ns > 0:
            self.plane.words[loop.FIRST_RELEASE_NS] = 0
            self._note("first-release", t_ns=released_ns)
        return ready

    @property
    def epoch(self) -> int:
        """The epoch of the last configuration."""
        return int(self.member.words[layout.CONFIG_EPOCH])

    def caught_up(self) -> list[int]:
        """Learners that have caught up and that the FDU has not admitted yet."""
        m = self.member.words
        found = []
        for number in range(layout.MAX_MEMBERS):
            peer = peer_at(number)
            if m[peer + layout.P_STATE] == layout.REQUIRED and m[peer + layout.P_CAUGHT_UP]:
                m[peer + layout.P_CAUGHT_UP] = 2  # the loop does not stop for it again
                found.append(number)
        return found

    # ------------------------------------------------------------------------------ orders

    def configure(self, order: dict[str, Any]) -> dict[str, Any]:
        """The FDU's configuration of the group; nothing to do if it is no news.

        {"epoch", "primary", "backups": [...], "learners": [...], "confirmed", "members":
        {number: {"address", "port"}}}.
        """
        m = self.member.words
        for number, info in order["members"].items():
            begin = 16 * int(number)
            endpoint = ipv4_endpoint(info["address"], info["port"])
            self.plane.addresses[begin : begin + 16] = np.frombuffer(endpoint, np.uint8)
        role, now_ns = int(m[layout.ROLE]), time.monotonic_ns()
        primary = order["primary"]
        changed = configure(
            self.member,
            self.function.process,
            now_ns,
            int(order["epoch"]),
            -1 if primary is None else int(primary),
            _mask(order["backups"]),
            _mask(order["learners"]),
            int(bool(order["confirmed"])),
        )
        if changed and role != layout.PRIMARY and m[layout.ROLE] == layout.PRIMARY:
            self._promoted(first=role == layout.OUT)
        if changed and role != layout.OUT and m[layout.ROLE] == layout.OUT:
            self._note("fenced", epoch=self.epoch)
        return {"epoch": self.epoch}

    def drain(self, order: dict[str, Any]) -> dict[str, Any]:
        """Begin (`order["on"]`) or end taking no inputs into the log, before a hand-over."""
        drain(self.member, self.function.process, time.monotonic_ns(), int(bool(order["on"])))
        return {}

    def stats(self, order: dict[str, Any]) -> dict[str, Any]:
        """Role, cursors and counters (see the module's text)."""
        m, words = self.member.words, self.plane.words
        peers = [peer_at(number) for number in range(layout.MAX_MEMBERS)]
        required = [n for n, at in enumerate(peers) if m[at + layout.P_STATE] == layout.REQUIRED]
        leads = m[layout.ROLE] == layout.PRIMARY
        return {
            "role": ROLES[int(m[layout.ROLE])],
            "epoch": int(m[layout.GROUP_EPOCH]),
            "protected": bool(leads and required),
            "required": required,
            "drained": bool(is_drained(m)),
            "synced": not m[layout.NEEDS_SNAPSHOT],
            **{name: int(words[place]) for name, place in COUNTERS.items()},
            "dropped": self._dropped(),
            "processed": int(m[layout.PROCESSED]),
            "declared_lost": int(m[layout.LOSSES]),
            "records": int(self.member.records.head[0]),
            "shared_changes": int(m[layout.SHARED_INDEX]),
            "records_refused": int(self.member.records.head[REFUSED]),
            "send_discarded": int(self.plane.ring.cursors[ring.TX_DISCARDED]),
            "waiting": int(self.plane.pending[pending.COUNT]),
            "buffered": int(m[layout.INPUTS]),
            "log_index": int(m[layout.NEXT]),
            "committed": int(m[layout.COMMITTED]),
            "released": int(m[layout.RELEASED]),
            "unacknowledged": int(m[layout.NEXT] - m[layout.RELEASED]) if leads else 0,
            "unreleased": 0 if leads else int(m[layout.NEXT] - m[layout.RELEASED]),
        }

    def dump(self) -> dict[str, Any]:
        """Counters, marks, declared losses and state as JSON values.

        `marks` has [base path, flow, epoch, next expected, next output] for each flow, `losses`
        [path, flow, epoch, seq, reason] for the newest; `state` has the words of each record.
        """
        records = self.member.records
        state = sorted([*key, *value] for key, value in contents(records).items())
        return {
            "name": self.identity.name,
            "group": self.identity.group,
            "member": self.identity.member,
            "counters": self.stats({}),
            "log_index": int(self.member.words[layout.NEXT]),
            "marks": self.marks(),
            "losses": self.losses(),
            "state_digest": digest(records).hex(),
            "state_sha256": hashlib.sha256(repr(state).encode()).hexdigest(),
            "state": state,
        }

    def marks(self) -> list[list[int]]:
        """[base path, flow, epoch, next expected, next output] of each flow that has begun."""
        m = self.member.words
        begin, count = int(m[layout.AT_FLOWS]), int(m[layout.FLOWS])
        flows = m[begin : begin + count * layout.FLOW_WORDS].reshape(count, layout.FLOW_WORDS)
        columns = [layout.F_KEY, layout.F_EPOCH, layout.F_EXPECTED, layout.F_OUT]
        rows = flows[flows[:, layout.F_EPOCH] >= 0][:, columns].tolist()
        return sorted([key >> 32, key & 0xFFFFFFFF, *rest] for key, *rest in rows)

    def losses(self) -> list[list[Any]]:
        """[path, flow, epoch, seq, reason] of the newest declared losses, oldest first."""
        m = self.member.words
        count, kept = int(m[layout.LOSSES]), layout.LOSSES_KEPT
        begin = int(m[layout.AT_LOSSES])
        table = m[begin : begin + kept * layout.LOSS_WORDS].reshape(kept, layout.LOSS_WORDS)
        rows = [table[index % kept].tolist() for index in range(max(0, count - kept), count)]
        return [[*row[:4], layout.LOSS_REASONS[row[4]]] for row in rows]

    # ---------------------------------------------------------------------------- internal

    def _promoted(self, first: bool) -> None:
        m = self.member.words
        if first and m[layout.NEXT] == 0 and self.epoch == 1:
            return  # the group begins: nobody was promoted
        self.plane.words[loop.FIRST_RELEASE_NS] = loop.WATCHING
        replayed = int(m[layout.NEXT] - m[layout.RELEASED])
        self._note("promoted", epoch=self.epoch, replayed=replayed)

    def _note(self, event: str, **fields: Any) -> None:
        self._events.write(event, group=self.identity.group, instance=self.identity.name, **fields)

    def _dropped(self) -> dict[str, int]:
        words = self.plane.words
        places = {
            **{f: loop.FATES + i for i, f in enumerate(layout.COPY_FATES) if i},
            **{r: loop.LOSSES_BY_REASON + i for i, r in enumerate(layout.LOSS_REASONS) if i},
        }
        counts = {name: int(words[place]) for name, place in places.items()}
        for code, reason in enumerate(self.function.reasons):
            counts[f"verdict:{reason}"] = int(words[loop.VERDICTS + code])
        return {name: count for name, count in counts.items() if count}


def _mask(members: list[int]) -> int:
    return sum(1 << int(number) for number in members)
