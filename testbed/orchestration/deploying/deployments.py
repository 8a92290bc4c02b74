"""The deployed chains: the nodes of their instances, and their use of each server."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Collection, Sequence
from typing import Any, TypeAlias

import numpy as np

from testbed.decisions.placement import Ledger, refusal
from testbed.decisions.policy import Policy
from testbed.orchestration.deploying import chain
from testbed.orchestration.deploying.backups import further_backup
from testbed.orchestration.deploying.deploy import Chain
from testbed.orchestration.deploying.reconfigure import ReconfigurationError
from testbed.scenario.names import GroupKey, instance_name
from testbed.scenario.types import Placement, Request

Note: TypeAlias = Callable[..., None]
"""Writes an event: its name, then its fields by name."""
MovePrimary: TypeAlias = Callable[[Chain, GroupKey, int], dict[str, Any]]
"""Moves the primary of a chain's group to a node; see `reconfigure.move`."""


class Deployments:
    """The chains of a run by request, with the book that the policy's observations come from."""

    def __init__(
        self, policy: Policy, ledger: Ledger, note: Note, move: MovePrimary, lone_stay: bool
    ) -> None:
        """`lone_stay`: a primary whose group has to have a backup and has none does not move."""
        self.note = note
        self.move = move
        self._lone_stay = lone_stay
        self.policy = policy
        self.ledger = ledger
        self.chains: dict[int, Chain] = {}
        self._lock = threading.Lock()
        self._instances_at: dict[int, list[str]] = {}

    def instances_at(self, node: int) -> list[str]:
        """The instances that were started at a node; for any thread."""
        with self._lock:
            return list(self._instances_at.get(node, ()))

    def chain_of(self, request: int, hop: int) -> Chain:
        """The chain that serves a request; raises ReconfigurationError if the hop is not there."""
        deployed = self.chains.get(request)
        if deployed is None or not 0 <= hop < len(deployed.request.functions):
            raise ReconfigurationError(f"request {request}, function {hop}: not deployed now")
        return deployed

    # ---------------------------------------------------------------------------- the book

    def enter(self, request: Request, placements: Sequence[Placement]) -> None:
        """Enter a request before its instances are started."""
        self.ledger.add(request, placements)
        for spec in chain.instances(request, placements):
            self._enter_instance(spec.node, spec.name)

    def forget(self, deployed: Chain) -> None:
        """Forget a chain that was removed."""
        self.ledger.remove(deployed.request.id)
        with self._lock:
            for names in self._instances_at.values():
                names[:] = [name for name in names if name not in deployed.instances]

    def started(self, deployed: Chain, key: GroupKey, number: int, node: int) -> None:
        """Note a member that was started, or got another role, while the chain runs."""
        self._enter_instance(node, instance_name(deployed.request, key, number))
        self.note_placements(deployed)

    def note_placements(self, deployed: Chain) -> None:
        """Enter where the living members of a chain are now."""
        shards = range(deployed.request.shards)
        left = [self._placements_left(deployed, shard) for shard in shards]
        if not any(left):
            self.ledger.remove(deployed.request.id)
        else:
            self.ledger.add_shards(deployed.request, [placed or [] for placed in left])

    def _enter_instance(self, node: int, name: str) -> None:
        with self._lock:
            names = self._instances_at.setdefault(node, [])
            if name not in names:
                names.append(name)

    def _placements_left(self, deployed: Chain, shard: int) -> list[Placement] | None:
        members = chain.of_shard(deployed.members, shard)
        return chain.placements_left(members, chain.of_shard(deployed.primaries, shard))

    # --------------------------------------------------------------------------- the policy

    def primaries_of(self, deployed: Chain, hop: int) -> dict[int, int]:
        """The node of the primary of each shard of a function; without those that have none."""
        found = {}
        for key, members in deployed.members.items():
            node = members.get(deployed.primaries[key])
            if key.hop == hop and node is not None:
                found[key.shard] = node
        return found

    def node_for_backup(self, deployed: Chain, key: GroupKey) -> int | None:
        """What the policy chooses for a group where it has no member yet."""
        placed = self._placements_left(deployed, key.shard)
        if placed is None:
            return None
        members = placed[key.hop].nodes
        seen = self.ledger.observe_again(deployed.request, placed[: key.hop], "backup", members)
        return further_backup(self.policy, seen, members)

    def node_for_move(self, request: int, key: GroupKey) -> int | None:
        """Where the policy wants the primary of a group whose server is overloaded.

        None: where it is. So it is as well while a group has to have a backup and has none, since
        what it holds could not be handed over.
        """
        deployed = self.chains.get(request)
        placed = None if deployed is None else self._placements_left(deployed, key.shard)
        if deployed is None or placed is None:
            return None
        members = placed[key.hop].nodes
        if len(members) == 1 and self._lone_stay:
            return None
        seen = self.ledger.observe_again(deployed.request, placed[: key.hop], "move", members)
        choice = self.policy.decide(seen)
        if choice is None or choice.primary == members[0] or not seen.alive[choice.primary]:
            return None
        refused = refusal(seen, Placement(choice.primary, None))
        return choice.primary if refused is None else None

    def node_for_shards(self, deployed: Chain, hop: int, excluded: Collection[int]) -> int | None:
        """Where the policy would have the primary of a function if these nodes were down."""
        choice = self._choice(deployed, GroupKey(hop, 0), excluded)
        return None if choice is None or choice.primary in excluded else choice.primary

    def _choice(
        self, deployed: Chain, key: GroupKey, excluded: Collection[int]
    ) -> Placement | None:
        placed = self._placements_left(deployed, key.shard)
        if placed is None:
            return None
        seen = self.ledger.observe(deployed.request, placed[: key.hop])
        alive = seen.alive & ~np.isin(np.arange(len(seen.alive)), list(excluded))
        return self.policy.decide(dataclasses.replace(seen, alive=alive))
