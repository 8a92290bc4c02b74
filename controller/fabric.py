"""The wanted and the confirmed rules of every switch; knows no OpenFlow library.

One thread calls `attach`, `detach`, `confirmed` and `failed` (the adapter); any number of threads
call the rest (the northbound interface), of which one at a time changes rules.
"""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from controller.rules import (
    Network,
    SegmentError,
    chain_rules,
    host_rules,
    longest_path_ns,
    make_network,
)
from controller.switch import Connection, Switch, failures
from controller.update import EMPTY, Rules, by_match, change, make_rounds, whole
from controller.wiring import Wiring
from testbed.records.events import EventLog
from testbed.scenario.errors import RunError
from testbed.scenario.steering import Segment
from testbed.scenario.types import NS_PER_S

CONFIRM_S = 5.0
"""A switch that has not confirmed by then fails the request."""
SETTLE_S = 0.05
"""From the confirmation of what an update adds to the removal of what it takes away.

Open vSwitch answers a barrier when its tables have changed; the cached actions by which it forwards
follow some milliseconds later, more under load, and no OpenFlow message tells when.
"""
LINGER_S = 2.0
"""A rule that no frame comes to any more is kept as long, for switches that are later still."""


def after_linger(sweep: Callable[[], None]) -> None:
    """Call `sweep` after `LINGER_S`, in a thread that does not keep the process from ending."""
    timer = threading.Timer(LINGER_S, sweep)
    timer.daemon = True
    timer.start()


class FabricError(RunError):
    """A request cannot be done; the message names the switch, chain or field."""


@dataclass(frozen=True, slots=True)
class _Chain:
    """`rules` is what was asked for, `present` also what is still to be swept."""

    segments: tuple[Segment, ...]
    rules: Rules
    present: Rules
    updates: int


_NO_CHAIN = _Chain((), {}, {}, 0)


@dataclass(frozen=True, slots=True)
class Installed:
    """A chain's rules, when the first message was sent and when the last barrier came back.

    `path_ns` is the propagation on its longest way.
    """

    rules: int
    sent_ns: int
    confirmed_ns: int
    path_ns: int


class Fabric:
    """The switches of a topology and the chains on them."""

    def __init__(
        self,
        events: EventLog,
        confirm_s: float = CONFIRM_S,
        settle_s: float = SETTLE_S,
        later: Callable[[Callable[[], None]], None] = after_linger,
    ) -> None:
        """`later` calls a function, that deletes what an update left over, some time from now."""
        self._events = events
        self._confirm_s = confirm_s
        self._settle_s = settle_s
        self._later = later
        self._changed = threading.Condition()
        self._one_at_a_time = threading.Lock()
        self._network: Network | None = None
        self._switches: dict[int, Switch] = {}
        self._strangers: dict[int, Connection] = {}
        self._entrances: frozenset[tuple[str, int]] = frozenset()
        self._chains: dict[str, _Chain] = {}
        self._host_rules = 0

    # --- the adapter's side

    def attach(self, dpid: int, connection: Connection) -> None:
        """A switch connected: give it what it shall have, in place of what it has of ours."""
        with self._changed:
            switch = self._switches.get(dpid)
            name = None if switch is None else switch.end.name
            self._events.write("switch-connected", switch=name, dpid=dpid)
            if switch is None:
                self._strangers[dpid] = connection
                connection.replace([])
            else:
                self._fill(switch, connection)

    def detach(self, dpid: int, connection: Connection) -> None:
        """A connection ended; a newer one of the same switch stays."""
        with self._changed:
            if self._strangers.get(dpid) is connection:
                del self._strangers[dpid]
            switch = self._switches.get(dpid)
            if switch is not None and switch.connection is connection:
                switch.connection = None
                self._events.write("switch-disconnected", switch=switch.end.name, dpid=dpid)
                self._changed.notify_all()

    def confirmed(self, dpid: int, connection: Connection, xid: int) -> None:
        """A switch answered a barrier."""
        with self._changed:
            switch = self._current(dpid, connection)
            if switch is None or xid not in switch.barriers:
                return
            switch.barriers.remove(xid)
            switch.confirmed = max(switch.confirmed, switch.waiting[xid])
            switch.waiting = {x: v for x, v in switch.waiting.items() if v > switch.confirmed}
            self._changed.notify_all()

    def failed(self, dpid: int, connection: Connection, xid: int, text: str) -> None:
        """A switch answered a message with an error."""
        with self._changed:
            switch = self._current(dpid, connection)
            if switch is None or xid not in switch.waiting:
                return
            switch.failures.setdefault(switch.waiting[xid], text)
            self._events.write("rules-refused", switch=switch.end.name, error=text)
            self._changed.notify_all()

    def _current(self, dpid: int, connection: Connection) -> Switch | None:
        switch = self._switches.get(dpid)
        return switch if switch is not None and switch.connection is connection else None

    def _fill(self, switch: Switch, connection: Connection) -> None:
        switch.connection = connection
        switch.version += 1
        switch.waiting.clear()
        switch.barriers.clear()
        switch.failures.clear()
        switch.sent(connection.replace(whole(switch.table)))

    # --- the northbound side

    def set_topology(self, wiring: Wiring) -> int:
        """Take the wiring and fill the switches with host rules; returns how many rules.

        The rules of a switch that is not connected yet are sent when it connects. Raises
        WiringError, or FabricError where chains are on another topology.
        """
        network = make_network(wiring)
        rules = host_rules(network)
        with self._one_at_a_time, self._changed:
            if self._network is not None and self._network.wiring == wiring:
                return self._host_rules
            if self._chains:
                raise FabricError("topology: expected no chains, remove them first")
            connected = dict(self._strangers)
            for dpid, switch in self._switches.items():
                if switch.connection is not None:
                    connected[dpid] = switch.connection
            self._network, self._host_rules = network, len(rules)
            self._entrances = frozenset((host.switch, host.port) for host in wiring.hosts)
            self._switches = {end.dpid: Switch(end) for end in wiring.switches}
            for switch in self._switches.values():
                mine = by_match(r for r in rules if r.match.switch == switch.end.name)
                switch.table, _ = change(EMPTY, mine)
                connection = connected.pop(switch.end.dpid, None)
                if connection is not None:
                    self._fill(switch, connection)
            self._strangers = connected
            for stranger in connected.values():
                stranger.replace([])
            return self._host_rules

    def wait_ready(self, timeout_s: float) -> int:
        """Return when all switches are connected and have confirmed; how many there are.

        Raises FabricError that names the switches after `timeout_s`, or one that refused.
        """
        with self._changed:
            self._known_network()
            self._changed.wait_for(lambda: not self._missing() or self._refusals(), timeout_s)
            if refusals := self._refusals():
                raise FabricError("; ".join(refusals))
            if missing := self._missing():
                raise FabricError(f"after {timeout_s} s not ready: {', '.join(missing)}")
            self._events.write(
                "topology-confirmed", switches=len(self._switches), rules=self._host_rules
            )
            return len(self._switches)

    def install(self, chain: str, segments: Sequence[Segment]) -> Installed:
        """Install or update a chain, make before break; returns when all is confirmed.

        Rules that frames no longer come to are deleted some time after that. Raises SegmentError,
        or FabricError if a switch refuses or does not confirm: while rules are added the chain is
        put back to what it was, later it stays as it was asked for.
        """
        with self._one_at_a_time:
            network = self._known_network()
            self._check_free(chain, segments)
            rules = by_match(chain_rules(network, segments))
            held = self._chains.get(chain, _NO_CHAIN)
            inner, joined, narrowed, _ = make_rounds(held.present, rules, self._entrances)
            sent_ns = time.monotonic_ns()
            self._events.write("rules-sent", t_ns=sent_ns, chain=chain, rules=len(rules))
            try:
                self._round(held.present, inner)
                self._round(inner, joined)
            except FabricError:
                self._send_round(joined, held.present)
                raise
            self._keep(chain, _Chain(tuple(segments), rules, narrowed, held.updates + 1))
            if joined != narrowed:
                # Frames that left before are still on their way to old targets.
                former_ns = longest_path_ns(network, held.segments)
                time.sleep(self._settle_s + former_ns / NS_PER_S)
                self._round(joined, narrowed)
            confirmed_ns = time.monotonic_ns()
            self._events.write("rules-confirmed", t_ns=confirmed_ns, chain=chain, rules=len(rules))
            if narrowed != rules:
                self._later(functools.partial(self._sweep, chain, held.updates + 1))
            path_ns = round(longest_path_ns(network, segments))
            return Installed(len(rules), sent_ns, confirmed_ns, path_ns)

    def remove(self, chain: str) -> int:
        """Delete a chain's rules; returns how many. Raises FabricError."""
        with self._one_at_a_time:
            if chain not in self._chains:
                raise FabricError(f"chain = {chain!r}: expected one that is installed")
            held = self._chains[chain]
            self._keep(chain, None)
            self._events.write("rules-sent", chain=chain, rules=0)
            self._round(held.present, {})
            self._events.write("rules-confirmed", chain=chain, rules=0)
            return len(held.rules)

    def _keep(self, chain: str, held: _Chain | None) -> None:
        with self._changed:
            if held is None:
                del self._chains[chain]
            else:
                self._chains[chain] = held

    def _sweep(self, chain: str, update: int) -> None:
        """Delete what an update left over, unless the chain was updated or removed since."""
        with self._one_at_a_time:
            held = self._chains.get(chain)
            if held is None or held.updates != update:
                return
            self._keep(chain, replace(held, present=held.rules))
            stale = len(held.present) - len(held.rules)
            try:
                self._round(held.present, held.rules)
            except FabricError as error:
                self._events.write("sweep-failed", chain=chain, error=str(error))
                return
            self._events.write("rules-swept", chain=chain, rules=stale)

    def status(self) -> dict[str, object]:
        """Which switches are connected and how many rules each chain has."""
        with self._changed:
            return {
                "switches": {
                    switch.end.name: {
                        "connected": switch.connection is not None,
                        "confirmed": switch.confirmed == switch.version,
                        "rules": len(switch.table.rules),
                        "groups": len(switch.table.groups),
                    }
                    for switch in self._switches.values()
                },
                "chains": {chain: len(held.rules) for chain, held in self._chains.items()},
                "host_rules": self._host_rules,
            }

    # --- rounds

    def _round(self, old: Rules, new: Rules) -> None:
        """Change rules on every switch that they touch and wait until all have confirmed."""
        with self._changed:
            self._confirm(self._send_round(old, new))

    def _send_round(self, old: Rules, new: Rules) -> dict[int, int]:
        """Send what differs; the version that each touched switch (by dpid) shall confirm."""
        with self._changed:
            versions = {}
            for switch in self._switches.values():
                name = switch.end.name
                gone = {m for m in old if m.switch == name and m not in new}
                rules = {m: o for m, o in switch.table.rules.items() if m not in gone}
                rules |= {m: o for m, o in new.items() if m.switch == name}
                switch.table, messages = change(switch.table, rules)
                if messages:
                    switch.version += 1
                    versions[switch.end.dpid] = switch.version
                    if switch.connection is not None:
                        switch.sent(switch.connection.send(messages))
            return versions

    def _confirm(self, versions: Mapping[int, int]) -> None:
        switches = [(self._switches[dpid], version) for dpid, version in versions.items()]

        def late() -> list[str]:
            return [s.end.name for s, version in switches if s.confirmed < version]

        def refused() -> list[str]:
            return failures(switches)

        self._changed.wait_for(lambda: refused() or not late(), self._confirm_s)
        if texts := refused():
            raise FabricError("; ".join(texts))
        if names := late():
            raise FabricError(f"no barrier reply within {self._confirm_s} s: {', '.join(names)}")

    def _missing(self) -> list[str]:
        return [
            s.end.name
            for s in self._switches.values()
            if s.connection is None or s.confirmed < s.version
        ]

    def _refusals(self) -> list[str]:
        return failures((switch, switch.version) for switch in self._switches.values())

    def _known_network(self) -> Network:
        if self._network is None:
            raise FabricError("topology: expected before this request, none was given")
        return self._network

    def _check_free(self, chain: str, segments: Iterable[Segment]) -> None:
        owners = {
            segment.mac: name
            for name, held in self._chains.items()
            for segment in held.segments
            if name != chain
        }
        for number, segment in enumerate(segments):
            if segment.mac in owners:
                raise SegmentError(
                    f"segments.{number}.mac = {segment.mac!r}: expected a free address, "
                    f"chain {owners[segment.mac]!r} has it"
                )
