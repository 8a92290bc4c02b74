"""The kinds of faults: how each breaks the lab, and how the lab is mended afterwards.

A kind is a function of the stage. It injects one fault at a moment when all groups are healthy,
says so (`Stage.injected`), and returns when what is left to do is the system's own: detect,
promote, replace. What the kind itself broke for a time (a link, a member of the FDU) it has mended
by then.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Mapping

from testbed.lab.faults.stage import GroupView, Stage, instances_at
from testbed.lab.faults.witness import FrameWitness
from testbed.orchestration.deploying import elastic, reconfigure
from testbed.orchestration.deploying.reconfigure import ReconfigurationError
from testbed.orchestration.messages.control_client import ControlError
from testbed.records.threads import Worker
from testbed.scenario.names import fdu_name, server_name

Kind = Callable[[Stage], None]

PROMOTION_S = 10.0
"""How long a promotion is waited for."""


def kill_primary(stage: Stage) -> None:
    """SIGKILL of the process of a primary."""
    group = stage.pick(stage.groups())
    victim = group.instance(group.primary)
    stage.injected(stage.kill([victim]), [group], victim, [victim])


def kill_backup(stage: Stage) -> None:
    """SIGKILL of the process of a backup."""
    group = stage.pick(stage.groups())
    victim = group.instance(stage.pick(group.backups))
    stage.injected(stage.kill([victim]), [group], victim, [victim])


def stop_primary(stage: Stage) -> None:
    """SIGSTOP of a primary until another has taken over, then SIGCONT: a zombie wakes up."""
    group = stage.pick(stage.groups())
    zombie = group.instance(group.primary)
    host = stage.site.hosts[server_name(group.members[group.primary])]
    switch_end = stage.lab.network.switch_interface(host.name)
    pid = stage.site.spawner.pid(zombie)
    stopped_ns = stage.send_signal(zombie, signal.SIGSTOP)
    stage.injected(stopped_ns, [group], zombie, [zombie])
    stage.attend_until(lambda: _has_other_primary(stage, group), PROMOTION_S)
    stage.attend(stage.uniform(0.0, 2 * stage.failure_timeout_s))
    with FrameWitness(switch_end, group, group.primary) as witness:
        stage.note("woken", stage.send_signal(zombie, signal.SIGCONT), instance=zombie)
        stage.attend(1.0)
        frames = witness.count()
    found = stage.stats(zombie)
    role = None if found is None else found["role"]
    stage.note("zombie", instance=zombie, pid=pid, frames=frames, role=role)
    stage.site.spawner.end([zombie])


def pause_primary(stage: Stage) -> None:
    """SIGSTOP of a primary for less than the detection takes: nobody may be promoted."""
    group = stage.pick(stage.groups())
    name = group.instance(group.primary)
    begin_ns = stage.send_signal(name, signal.SIGSTOP)
    stage.injected(begin_ns, [group], name)
    # Slept, not attended: the orchestrator's work must not make the pause longer.
    time.sleep(stage.uniform(0.1, 0.4) * stage.failure_timeout_s)
    end_ns = stage.send_signal(name, signal.SIGCONT)
    stage.note("resumed", end_ns, instance=name, paused_ns=end_ns - begin_ns)
    stage.attend(2 * stage.failure_timeout_s)


def server_down(stage: Stage) -> None:
    """A server dies: its interface first, then its agent and instances. It comes back later."""
    node = stage.pick(sorted({node for group in stage.groups() for node in group.members.values()}))
    hit = list(instances_at(stage, node))
    t_ns = time.monotonic_ns()
    stage.lab.network.server_down(node)
    names = [group.instance(number) for group, number in hit]
    stage.kill([server_name(node), *names])
    server = server_name(node)
    stage.injected(t_ns, [group for group, _ in hit], server, [server, *names])
    # A server that is back before its loss was noticed would be another kind of fault.
    stage.attend_until(lambda: _are_out(stage, hit), PROMOTION_S)
    stage.attend(stage.failure_timeout_s)
    stage.await_healthy()
    stage.repair_server(node)


def link_down(stage: Stage) -> None:
    """A link is cut for a while; what is on it is lost."""
    links = stage.site.plan.topology.links
    index = int(stage.rng.integers(len(links)))
    t_ns = time.monotonic_ns()
    stage.note("cut-begin", t_ns, what=f"link {index}")
    stage.lab.network.link_down(index)
    stage.injected(t_ns, stage.groups(), f"link {links[index].a}-{links[index].b}")
    stage.attend(stage.uniform(0.05, 1.0))
    stage.lab.network.link_up(index)
    stage.note("cut-end", what=f"link {index}")


def partition(stage: Stage) -> None:
    """A server's interface is down for longer than the detection takes; its processes live on."""
    node = stage.pick(sorted({node for group in stage.groups() for node in group.members.values()}))
    name = server_name(node)
    t_ns = time.monotonic_ns()
    stage.note("cut-begin", t_ns, what=name)
    stage.lab.network.server_down(node)
    stage.injected(t_ns, [group for group, _ in instances_at(stage, node)], name)
    stage.attend(stage.uniform(1.5, 3.0) * stage.failure_timeout_s)
    stage.lab.network.server_up(node)
    stage.note("cut-end", what=name)


def fdu_kill(stage: Stage) -> None:
    """SIGKILL of a member of the FDU; it starts again from its journal."""
    number = stage.pick(stage.fdu_numbers())
    stage.injected(stage.kill([fdu_name(number)]), stage.groups(), fdu_name(number))
    stage.attend(stage.uniform(0.2, 1.0))
    stage.restart_fdu_member(number)


def controller_kill(stage: Stage) -> None:
    """SIGKILL of the controller: packets flow on. Nothing can be mended after it."""
    stage.orchestrator.headless = True
    t_ns = time.monotonic_ns()
    stage.lab.controller.kill()
    stage.injected(t_ns, stage.groups(), "controller")
    stage.attend(2.0)


def move(stage: Stage) -> None:
    """A planned move of a primary: nothing is lost."""
    group = stage.pick(stage.groups())
    node = _free_node(stage, group)
    t_ns = time.monotonic_ns()
    stage.injected(t_ns, [group], f"{group.name} to node {node}")
    _move(stage, group, node)


def kill_during_move(stage: Stage) -> None:
    """A move during which the source, the heir or the backup is killed at some moment."""
    group = stage.pick(stage.groups())
    node = _free_node(stage, group)
    heir = reconfigure.free_number(stage.chain_of(group), group.key)
    who = stage.pick(("source", "heir", "backup"))
    number = {"source": group.primary, "heir": heir, "backup": group.backups[0]}[who]
    victim = group.instance(number)

    after_s = stage.uniform(0.0, 0.3)

    def strike() -> None:
        time.sleep(after_s)
        t_ns = stage.kill([victim])
        target = f"{who} {victim} in a move to node {node}"
        stage.injected(t_ns, [group], target, [victim])

    striker = Worker("strike", strike).start()
    try:
        _move(stage, group, node)
    finally:
        striker.wait()
    striker.check()


def scale(stage: Stage) -> None:
    """A function is spread over another number of servers: nothing is lost."""
    group = stage.pick(
        [group for group in stage.groups() if stage.chain_of(group).request.shards > 1]
    )
    deployed, hop = stage.chain_of(group), group.key.hop
    deployments = stage.orchestrator.deployments
    now = len(set(deployments.primaries_of(deployed, hop).values()))
    most = min(deployed.request.shards, len(stage.site.plan.servers) - 1)
    wanted = stage.pick([number for number in range(1, most + 1) if number != now])
    hit = [each for each in stage.groups() if (each.request, each.key.hop) == (group.request, hop)]
    target = f"chain {group.request}, function {hop}: from {now} to {wanted} servers"
    stage.injected(time.monotonic_ns(), hit, target)
    try:
        elastic.scale(deployments, group.request, hop, wanted, lambda: None)
    except ReconfigurationError as error:
        stage.note("scale-given-up", error=str(error))


def two_at_once(stage: Stage) -> None:
    """Two faults in one moment: a primary, and an FDU member or the backup of another group."""
    group, other = _two_groups(stage)
    primary = group.instance(group.primary)
    if stage.pick(("fdu", "backup")) == "fdu":
        number = stage.pick(stage.fdu_numbers())
        t_ns = stage.kill([primary, fdu_name(number)])
        stage.injected(t_ns, [group], f"{primary} and {fdu_name(number)}", [primary])
        stage.attend(stage.uniform(0.2, 1.0))
        stage.restart_fdu_member(number)
        return
    backup = other.instance(other.backups[0])
    t_ns = stage.kill([primary, backup])
    stage.injected(t_ns, [group, other], f"{primary} and {backup}", [primary, backup])


def primary_and_backup(stage: Stage) -> None:
    """A primary and a backup of the same group in one moment; another backup takes over."""
    group = stage.pick(stage.groups())
    victims = [group.instance(group.primary), group.instance(stage.pick(group.backups))]
    stage.injected(stage.kill(victims), [group], " and ".join(victims), victims)


def primary_and_heir(stage: Stage) -> None:
    """A primary, then the one that took over, as soon as it has its role; a backup is left."""
    group = stage.pick(stage.groups())
    first = group.instance(group.primary)
    t_ns = stage.kill([first])
    if not stage.attend_until(lambda: _has_other_primary(stage, group), PROMOTION_S):
        stage.injected(t_ns, [group], first, [first])
        return
    second = group.instance(stage.site.fdu.group(group.name)["primary"])
    stage.kill([second])
    stage.injected(t_ns, [group], f"{first}, then {second}", [first, second])


def primary_and_controller(stage: Stage) -> None:
    """A primary and the controller at once: the backup takes over on the rules that are there."""
    group = stage.pick(stage.groups())
    victim = group.instance(group.primary)
    stage.orchestrator.headless = True
    t_ns = time.monotonic_ns()
    stage.lab.controller.kill()
    stage.kill([victim])
    stage.injected(t_ns, [group], f"{victim} and the controller", [victim])
    stage.attend_until(lambda: _has_other_primary(stage, group), PROMOTION_S)
    stage.attend(1.0)


KINDS: Mapping[str, Kind] = {
    "kill-primary": kill_primary,
    "kill-backup": kill_backup,
    "stop-primary": stop_primary,
    "pause-primary": pause_primary,
    "server-down": server_down,
    "link-down": link_down,
    "partition": partition,
    "fdu-kill": fdu_kill,
    "move": move,
    "kill-during-move": kill_during_move,
    "scale": scale,
    "two-at-once": two_at_once,
    "primary-and-backup": primary_and_backup,
    "primary-and-heir": primary_and_heir,
    "controller-kill": controller_kill,
    "primary-and-controller": primary_and_controller,
}
LAST = frozenset({"controller-kill", "primary-and-controller"})
"""After these an episode ends: nothing is replaced without a controller."""


def _move(stage: Stage, group: GroupView, node: int) -> None:
    """Move the primary; what becomes of it is an event of the orchestrator."""
    try:
        elastic.move_group(stage.orchestrator.deployments, group.request, group.key, node)
    except ReconfigurationError as error:
        stage.note("move-given-up", error=str(error))


def _free_node(stage: Stage, group: GroupView) -> int:
    nodes = [server.node for server in stage.site.plan.servers]
    return int(stage.pick([node for node in nodes if node not in group.members.values()]))


def _two_groups(stage: Stage) -> tuple[GroupView, GroupView]:
    groups = stage.groups()
    first, second = stage.rng.choice(len(groups), size=2, replace=False)
    return groups[int(first)], groups[int(second)]


def _has_other_primary(stage: Stage, group: GroupView) -> bool:
    """Whether a primary that was not the group's has its role, by its own word."""
    try:
        now = stage.site.fdu.group(group.name)["primary"]
    except ControlError:
        return False
    if now is None or now == group.primary:
        return False
    found = stage.stats(group.instance(now))
    return found is not None and found["role"] == "primary"


def _are_out(stage: Stage, hit: list[tuple[GroupView, int]]) -> bool:
    """Whether the FDU has taken these members out of their groups."""
    for group, number in hit:
        try:
            config = stage.site.fdu.group(group.name)
        except ControlError:
            return False
        if str(number) in config["members"]:
            return False
    return True
