"""A network of OpenFlow tables in memory: applies messages, forwards frames. Tests only."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from controller.rules import IN_PORT, Match
from controller.update import AddGroup, Barrier, DeleteFlow, DeleteGroup, Message, SetFlow
from controller.wiring import Wiring

MAX_FRAMES = 100_000


class OpenFlowError(Exception):
    """A switch refuses a message."""


class LoopError(Exception):
    """Frames go on and on."""


class SwitchTable:
    """One switch: flows by match, groups of type ALL by number."""

    def __init__(self) -> None:
        self.flows: dict[Match, SetFlow] = {}
        self.groups: dict[int, tuple[int, ...]] = {}

    def apply(self, message: Message) -> None:
        match message:
            case AddGroup(group_id, outputs):
                if group_id in self.groups:
                    raise OpenFlowError(f"group {group_id} exists")
                self.groups[group_id] = outputs
            case SetFlow(match, _, group_id):
                if group_id is not None and group_id not in self.groups:
                    raise OpenFlowError(f"no group {group_id}")
                self.flows[match] = message
            case DeleteFlow(match):
                self.flows.pop(match, None)
            case DeleteGroup(group_id):
                self.groups.pop(group_id, None)
                # OpenFlow 1.3, 6.4: flows that use a deleted group go with it.
                self.flows = {m: f for m, f in self.flows.items() if f.group_id != group_id}
            case Barrier():
                pass

    def outputs(self, in_port: int, eth_dst: str) -> list[int]:
        """The ports that a frame leaves by."""
        hits = [
            flow
            for match, flow in self.flows.items()
            if match.eth_dst == eth_dst and match.in_port in (None, in_port)
        ]
        if not hits:
            return []
        best = max(hits, key=lambda flow: flow.match.priority)
        ports: tuple[int, ...] = ()
        if best.group_id is not None:
            ports = self.groups[best.group_id]
        elif best.port is not None:
            ports = (best.port,)
        # A frame goes back where it came from by IN_PORT only.
        return [in_port if port == IN_PORT else port for port in ports if port != in_port]


class Plant:
    """All switches, cabled."""

    def __init__(self, wiring: Wiring) -> None:
        self.wiring = wiring
        self.tables = {switch.name: SwitchTable() for switch in wiring.switches}
        self.peer: dict[tuple[str, int], tuple[str, int]] = {}
        for link in wiring.links:
            self.peer[link.a, link.a_port] = (link.b, link.b_port)
            self.peer[link.b, link.b_port] = (link.a, link.a_port)
        self.missed: list[tuple[str, int, str]] = []
        self.host_at = {(host.switch, host.port): host.name for host in wiring.hosts}

    def apply(self, messages: Mapping[str, Sequence[Message]]) -> None:
        for switch, each in messages.items():
            for message in each:
                self.tables[switch].apply(message)

    def deliver(self, source: str, eth_dst: str) -> Counter[str]:
        """How many copies of a frame from `source` each host gets. Raises LoopError."""
        host = self.wiring.host(source)
        got: Counter[str] = Counter()
        frames, handled = [(host.switch, host.port)], 0
        while frames:
            switch, in_port = frames.pop()
            handled += 1
            if handled > MAX_FRAMES:
                raise LoopError(f"{eth_dst} from {source}")
            outputs = self.tables[switch].outputs(in_port, eth_dst)
            if not outputs:
                self.missed.append((switch, in_port, eth_dst))
            for port in outputs:
                if (switch, port) in self.host_at:
                    got[self.host_at[switch, port]] += 1
                else:
                    frames.append(self.peer[switch, port])
        return got
