"""One run's timeline: requests come and go, the load steps, a server dies, backups take over."""

from __future__ import annotations

import contextlib
import json
import select
import socket
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from testbed.decisions.placement import Ledger
from testbed.decisions.policy import Policy
from testbed.orchestration.control.autoscaler import Autoscaler
from testbed.orchestration.control.counters import count
from testbed.orchestration.control.injection import fault_times, note_not_done
from testbed.orchestration.control.loads import Counted
from testbed.orchestration.control.rebalancer import Rebalancer
from testbed.orchestration.control.run_orders import run_orders
from testbed.orchestration.control.timeline import timeline
from testbed.orchestration.deploying import backups, chain, deploy, elastic, reconfigure, users
from testbed.orchestration.deploying.acquaint import ANSWER_S, Acquaintances
from testbed.orchestration.deploying.deploy import Chain
from testbed.orchestration.deploying.deployments import Deployments
from testbed.orchestration.deploying.reconfigure import ReconfigurationError
from testbed.orchestration.deploying.site import Site
from testbed.orchestration.deploying.warm_ways import KeptWarm
from testbed.orchestration.deploying.watchers import start_servers
from testbed.records.sockets import bind_private
from testbed.scenario.names import (
    GroupKey,
    group_name,
    member_name,
    parse_group,
    parse_member,
    parse_server,
    server_name,
)
from testbed.scenario.types import (
    NS_PER_S,
    Move,
    Placement,
    Request,
    Scale,
    load_factor,
)
from testbed.vnf.process.control_socket import ControlSocket

LEAD_S = 0.5
"""From the moment when all are ready to the origin of the run's clock: to tell them all."""
POLL_S = 0.05
REPLACE_AGAIN_S = 1.0
"""Until a new backup is looked for again that could not be had, or a place for a chain."""


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
        begin: Callable[[int], None] = lambda _origin_ns: None,
        checks: Sequence[Callable[[], None]] = (),
    ) -> None:
        """`begin` is told the run's origin on CLOCK_MONOTONIC, shortly before it.

        `checks` raise what has ended something that the run needs, such as one of its threads.
        """
        self._begin = begin
        self._faults = fault_times(site, server_down, self.instances_at)
        self._checks = (site.spawner.check, self._faults.check, *checks)
        self._site = site
        self._policy = policy
        self._ledger = ledger
        self._schedules = schedules
        self._progress = progress
        replication = site.scenario.replication
        self.deployments = Deployments(
            policy,
            ledger,
            site.events.write,
            partial(reconfigure.move, site),
            bool(replication.backups_wanted) and replication.without_backup == "safety",
        )
        self._news = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._news.setblocking(False)
        self._watchers = self._make_watchers()
        self._acquaintances = Acquaintances(
            {s.node: site.hosts[server_name(s.node)].address for s in site.plan.servers},
            site.socket,
        )
        self._kept_warm = KeptWarm(site)
        self._epochs: dict[str, int] = {}
        self._to_replace: deque[tuple[int, int, GroupKey]] = deque()
        """When, and for which group of which request, a new backup is looked for."""
        self._to_deploy: deque[tuple[int, Request]] = deque()
        """When a place is looked for again, for a chain that could not be deployed."""
        self.origin_ns = 0
        self.headless = False
        """The controller is gone: what the FDU says is noted, rules and backups stay."""

    def _make_watchers(self) -> list[Autoscaler | Rebalancer]:
        """What looks at the measured load while the run goes on."""
        scaling, overload = self._site.scenario.scaling, self._site.scenario.overload
        cores = {server.node: server.cpu_cores for server in self._site.plan.servers}
        watchers: list[Autoscaler | Rebalancer] = []

        def counted() -> dict[str, Counted]:
            return count(self._site, self.chains)

        if scaling is not None:
            watchers.append(Autoscaler(self.deployments, counted, cores, scaling, self._read_news))
        if overload is not None:
            watchers.append(Rebalancer(self.deployments, counted, cores, overload, self._read_news))
        return watchers

    @staticmethod
    def notify_socket(sockets: Path) -> str:
        """Where the FDU tells what it did."""
        return str(sockets / "news.sock")

    def instances_at(self, node: int) -> list[str]:
        """The instances that were started at a node."""
        return self.deployments.instances_at(node)

    @property
    def chains(self) -> dict[int, Chain]:
        """The chains that are deployed now, by request."""
        return self.deployments.chains

    @property
    def is_settled(self) -> bool:
        """Whether no group waits for a new backup."""
        return not self._to_replace

    def run(self) -> None:
        """Deploy, let the traffic pass with what the plan has in store, take everything off."""
        with self.under_way():
            try:
                self._faults.begin(self.origin_ns)
                self._follow(round(self._site.scenario.traffic.drain_s * NS_PER_S))
            finally:
                self._faults.stop()
            self.check()

    def check(self) -> None:
        """Raise what has ended something that the run needs, if anything has."""
        for check in self._checks:
            check()

    @contextlib.contextmanager
    def under_way(self) -> Iterator[None]:
        """Deploy what is asked for at time 0 and start the traffic; `attend` has to be called."""
        site, plan = self._site, self._site.plan
        bind_private(self._news, self.notify_socket(site.sockets))
        orders = run_orders(plan.topology, self.deployments, self._ask_view, self._read_news)
        self._orders = ControlSocket(site.socket("run"), orders)
        closing = contextlib.closing
        with (
            closing(self._news),
            closing(self._orders),
            closing(self._acquaintances),
            closing(self._kept_warm),
        ):
            start_servers(site)
            users.start_edges(site)
            for request in plan.requests:
                if request.arrival_ns == 0:
                    self._arrival(request)
            users.start_traffic(site)
            for request in plan.requests:
                users.start_stream(site, request, self._schedules[request.id])
            users.start_applications(site)
            users.begin(site, LEAD_S, self._set_origin)
            site.events.write("run-start", t_ns=self.origin_ns)
            yield
            site.events.write("run-end")

    def _ask_view(self, instance: str) -> dict[str, Any]:
        return self._site.control.call(self._site.socket(instance), "shared-view", ANSWER_S)

    def _set_origin(self, origin_ns: int) -> None:
        self.origin_ns = origin_ns
        self._begin(origin_ns)

    def _follow(self, drain_ns: int) -> None:
        plan = self._site.plan
        requests = {request.id: request for request in plan.requests}
        steps = timeline(plan, drain_ns)
        for step in steps:
            self.attend(self.origin_ns + step.at_ns)
            if step.what == "arrival":
                self._arrival(requests[step.number])
            elif step.what == "departure":
                self._departure(step.number)
            elif step.what == "move":
                self._move(plan.moves[step.number])
            elif step.what == "scale":
                self._scale(plan.scales[step.number])
            elif step.what == "load-step":
                self._ledger.load_factor = load_factor(plan, step.at_ns)
                self._site.events.write("load-step", factor=self._ledger.load_factor)

    def attend(self, due_ns: int) -> None:
        """Take the FDU's news and orders until `due_ns`, and all that has come in any case."""
        orders = self._orders
        while True:
            self.check()
            left_ns = due_ns - time.monotonic_ns()
            replace, again = (
                bool(waiting) and waiting[0][0] <= time.monotonic_ns()
                for waiting in (self._to_replace, self._to_deploy)
            )
            timeout_s = 0.0 if replace or again else max(0.0, min(POLL_S, left_ns / NS_PER_S))
            news, asked = self._news.fileno(), orders.fileno()
            ready = select.select([news, asked], (), (), timeout_s)[0]
            if news in ready:
                self._read_news()
            elif asked in ready:
                orders.serve()
            elif left_ns <= 0:
                return
            elif replace:
                self._replace(*self._to_replace.popleft()[1:])
            elif again:
                self._deploy_again(self._to_deploy.popleft()[1])
            elif not self.headless:
                for watcher in self._watchers:
                    watcher.look_if_due()
            self._acquaintances.tell(self.chains)
            self._kept_warm.keep([each.ways for each in self.chains.values()])
            self._progress((time.monotonic_ns() - self.origin_ns) / NS_PER_S)

    def _read_news(self) -> None:
        """Take all news of the FDU that have come."""
        with contextlib.suppress(BlockingIOError):
            while True:
                self._on_news(json.loads(self._news.recv(65536)))

    def _arrival(self, request: Request) -> None:
        self._site.events.write(
            "request", request=request.id, chain=request.chain, due_ns=request.arrival_ns
        )
        self._place(request)

    def _place(self, request: Request) -> None:
        """Ask the policy for the placements of a chain, and deploy it if it is accepted."""
        events = self._site.events
        begin_ns = time.monotonic_ns()
        placements: list[Placement] = []
        wanted = self._site.scenario.replication.backups_wanted
        refused = None
        while refused is None and len(placements) < len(request.functions):
            choice = backups.place(self._policy, self._ledger, request, placements, wanted)
            if isinstance(choice, str):
                refused = choice
            else:
                placements.append(choice)
        accepted = refused is None
        events.write(
            "decision",
            request=request.id,
            chain=request.chain,
            accepted=accepted,
            refused=refused,
            placements=[p.nodes for p in placements] if accepted else [],
            decide_ns=time.monotonic_ns() - begin_ns,
        )
        if not accepted:
            return
        self.deployments.enter(request, placements)
        self._note_fewer_backups(request, placements)
        self._deploy(request, placements)

    def _note_fewer_backups(self, request: Request, placements: Sequence[Placement]) -> None:
        wanted = self._site.scenario.replication.backups_wanted
        for key in chain.group_keys(request):
            found = len(placements[key.hop].backups)
            if found < wanted:
                group = group_name(request, key)
                self._site.events.write("fewer-backups", group=group, found=found, wanted=wanted)

    def _deploy(self, request: Request, placements: list[Placement]) -> None:
        events, begin_ns = self._site.events, time.monotonic_ns()
        try:
            self.chains[request.id] = deploy.deploy(self._site, request, placements)
        except deploy.DeployError as error:
            # A server died and nobody knew yet: when it is known, it is placed elsewhere.
            events.write("deploy-failed", request=request.id, error=str(error))
            self._ledger.remove(request.id)
            due_ns = time.monotonic_ns() + round(REPLACE_AGAIN_S * NS_PER_S)
            self._to_deploy.append((due_ns, request))
            return
        events.write("chain-ready", request=request.id, deploy_ns=time.monotonic_ns() - begin_ns)

    def _deploy_again(self, request: Request) -> None:
        """Place a chain anew that could not be deployed, unless its traffic is over."""
        if time.monotonic_ns() < self.origin_ns + request.end_ns:
            self._place(request)

    def _departure(self, request: int) -> None:
        deployed = self.deployments.chains.pop(request, None)
        if deployed is None:
            return
        deploy.remove(self._site, deployed)
        self.deployments.forget(deployed)
        self._site.events.write("chain-removed", request=request)

    def _on_news(self, news: dict[str, Any]) -> None:
        """The FDU changed a group, or lost a server; each of its members says so."""
        group = news["group"]
        if self._epochs.get(group, 0) >= news["epoch"]:
            return
        self._epochs[group] = news["epoch"]
        node = parse_server(group)
        if node is not None:
            if news["failed"] == group:
                self._ledger.server_down(node)
            return
        found = parse_group(group)
        deployed = None if found is None else self.chains.get(found[0])
        if found is None or deployed is None:
            return
        key = found[1]
        # Of every change: what a move did since may be behind a failure that is only read now.
        if news["primary"] is not None:
            deployed.primaries[key] = news["primary"]
        failed = parse_member(news["failed"] or "")
        if failed is not None:
            self._member_failed(deployed, key, failed.number)
        replication = self._site.scenario.replication
        if self.headless or not replication.replace_backups:
            return
        if backups.lost_one(news, replication.backups_wanted):
            self._to_replace.appendleft((0, deployed.request.id, key))

    def _member_failed(self, deployed: Chain, key: GroupKey, number: int) -> None:
        """Take a failed member out of rules and ledger."""
        deployed.members[key].pop(number, None)
        if not self.headless:
            deploy.install(self._site, deployed)
            self.deployments.note_placements(deployed)

    def _replace(self, request: int, key: GroupKey) -> None:
        """Give a group that lost a backup a new one, where the policy would put it."""
        deployed = self.chains.get(request)
        wanted = self._site.scenario.replication.backups_wanted
        if deployed is None or not 1 <= len(deployed.members[key]) <= wanted:
            return
        events, group = self._site.events, group_name(deployed.request, key)
        node = self.deployments.node_for_backup(deployed, key)
        if node is None:
            self._replace_later(deployed, key, "the policy found no other node")
            return
        begin_ns = time.monotonic_ns()
        try:
            number = reconfigure.add_member(self._site, deployed, key, node)
        except ReconfigurationError as error:
            self._replace_later(deployed, key, str(error))
            return
        self.deployments.started(deployed, key, number, node)
        took_ns = time.monotonic_ns() - begin_ns
        name = member_name(group, number)
        events.write(
            "new-backup", group=group, member=number, instance=name, node=node, start_ns=took_ns
        )

    def _replace_later(self, deployed: Chain, key: GroupKey, error: str) -> None:
        """No new backup now: say so, and try again when servers may have changed."""
        group = group_name(deployed.request, key)
        self._site.events.write("no-new-backup", group=group, error=error)
        due_ns = time.monotonic_ns() + round(REPLACE_AGAIN_S * NS_PER_S)
        self._to_replace.append((due_ns, deployed.request.id, key))

    def _move(self, planned: Move) -> None:
        """Carry out a move of the plan; one that cannot be is an event, and the run goes on."""
        where = planned.request, planned.function, planned.shard, planned.node
        failed = elastic.try_move(self.deployments, *where, self._read_news)
        self._note_order("move", planned, failed)

    def _scale(self, planned: Scale) -> None:
        """Carry out a change of scale of the plan; see `_move`."""
        where = planned.request, planned.function, planned.instances
        failed = elastic.try_scale(self.deployments, *where, self._read_news)
        self._note_order("scale", planned, failed)

    def _note_order(self, kind: str, planned: Move | Scale, failed: Sequence[str]) -> None:
        # Of a request that was refused there is nothing to move: that is the policy's doing.
        if failed and planned.request in self.chains:
            what = f"{kind} of request {planned.request}, function {planned.function}"
            note_not_done(self._site, kind, what, planned.at_ns, "; ".join(failed))

    def server_back(self, node: int) -> None:
        """A server that was down can host instances again."""
        self._epochs.pop(server_name(node), None)
        self._ledger.server_up(node)
