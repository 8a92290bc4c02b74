"""Tells each primary the primaries of the other groups of its function: they share state."""

from __future__ import annotations

import contextlib
import json
import socket
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from testbed.orchestration.deploying import chain
from testbed.orchestration.deploying.deploy import Chain
from testbed.orchestration.messages.control_client import ControlError
from testbed.scenario.names import GroupKey, group_name, instance_name
from testbed.scenario.types import NS_PER_S, FunctionName
from testbed.vnf.functions.registry import SHARES

AGAIN_NS = 2 * NS_PER_S
"""An order that got lost is given again after this time, whatever happened to it."""
ANSWER_S = 1.0

Peer: TypeAlias = dict[str, Any]
"""{"group", "name", "address", "port"} of a primary."""
AskView: TypeAlias = Callable[[str], dict[str, Any]]
"""What an instance, by name, says that its function has counted; raises ControlError."""


def primaries(
    chains: Mapping[int, Chain], addresses: Mapping[int, str | None]
) -> dict[FunctionName, list[Peer]]:
    """The primaries of each function with mergeable state; `addresses` are those of servers."""
    found: dict[FunctionName, list[Peer]] = {}
    for deployed in chains.values():
        for key, number in sorted(deployed.primaries.items()):
            function = deployed.request.functions[key.hop]
            node = deployed.members[key].get(number)
            if function not in SHARES or node is None:
                continue
            peer = {
                "group": group_name(deployed.request, key),
                "name": instance_name(deployed.request, key, number),
                "address": addresses[node],
                "port": chain.share_port(deployed.request, key),
            }
            found.setdefault(function, []).append(peer)
    return found


def shared_view(
    ask: AskView, chains: Mapping[int, Chain], request: int, key: GroupKey
) -> dict[str, Any]:
    """What the primary of a group says that all groups of its function have counted together.

    Raises ValueError if there is none that shares, or if it does not answer.
    """
    what = f"request {request}, function {key.hop}, shard {key.shard}"
    deployed = chains.get(request)
    if deployed is None or key not in deployed.primaries:
        raise ValueError(f"{what}: not deployed now")
    name = instance_name(deployed.request, key, deployed.primaries[key])
    try:
        return ask(name)
    except ControlError as error:
        raise ValueError(f"{what}: {error}") from error


class Acquaintances:
    """Gives the order `share-with` to primaries for whom it is news, and to all now and then.

    No answer is awaited: a process that has died or stopped must not hold up anybody.
    """

    def __init__(
        self, addresses: Mapping[int, str | None], socket_of: Callable[[str], str]
    ) -> None:
        """`addresses` of the servers by node; `socket_of` an instance, by name, takes orders."""
        self._addresses = addresses
        self._socket_of = socket_of
        self._told: dict[str, tuple[int, list[Peer]]] = {}
        """By primary: when it was told, and what."""
        # Not bound: so no answers come, which nobody would take.
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def tell(self, chains: Mapping[int, Chain]) -> None:
        """See to it that everybody knows who leads now."""
        now_ns = time.monotonic_ns()
        told: dict[str, tuple[int, list[Peer]]] = {}
        for group in primaries(chains, self._addresses).values():
            for peer in group:
                others = [other for other in group if other is not peer]
                at_ns, before = self._told.get(peer["name"], (0, None))
                if others != before or now_ns >= at_ns + AGAIN_NS:
                    self._order(peer["name"], others)
                    at_ns = now_ns
                told[peer["name"]] = (at_ns, others)
        self._told = told

    def _order(self, name: str, peers: list[Peer]) -> None:
        order = {"id": 0, "op": "share-with", "peers": peers}
        with contextlib.suppress(OSError):
            self._socket.sendto(json.dumps(order).encode(), self._socket_of(name))
