"""Changes the members of a replica group of a deployed chain: a new backup, a move.

Everything is made of the same steps: a learner joins and catches up while the switches already
duplicate to it, the FDU admits it, roles change, the old member leaves. The FDU's record says at
any time who is what; what fails on the way leaves the group as it was.
"""

from __future__ import annotations

import time
from typing import Any

from testbed.orchestration.deploying import chain, deploy
from testbed.orchestration.deploying.deploy import Chain, DeployError
from testbed.orchestration.deploying.site import Site
from testbed.orchestration.detection.fdu_client import FduError
from testbed.orchestration.messages.control_client import ControlError
from testbed.scenario.errors import RunError
from testbed.scenario.names import GroupKey, group_name, instance_name, member_name
from testbed.vnf.replication.membership import MAX_MEMBERS

POLL_S = 0.005
CATCH_UP_S = 5.0
"""How long a learner may take to catch up."""


class ReconfigurationError(RunError):
    """A group could not be changed; it is as it was, or as the FDU says by now."""


def add_member(site: Site, deployed: Chain, key: GroupKey, node: int) -> int:
    """Start one more member of a group at a node, as a learner; its number.

    The switches duplicate to it before it joins, so that from its snapshot on it misses nothing.
    Raises ReconfigurationError.
    """
    request = deployed.request
    group = group_name(request, key)
    number = free_number(deployed, key)
    spec = chain.instance(request, key, number, node)
    try:
        deploy.start_instance(site, request, spec, None)
        deploy.await_instance(site, spec)
    except DeployError as error:
        site.spawner.end([spec.name])
        raise ReconfigurationError(str(error)) from error
    if spec.name not in deployed.instances:
        deployed.instances.append(spec.name)
    deployed.members[key][number] = node
    deploy.install(site, deployed)
    try:
        epoch = site.fdu.group(group)["epoch"]
        site.fdu.join(group, epoch, number, deploy.member_info(site, spec))
    except FduError as error:
        end_member(site, deployed, key, number)
        raise ReconfigurationError(f"{group}: {error}") from error
    return number


def end_member(site: Site, deployed: Chain, key: GroupKey, number: int) -> None:
    """End a member that is none any more, and take its rules away: its port is closed."""
    name = instance_name(deployed.request, key, number)
    node = deployed.members[key].pop(number, None)
    deploy.install(site, deployed)
    if node is not None:
        deploy.forget_process(site, node, name)
    site.spawner.end([name])


def move(site: Site, deployed: Chain, key: GroupKey, node: int) -> dict[str, Any]:
    """Move the primary of a group to a node; {"member", "caught_up_ns", "held_ns", "duration_ns"}.

    Nothing is lost and nothing overtakes: the primary takes no more inputs, lets everything out,
    then the new one goes on from its copies of what came meanwhile. If that takes longer than
    `replication.move_hold_s`, the rule `replication.move_overflow` decides: "refuse" goes on with
    the old primary, "declare" hands over all the same, and what was lost is declared.
    Where the group has a backup, that becomes the primary, and the primary a backup.
    Raises ReconfigurationError.
    """
    group = group_name(deployed.request, key)
    if deployed.members[key].get(deployed.primaries[key]) == node:
        raise ReconfigurationError(f"{group}: its primary is at node {node} already")
    here = [number for number, place in deployed.members[key].items() if place == node]
    begin_ns = time.monotonic_ns()
    number = here[0] if here else add_member(site, deployed, key, node)
    try:
        config = _await_admitted(site, group, number)
        caught_up_ns = time.monotonic_ns()
        held_ns = _hand_over(site, deployed, key, config, number, stays=bool(here))
    except (ReconfigurationError, FduError, ControlError) as error:
        if not here:
            _give_up(site, deployed, key, number)
        raise ReconfigurationError(f"{group}: {error}") from error
    return {
        "member": number,
        "caught_up_ns": caught_up_ns - begin_ns,
        "held_ns": held_ns,
        "duration_ns": time.monotonic_ns() - begin_ns,
    }


def _hand_over(
    site: Site,
    deployed: Chain,
    key: GroupKey,
    config: dict[str, Any],
    number: int,
    *,
    stays: bool,
) -> int:
    """Make a backup the primary; the old one becomes a backup (`stays`) or leaves.

    For how long inputs were held, in ns.
    """
    group, old = config["group"], config["primary"]
    socket = site.socket(member_name(group, old))
    spec = site.scenario.replication
    begin_ns = time.monotonic_ns()
    site.control.call(socket, "drain", on=True)
    try:
        drained = _await_drained(site, socket, spec.move_hold_s)
        if not drained and spec.move_overflow == "refuse":
            raise ReconfigurationError(
                f"the primary was not drained within move_hold_s = {spec.move_hold_s}: refused"
            )
        site.fdu.hand_over(group, config["epoch"], number, confirmed=drained, stays=stays)
    except (ReconfigurationError, FduError, ControlError):
        site.control.call(socket, "drain", on=False)
        raise
    held_ns = time.monotonic_ns() - begin_ns
    deployed.primaries[key] = number
    if not stays:
        end_member(site, deployed, key, old)
    return held_ns


def _await_drained(site: Site, socket: str, bound_s: float) -> bool:
    deadline = time.monotonic() + bound_s
    while not site.control.call(socket, "stats")["drained"]:
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_S / 5)  # an order takes about as long: ask again until the bound
    return True


def _await_admitted(site: Site, group: str, number: int) -> dict[str, Any]:
    """The configuration in which the learner is a backup."""
    deadline = time.monotonic() + CATCH_UP_S
    while True:
        config = site.fdu.group(group)
        if number in config["backups"]:
            return config
        if number not in config["learners"]:
            raise ReconfigurationError(f"member {number} failed while it caught up")
        if time.monotonic() > deadline:
            raise ReconfigurationError(f"member {number} did not catch up in {CATCH_UP_S} s")
        time.sleep(POLL_S)  # the FDU admits it when the primary says so: ask until the deadline


def _give_up(site: Site, deployed: Chain, key: GroupKey, number: int) -> None:
    """Take a member that joined for a move out again, unless it is the primary by now."""
    group = group_name(deployed.request, key)
    try:
        config = site.fdu.group(group)
        if config["primary"] == number:
            return
        if number in config["backups"] or number in config["learners"]:
            site.fdu.leave(group, config["epoch"], number)
    except FduError:
        return  # without a majority nobody leaves: it stays what it is
    end_member(site, deployed, key, number)


def free_number(deployed: Chain, key: GroupKey) -> int:
    """The number of the next member: one that nobody has, and nobody ever had if there is such.

    Raises ReconfigurationError.
    """
    used = deployed.members[key]
    names = set(deployed.instances)
    fresh = [
        number
        for number in range(MAX_MEMBERS)
        if instance_name(deployed.request, key, number) not in names
    ]
    free = fresh or [number for number in range(MAX_MEMBERS) if number not in used]
    if not free:
        raise ReconfigurationError(f"a group has {MAX_MEMBERS} members at most")
    return free[0]
