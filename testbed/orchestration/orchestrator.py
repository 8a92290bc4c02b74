"""One run's timeline: requests come and go, the load steps, a server dies, backups take over."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agents.common.policy import Policy
from testbed.orchestration import chain, deploy
from testbed.orchestration.deploy import Chain, Site
from testbed.scenario.placement import Ledger
from testbed.scenario.types import NS_PER_S, Fault, Placement, Request, load_factor

LEAD_S = 0.5
"""From the start of the senders to the origin of the run's clock."""
POLL_S = 0.05


@dataclass(frozen=True, order=True, slots=True)
class Step:
    """Something that is due at `at_ns` after the run's origin; `rank` orders equal times."""

    at_ns: int
    rank: int
    what: str
    request: int = -1


def timeline(
    requests: tuple[Request, ...],
    load_steps: tuple[tuple[int, float], ...],
    duration_ns: int,
    drain_ns: int,
) -> list[Step]:
    """The steps of a run that are known before it begins, in order.

    Requests that arrive at time 0 are deployed before the clock starts and are not listed.
    """
    steps = [Step(at_ns, 0, "load-step") for at_ns, _ in load_steps]
    for request in requests:
        if request.arrival_ns > 0:
            steps.append(Step(request.arrival_ns, 2, "arrival", request.id))
        if request.end_ns + drain_ns < duration_ns:
            steps.append(Step(request.end_ns + drain_ns, 1, "departure", request.id))
    return sorted([*steps, Step(duration_ns + drain_ns, 3, "end")])


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
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._instances_at: dict[int, list[str]] = {}
        self.origin_ns = 0

    @staticmethod
    def notify_socket(sockets: Path) -> str:
        """Where the FDU tells what it did."""
        return str(sockets / "news.sock")

    def instances_at(self, node: int) -> list[str]:
        """The instances that were started at a node."""
        with self._lock:
            return list(self._instances_at.get(node, ()))

    def run(self) -> None:
        """Deploy, let the traffic pass, take everything off again."""
        site, plan = self._site, self._site.plan
        self._news.bind(self.notify_socket(site.sockets))
        deploy.start_servers(site)
        deploy.start_edges(site)
        for request in plan.requests:
            if request.arrival_ns == 0:
                self._arrival(request)
        self.origin_ns = time.monotonic_ns() + round(LEAD_S * NS_PER_S)
        deploy.start_traffic(site, self.origin_ns)
        for request in plan.requests:
            deploy.start_stream(site, request, self._schedules[request.id])
        site.events.write("run-start", t_ns=self.origin_ns)
        faults = threading.Thread(target=self._faults, name="faults", daemon=True)
        faults.start()
        try:
            self._follow(round(site.scenario.traffic.drain_s * NS_PER_S))
        finally:
            self._ended.set()
            faults.join()
            self._news.close()
        site.events.write("run-end")

    def _follow(self, drain_ns: int) -> None:
        plan = self._site.plan
        requests = {request.id: request for request in plan.requests}
        for step in timeline(plan.requests, plan.load_steps, plan.duration_ns, drain_ns):
            self._wait_until(self.origin_ns + step.at_ns)
            if step.what == "arrival":
                self._arrival(requests[step.request])
            elif step.what == "departure":
                self._departure(step.request)
            elif step.what == "load-step":
                self._ledger.load_factor = load_factor(plan, step.at_ns)
                self._site.events.write("load-step", factor=self._ledger.load_factor)

    def _wait_until(self, due_ns: int) -> None:
        """Take the FDU's news until `due_ns`, and all that has come in any case."""
        while True:
            left_ns = due_ns - time.monotonic_ns()
            self._news.settimeout(max(0.0, min(POLL_S, left_ns / NS_PER_S)))
            try:
                self._failover(json.loads(self._news.recv(65536)))
            except (TimeoutError, BlockingIOError):
                if left_ns <= 0:
                    return
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
                        names.append(f"r{request.id}-h{hop}-m{member}")
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

    def _failover(self, news: dict[str, Any]) -> None:
        """A member or a server failed: take it out of the rules or out of the ledger."""
        if news["group"] == news["failed"]:
            self._ledger.server_down(int(news["failed"].removeprefix("server-")))
            return
        request, hop = (int(part[1:]) for part in news["group"].split("-"))
        deployed = self._chains.get(request)
        if deployed is None:
            return
        deployed.members[hop].pop(int(news["failed"].rpartition("-m")[2]), None)
        deploy.install(self._site, deployed)
        left = chain.placements_left(deployed.members)
        if left is None:
            self._ledger.remove(request)
        else:
            self._ledger.add(deployed.request, left)

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
