"""The firewall's rules: how they are written, and which of them matches a packet."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from testbed.scenario.errors import InputError
from testbed.vnf.functions.base import choice
from testbed.vnf.functions.packet import ICMP, TCP, UDP, Packet

PROTOCOLS = {"icmp": ICMP, "tcp": TCP, "udp": UDP}
_KEYS = ("action", "protocol", "source", "destination", "destination_port", "destination_ports")


@dataclass(frozen=True, slots=True)
class Rule:
    """Allow or deny; `protocol` None is any, networks are (address, mask), empty ports are any."""

    allow: bool
    protocol: int | None
    source: tuple[int, int]
    destination: tuple[int, int]
    ports: tuple[tuple[int, int], ...]

    def matches(self, packet: Packet) -> bool:
        """True if the rule is about this packet; a rule with ports is about TCP and UDP alone."""
        if self.protocol is not None and packet.protocol != self.protocol:
            return False
        address, mask = self.source
        if int.from_bytes(packet.source, "big") & mask != address:
            return False
        address, mask = self.destination
        if int.from_bytes(packet.destination, "big") & mask != address:
            return False
        if not self.ports:
            return True
        port = int.from_bytes(packet.key[11:13], "big")
        return packet.has_ports and any(low <= port <= high for low, high in self.ports)


def read_rules(value: object) -> tuple[Rule, ...]:
    """Rules from configuration; raises InputError with the place of what is wrong."""
    if not isinstance(value, list | tuple):
        raise InputError("fw.rules", value, "a list of rules")
    return tuple(_read_rule(f"fw.rules[{number}]", rule) for number, rule in enumerate(value))


def _read_rule(where: str, rule: object) -> Rule:
    if not isinstance(rule, Mapping):
        raise InputError(where, rule, f"an object with {', '.join(_KEYS)}")
    for key in rule:
        if key not in _KEYS:
            raise InputError(where, key, f"one of {', '.join(_KEYS)}")
    if "action" not in rule:
        raise InputError(f"{where}.action", None, "allow or deny")
    protocol = choice(where, rule, "protocol", "any", ("any", *PROTOCOLS))
    return Rule(
        allow=choice(where, rule, "action", "", ("allow", "deny")) == "allow",
        protocol=PROTOCOLS.get(protocol),
        source=_network(f"{where}.source", rule.get("source", "0.0.0.0/0")),
        destination=_network(f"{where}.destination", rule.get("destination", "0.0.0.0/0")),
        ports=_ports(where, rule),
    )


def _network(where: str, value: object) -> tuple[int, int]:
    try:
        network = ipaddress.IPv4Network(value if isinstance(value, str) else "")
    except ValueError:
        raise InputError(where, value, "an IPv4 network such as 10.77.0.0/16") from None
    return int(network.network_address), int(network.netmask)


def _ports(where: str, rule: Mapping[str, Any]) -> tuple[tuple[int, int], ...]:
    if "destination_port" in rule and "destination_ports" in rule:
        raise InputError(f"{where}.destination_port", rule["destination_port"], "one of the two")
    where = f"{where}.destination_ports"
    values = rule.get("destination_ports", ())
    if "destination_port" in rule:
        values = (rule["destination_port"],)
    if not isinstance(values, list | tuple):
        raise InputError(where, values, "a list of ports and [low, high] pairs")
    return tuple(_port_range(where, value) for value in values)


def _port_range(where: str, value: object) -> tuple[int, int]:
    pair: Sequence[object] = value if isinstance(value, list | tuple) else (value, value)
    match pair:
        case [int(low), int(high)] if 0 <= low <= high <= 65_535:
            return low, high
    raise InputError(where, value, "a port from 0 to 65535, or [low, high]")
