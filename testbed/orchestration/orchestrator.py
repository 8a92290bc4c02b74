"""One run's timeline: requests come and go, the load steps, a server dies, backups take over."""

from __future__ import annotations

import contextlib
import json
import select
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agents.common.policy import Policy
from testbed.orchestration import chain, deploy, reconfigure, users
from testbed.orchestration.deploy import Chain
from testbed.orchestration.reconfigure import ReconfigurationError
from testbed.orchestration.servers import start_servers
from testbed.orchestration.site import Site
from testbed.scenario.placement import Ledger
from testbed.scenario.types import NS_PER_S, Fault, Move, Placement, Request, load_factor
from testbed.vnf.control import ControlSocket

LEAD_S = 0.5
"""From the start of the senders to the origin of the run's clock."""
POLL_S = 0.05
REPLACE_AGAIN_S = 1.0
"""Until a new backup is looked for again that could not be had."""


@dataclass(frozen=True, order=True, slots=True)
class Step:
    """Something that is due at `at_ns` after the run's origin; `rank` orders equal times."""

    at_ns: int
    rank: int
    what: str
    number: int = -1
    """Of the request, or of the move."""


def timeline(
    requests: tuple[Request, ...],
    load_steps: tuple[tuple[int, float], ...],
    moves: tuple[Move, ...],
    duration_ns: int,
    drain_ns: int,
) -> list[Step]:
    """The steps of a run that are known before it begins, in order.

    Requests that arrive at time 0 are deployed before the clock starts and are not listed.
    """
    steps = [Step(at_ns, 0, "load-step") for at_ns, _ in load_steps]
    steps += [Step(move.at_ns, 3, "move", number) for number, move in enumerate(moves)]
    for request in requests:
        if request.arrival_ns > 0:
            steps.append(Step(request.arrival_ns, 2, "arrival", request.id))
        if request.end_ns + drain_ns < duration_ns:
            steps.append(Step(request.end_ns + drain_ns, 1, "departure", request.id))
    return sorted([*steps, Step(duration_ns + drain_ns, 4, "end")])


class Orchestrator:
    """Carries out a plan with one policy. `progress` is told the seconds that have passed."""

    def __init__(
        self,
        site: Site,
        policy: Policy,
        ledger: Ledger,
        schedules: Mapping[int, str],
        server_down: Callable[[int], None],
        progress: Callable[[float], None],
    ) -> None:
        self._site = site
        self._policy = policy
        self._ledger = ledger
        self._schedules = schedules
        self._server_down = server_down
        self._progress = progress
        self._chains: dict[int, Chain] = {}
        self._news = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._news.setblocking(False)
        self._epochs: dict[str, int] = {}
        self._to_replace: deque[tuple[int, int, int]] = deque()
        """When, and for which function of which request, a new backup is looked for."""
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._instances_at: dict[int, list[str]] = {}
        self.origin_ns = 0
        self.headless = False
        """The controller is gone: what the FDU says is noted, rules and backups stay."""

    @staticmethod
    def notify_socket(sockets: Path) -> str:
        """Where the FDU tells what it did."""
        return str(sockets / "news.sock")

    def instances_at(self, node: int) -> list[str]:
        """The instances that were started at a node."""
        with self._lock:
            return list(self._instances_at.get(node, ()))

    @property
    def chains(self) -> Mapping[int, Chain]:
        """The chains that are deployed now, by request."""
        return self._chains

    @property
    def is_settled(self) -> bool:
        """Whether no group waits for a new backup."""
        return not self._to_replace

    def run(self) -> None:
        """Deploy, let the traffic pass with what the plan has in store, take everything off."""
        with self.under_way():
            faults = threading.Thread(target=self._faults, name="faults", daemon=True)
            faults.start()
            try:
                self._follow(round(self._site.scenario.traffic.drain_s * NS_PER_S))
            finally:
                self._ended.set()
                faults.join()

    @contextlib.contextmanager
    def under_way(self) -> Iterator[None]:
        """Deploy what is asked for at time 0 and start the traffic; `attend` has to be called."""
        site, plan = self._site, self._site.plan
        self._news.bind(self.notify_socket(site.sockets))
        self._orders = ControlSocket(site.socket("run"), {"move": self._order_move})
        with contextlib.closing(self._news), contextlib.closing(self._orders):
            start_servers(site)
            users.start_edges(site)
            for request in plan.requests:
                if request.arrival_ns == 0:
                    self._arrival(request)
            self.origin_ns = time.monotonic_ns() + round(LEAD_S * NS_PER_S)
            users.start_traffic(site, self.origin_ns)
            for request in plan.requests:
                users.start_stream(site, request, self._schedules[request.id])
            site.events.write("run-start", t_ns=self.origin_ns)
            yield
            site.events.write("run-end")

    def _follow(self, drain_ns: int) -> None:
        plan = self._site.plan
        requests = {request.id: request for request in plan.requests}
        steps = timeline(plan.requests, plan.load_steps, plan.moves, plan.duration_ns, drain_ns)
        for step in steps:
            self.attend(self.origin_ns + step.at_ns)
            if step.what == "arrival":
                self._arrival(requests[step.number])
            elif step.what == "departure":
                self._departure(step.number)
            elif step.what == "move":
                self._move(plan.moves[step.number])
            elif step.what == "load-step":
                self._ledger.load_factor = load_factor(plan, step.at_ns)
                self._site.events.write("load-step", factor=self._ledger.load_factor)

    def attend(self, due_ns: int) -> None:
        """Take the FDU's news and orders until `due_ns`, and all that has come in any case."""
        orders = self._orders
        while True:
            left_ns = due_ns - time.monotonic_ns()
            replace = bool(self._to_replace) and self._to_replace[0][0] <= time.monotonic_ns()
            timeout_s = 0.0 if replace else max(0.0, min(POLL_S, left_ns / NS_PER_S))
            news, asked = self._news.fileno(), orders.fileno()
            ready = select.select([news, asked], (), (), timeout_s)[0]
            if news in ready:
                self._on_news(json.loads(self._news.recv(65536)))
            elif asked in ready:
                orders.serve()
            elif left_ns <= 0:
                return
            elif replace:
                self._replace(*self._to_replace.popleft()[1:])
            self._progress((time.monotonic_ns() - self.origin_ns) / NS_PER_S)

    def _arrival(self, request: Request) -> None:
        events = self._site.events
        events.write("request", request=request.id, chain=request.chain, due_ns=request.arrival_ns)
        begin_ns = time.monotonic_ns()
        placements: list[Placement] = []
        while len(placements) < len(request.functions):
            choice = self._policy.decide(self._ledger.observe(request, placements))
            if choice is None:
                break
            placements.append(choice)
        accepted = len(placements) == len(request.functions)
        events.write(
            "decision",
            request=request.id,
            chain=request.chain,
            accepted=accepted,
            placements=[[p.primary, p.backup] for p in placements] if accepted else [],
            decide_ns=time.monotonic_ns() - begin_ns,
        )
        if not accepted:
            return
        self._ledger.add(request, placements)
        with self._lock:
            for hop, placement in enumerate(placements):
                for member, node in enumerate((placement.primary, placement.backup)):
                    if node is not None:
                        names = self._instances_at.setdefault(node, [])
                        names.append(chain.instance_name(request.id, hop, member))
        self._deploy(request, placements)

    def _deploy(self, request: Request, placements: list[Placement]) -> None:
        events, begin_ns = self._site.events, time.monotonic_ns()
        try:
            self._chains[request.id] = deploy.deploy(self._site, request, placements)
        except deploy.DeployError as error:
            # A server died and nobody knew yet: the request is not served, the run goes on.
            events.write("deploy-failed", request=request.id, error=str(error))
            self._ledger.remove(request.id)
            return
        events.write("chain-ready", request=request.id, deploy_ns=time.monotonic_ns() - begin_ns)

    def _departure(self, request: int) -> None:
        deployed = self._chains.pop(request, None)
        if deployed is None:
            return
        deploy.remove(self._site, deployed)
        self._ledger.remove(request)
        with self._lock:
            for names in self._instances_at.values():
                names[:] = [name for name in names if name not in deployed.instances]
        self._site.events.write("chain-removed", request=request)

    def _on_news(self, news: dict[str, Any]) -> None:
        """The FDU changed a group, or lost a server; each of its members says so."""
        group = news["group"]
        if self._epochs.get(group, 0) >= news["epoch"]:
            return
        self._epochs[group] = news["epoch"]
        if group.startswith("server-"):
            if news["failed"] == group:
                self._ledger.server_down(int(group.removeprefix("server-")))
            return
        request, hop = (int(part[1:]) for part in group.split("-"))
        deployed = self._chains.get(request)
        if deployed is None:
            return
        # Of every change: what a move did since may be behind a failure that is only read now.
        if news["primary"] is not None:
            deployed.primaries[hop] = news["primary"]
        if news["failed"] is not None:
            self._member_failed(deployed, hop, news)

    def _member_failed(self, deployed: Chain, hop: int, news: dict[str, Any]) -> None:
        """Take a failed member out of rules and ledger; a new backup is looked for later."""
        deployed.members[hop].pop(int(news["failed"].rpartition("-m")[2]), None)
        if self.headless:
            return
        deploy.install(self._site, deployed)
        self._note_placements(deployed)
        replication = self._site.scenario.replication
        protected = replication.mode != "none" and news["primary"] is not None
        if protected and replication.replace_backups and not news["backups"]:
            self._to_replace.appendleft((0, deployed.request.id, hop))

    def _note_placements(self, deployed: Chain) -> None:
        left = chain.placements_left(deployed.members, deployed.primaries)
        if left is None:
            self._ledger.remove(deployed.request.id)
        else:
            self._ledger.add(deployed.request, left)

    def _replace(self, request: int, hop: int) -> None:
        """Give a group that lost its backup a new one, where the policy would put it."""
        deployed = self._chains.get(request)
        if deployed is None or len(deployed.members[hop]) != 1:
            return
        events, group = self._site.events, chain.group_name(request, hop)
        node = self._node_for_backup(deployed, hop)
        if node is None:
            self._replace_later(request, hop, "the policy found no other node")
            return
        begin_ns = time.monotonic_ns()
        try:
            number = reconfigure.add_member(self._site, deployed, hop, node)
        except ReconfigurationError as error:
            self._replace_later(request, hop, str(error))
            return
        self._started(deployed, hop, number, node)
        took_ns = time.monotonic_ns() - begin_ns
        events.write("new-backup", group=group, member=number, node=node, start_ns=took_ns)

    def _replace_later(self, request: int, hop: int, error: str) -> None:
        """No new backup now: say so, and try again when servers may have changed."""
        group = chain.group_name(request, hop)
        self._site.events.write("no-new-backup", group=group, error=error)
        due_ns = time.monotonic_ns() + round(REPLACE_AGAIN_S * NS_PER_S)
        self._to_replace.append((due_ns, request, hop))

    def _node_for_backup(self, deployed: Chain, hop: int) -> int | None:
        """What the policy chooses for this function, but for the node of the primary."""
        placed = chain.placements_left(deployed.members, deployed.primaries)
        if placed is None:
            return None
        choice = self._policy.decide(self._ledger.observe(deployed.request, placed[:hop]))
        taken = set(deployed.members[hop].values())
        nodes = (choice.backup, choice.primary) if choice is not None else ()
        return next((node for node in nodes if node is not None and node not in taken), None)

    def _started(self, deployed: Chain, hop: int, number: int, node: int) -> None:
        """Note a member that was started while the chain runs."""
        name = chain.instance_name(deployed.request.id, hop, number)
        with self._lock:
            self._instances_at.setdefault(node, []).append(name)
        self._note_placements(deployed)

    def _move(self, planned: Move) -> None:
        """Carry out a move of the plan; one that cannot be is an event, and the run goes on."""
        with contextlib.suppress(ReconfigurationError):
            self.move_instance(planned.request, planned.function, planned.node)

    def _order_move(self, order: dict[str, Any]) -> dict[str, Any]:
        """{"request", "function", "to": the name of a node}: move the function's primary there."""
        try:
            node = self._site.plan.topology.index_of(str(order["to"]))
        except KeyError:
            names = [node.name for node in self._site.plan.topology.nodes]
            raise ValueError(f"to = {order['to']!r}: expected one of {names}") from None
        try:
            return self.move_instance(int(order["request"]), int(order["function"]), node)
        except ReconfigurationError as error:
            raise ValueError(str(error)) from error

    def server_back(self, node: int) -> None:
        """A server that was down can host instances again."""
        self._epochs.pop(chain.server_name(node), None)
        self._ledger.server_up(node)

    def move_instance(self, request: int, hop: int, node: int) -> dict[str, Any]:
        """Move a function's primary to a node; raises ReconfigurationError."""
        events = self._site.events
        deployed = self._chains.get(request)
        try:
            if deployed is None or hop not in deployed.members:
                raise ReconfigurationError(f"request {request}, function {hop}: not deployed now")
            events.write("move-begin", request=request, function=hop, node=node)
            moved = reconfigure.move(self._site, deployed, hop, node)
        except ReconfigurationError as error:
            events.write("move-failed", request=request, function=hop, node=node, error=str(error))
            raise
        self._started(deployed, hop, moved["member"], node)
        events.write("moved", request=request, function=hop, node=node, **moved)
        return moved

    def _faults(self) -> None:
        for fault in self._site.plan.faults:
            left_s = (self.origin_ns + fault.at_ns - time.monotonic_ns()) / NS_PER_S
            if self._ended.wait(max(0.0, left_s)):
                return
            self._inject(fault)

    def _inject(self, fault: Fault) -> None:
        # The interface goes first: a real server's death sends no farewell to its peers.
        self._server_down(fault.node)
        t_ns = time.monotonic_ns()
        name = chain.server_name(fault.node)
        self._site.spawner.kill([name, *self.instances_at(fault.node)])
        self._site.events.write("fault", t_ns=t_ns, kind=fault.kind, node=fault.node)
