"""The nodes and the roles of the instances of a run, from its events. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from testbed.scenario.names import member_name, parse_group, parse_member


class Whereabouts:
    """What is known after the events that were noted, which come in the order of time."""

    def __init__(self) -> None:
        self._begun: dict[tuple[int, int, int], int] = {}
        """By request, function and member: a decision is about all shards of a function."""
        self._node: dict[str, int] = {}
        self._primary: dict[str, int] = {}

    def note(self, event: Mapping[str, Any]) -> None:
        """Take in what an event tells, if it tells anything."""
        if event["event"] == "decision":
            for hop, nodes in enumerate(event.get("placements") or ()):
                for number, node in enumerate(nodes):
                    self._begun[event["request"], hop, number] = node
        elif event["event"] in ("new-backup", "moved"):
            self._node[event["instance"]] = event["node"]
        elif event["event"] == "reconfigured" and parse_group(event["group"]) is not None:
            if event["primary"] is None:
                self._primary.pop(event["group"], None)
            else:
                self._primary[event["group"]] = event["primary"]

    def node_of(self, instance: str) -> int | None:
        """The node of an instance; None if it is not known."""
        key = parse_member(instance)
        if instance in self._node or key is None:
            return self._node.get(instance)
        return self._begun.get((key.request, key.group.hop, key.number))

    def led_from(self, node: int) -> list[str]:
        """The groups whose primary is at a node."""
        leaders = [(group, member_name(group, number)) for group, number in self._primary.items()]
        return [group for group, leader in leaders if self.node_of(leader) == node]
