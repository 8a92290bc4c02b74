"""Groups that share linearizable records, over a network that loses, repeats and reorders.

Everything but network and clock is the product's: members, `SharedRecords` of each, `ChangeFeed`
and `Records` of the FDU's leader, whose log is taken for committed. What happens is drawn from a
seed. A history has when each packet first arrived, when it first went out, and its ticket.
"""

from __future__ import annotations

import json
import random
from dataclasses import dataclass, field
from typing import Any

from testbed.orchestration.detection.change_feed import ChangeFeed
from testbed.orchestration.detection.group_records import Records
from testbed.vnf.process.shared_records import SharedRecords
from testbed.vnf.replication.member import SHARED_INDEX
from tests.protocol.driver import MS, Node, replication
from tests.protocol.tickets import draw_ticket, new_ticket_state

GROUPS, MEMBERS, FLOWS = 3, 3, 3
SCOPE = "tickets"
STEP_NS = MS // 10
LOST, REPEATED = 0.1, 0.1
DRAIN_STEPS = 20_000

Name = tuple[int, int, int, int]
"""Group, and the packet's flow, epoch and sequence number."""


@dataclass(slots=True)
class Group:
    """A replica group of the world; `epoch` and `primary` are what the FDU says."""

    number: int
    nodes: list[Node]
    shared: list[SharedRecords]
    epoch: int = 1
    primary: int = 0
    alive: list[bool] = field(default_factory=lambda: [True] * MEMBERS)
    next_seq: list[int] = field(default_factory=lambda: [0] * FLOWS)

    @property
    def name(self) -> str:
        """As the FDU knows it."""
        return f"g{self.number}"


class SharedWorld:
    """Draws and carries out `steps` steps, with at most one crash in each group; then calm."""

    def __init__(self, seed: int, *, shared: bool = True) -> None:
        self.random = random.Random(seed)
        self.now_ns = MS
        self.arrived: dict[Name, int] = {}
        self.left: dict[Name, int] = {}
        self.tickets: dict[Name, set[int]] = {}
        self.seen: dict[int, list[tuple[int, int]]] = {number: [] for number in range(GROUPS)}
        self.flying: list[tuple[Any, ...]] = []
        self.calm = False
        self.clock = 0
        self.records = Records()
        self.feed = ChangeFeed(self.records, self._order)
        self.groups = [self._group(number, shared) for number in range(GROUPS)]

    def _group(self, number: int, shared: bool) -> Group:
        config = replication(shared=shared, buffer_packets=256)  # nothing is declared lost
        nodes = [
            Node(member, config, draw_ticket, new_ticket_state(), number)
            for member in range(MEMBERS)
        ]
        clients = [
            SharedRecords(
                f"g{number}-m{member}",
                f"g{number}",
                SCOPE,
                node.member,
                draw_ticket,
                lambda data: self._send("ask", json.loads(data)),
            )
            for member, node in enumerate(nodes)
        ]
        infos = {
            member: {"name": f"g{number}-m{member}", "control_socket": f"{number} {member}"}
            for member in range(MEMBERS)
        }
        command = {"op": "create-group", "group": f"g{number}", "members": infos, "primary": 0}
        answer = self.records.apply({**command, "backups": [1, 2], "scope": SCOPE}).answer
        assert answer["ok"], answer
        for node in nodes:
            node.now_ns = self.now_ns
            node.configure(1, 0, 0b110)
        return Group(number, nodes, clients)

    # ------------------------------------------------------------------------------ network

    def _send(self, *message: Any) -> None:
        if not self.calm and self.random.random() < LOST:
            return
        self.flying.append(message)
        if not self.calm and self.random.random() < REPEATED:
            self.flying.append(message)

    def _order(self, socket: str, order: dict[str, Any]) -> None:
        group, member = (int(part) for part in socket.split())
        self._send("order", group, member, json.loads(json.dumps(order)))

    def _deliver(self) -> None:
        if not self.flying:
            return
        kind, *rest = self.flying.pop(self.random.randrange(len(self.flying)))
        if kind == "ask":
            (command,) = rest
            self.records.apply(command)
            self.feed.asked(command, self.now_ns)
        elif kind == "order":
            number, member, order = rest
            group = self.groups[number]
            if group.alive[member]:
                self._taken(group.shared[member], order)
        else:
            number, member, words = rest
            group = self.groups[number]
            if group.alive[member]:
                group.nodes[member].read(words)

    def _taken(self, client: SharedRecords, order: dict[str, Any]) -> None:
        client.granted(order, self.now_ns)

    # ------------------------------------------------------------------------------- events

    def run(self, steps: int) -> None:
        """Draw `steps` steps, then let everything that has arrived go out."""
        for _ in range(steps):
            self._step()
        self.calm = True
        for _ in range(DRAIN_STEPS):
            if len(self.left) == len(self.arrived) and not self.flying:
                break
            self._turn(self.random.choice(self.groups))
            for _ in range(8):
                self._deliver()
        self._heartbeats()

    def _heartbeats(self) -> None:
        """Let every primary hear of the last changes."""
        for group in self.groups:
            for _ in range(4):
                self._beat(group)
                while self.flying:
                    self._deliver()

    def _step(self) -> None:
        group = self.random.choice(self.groups)
        draw = self.random.random()
        if draw < 0.10:
            self._arrive(group)
        elif draw < 0.55:
            self._turn(group)
        elif draw < 0.995:
            self._deliver()
        elif draw < 0.998:
            self._crash(group)
        else:
            # The FDU has another leader: it was told nothing by heartbeats yet.
            self.feed = ChangeFeed(self.records, self._order)

    def _arrive(self, group: Group) -> None:
        flow = self.random.randrange(FLOWS)
        seq = group.next_seq[flow]
        if seq > 60:
            return
        group.next_seq[flow] = seq + 1
        self.arrived[group.number, flow, 0, seq] = self._tick()
        for node, alive in zip(group.nodes, group.alive, strict=True):
            if alive:
                node.packet(flow, seq)

    def _turn(self, group: Group) -> None:
        """A process of the group gets its turn."""
        self.now_ns += STEP_NS
        member = self.random.choice([m for m in range(MEMBERS) if group.alive[m]])
        node, client = group.nodes[member], group.shared[member]
        node.now_ns = self.now_ns
        if node.due_ns() <= self.now_ns:
            node.time()
        node.idle()
        if node.asks():
            client.ask(self.now_ns)
        client.check(self.now_ns)
        for to in range(MEMBERS):
            for words in node.take_all(to):
                self._send("member", group.number, to, words)
        if member == group.primary:
            self._emit(group, node)
            if self.random.random() < 0.2:
                self._beat(group)

    def _beat(self, group: Group) -> None:
        record = self.records.groups[group.name]
        index = group.nodes[group.primary][SHARED_INDEX]
        name = f"{group.name}-m{group.primary}"
        self.feed.heard(name, record, index, self.now_ns, 5 * STEP_NS)

    def _emit(self, group: Group, node: Node) -> None:
        for _, _, _, data in node.emit():
            name = (group.number, data[0], data[1], data[2])
            self.left.setdefault(name, self._tick())
            self.tickets.setdefault(name, set()).add(data[-3] << 8 | data[-2])
            self.seen[group.number].append((group.epoch, data[-1]))

    def _crash(self, group: Group) -> None:
        if not all(group.alive):
            return
        group.alive[group.primary] = False
        record = self.records.groups[group.name]
        vote = {"op": "vote", "group": group.name, "epoch": record.epoch, "member": group.primary}
        self.records.apply({**vote, "voter": 0, "confirmed": True, "majority": 1})
        configuration = record.configuration()
        group.primary, group.epoch = configuration["primary"], configuration["epoch"]
        for member, node in enumerate(group.nodes):
            if group.alive[member]:
                node.now_ns = self.now_ns
                backups = sum(1 << number for number in configuration["backups"])
                node.configure(group.epoch, group.primary, backups)

    def _tick(self) -> int:
        self.clock += 1
        return self.clock


def violations(world: SharedWorld) -> list[str]:
    """What is wrong with a history (G5), and with the records that it left."""
    found = []
    if len(world.left) != len(world.arrived):
        found.append(f"{len(world.arrived) - len(world.left)} packets never went out")
    found += [f"{name} has tickets {t}" for name, t in world.tickets.items() if len(t) != 1]
    ticket = {name: min(tickets) for name, tickets in world.tickets.items()}
    if sorted(ticket.values()) != list(range(1, len(ticket) + 1)):
        found.append("tickets are not 1 to n, each once")
    latest = 0
    # A packet that arrived after another had gone out has a higher ticket.
    events = [(at, False, name) for name, at in world.left.items()]
    events += [(world.arrived[name], True, name) for name in world.left]
    least: dict[Name, int] = {}
    for _, begins, name in sorted(events):
        if begins:
            least[name] = latest
        else:
            if ticket[name] <= least[name]:
                found.append(f"{name}: ticket {ticket[name]}, but {least[name]} was out before")
            latest = max(latest, ticket[name])
    return found + _records(world)


def _records(world: SharedWorld) -> list[str]:
    found = []
    state = world.records.shared.get(SCOPE)
    wanted = {} if state is None else state.records
    for group in world.groups:
        node = group.nodes[group.primary]
        shared = {key: value for key, value in node.state().items() if key[0] >> 56 >= 0x60}
        if shared != wanted:
            found.append(f"{group.name}: its shared records are not those of the majority")
        count = [value[0] for key, value in node.state().items() if key[0] >> 56 == 1]
        handled = sum(1 for name in world.arrived if name[0] == group.number)
        if count != ([handled] if handled else []):
            found.append(f"{group.name}: counted {count} packets, handled {handled}")
    return found
