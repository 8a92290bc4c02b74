"""The firewall's rules: how they are written, and which of them matches a packet.

Compiled code reads them as words, one rule after the other: allow, protocol (`_ANY` is any,
`ICMP` that of either version), network of the source, network of the destination (as in
`config.Network`), how many port ranges, and these as low << 16 | high.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from testbed.compiled import compiled
from testbed.scenario.errors import InputError
from testbed.vnf.functions.config import ANY_NETWORK, Network, choice, network
from testbed.vnf.functions.packet import ICMP, TCP, UDP, View, is_icmp
from testbed.vnf.state.arrays import Words

PROTOCOLS = {"icmp": ICMP, "tcp": TCP, "udp": UDP}
_ANY = -1
_KEYS = ("action", "protocol", "source", "destination", "destination_port", "destination_ports")
_ALLOW, _PROTOCOL, _SOURCE, _DESTINATION, _RANGES, _HEADER_WORDS = 0, 1, 2, 7, 12, 13


@compiled
def allowed(words: Words, begin: int, view: View, default: int) -> int:
    """What the first rule in `words[begin:]` that is about the packet says, else `default`."""
    at = begin
    while at < len(words):
        ranges = words[at + _RANGES]
        if (
            _is_protocol(words[at + _PROTOCOL], view)
            and _within(words, at + _SOURCE, view.version, view.source_high, view.source_low)
            and _within(
                words, at + _DESTINATION, view.version, view.destination_high, view.destination_low
            )
            and _is_port(words, at + _HEADER_WORDS, ranges, view)
        ):
            return int(words[at + _ALLOW])
        at += _HEADER_WORDS + ranges
    return default


@compiled
def _is_protocol(protocol: int, view: View) -> bool:
    if protocol == ICMP:
        return is_icmp(view.version, view.protocol)
    return protocol in (_ANY, view.protocol)


@compiled
def _within(words: Words, at: int, version: int, high: int, low: int) -> bool:
    if words[at] == 0:
        return True
    return (
        words[at] == version
        and high & words[at + 3] == words[at + 1]
        and low & words[at + 4] == words[at + 2]
    )


@compiled
def _is_port(words: Words, at: int, ranges: int, view: View) -> bool:
    """A rule with ports is about TCP and UDP alone."""
    if ranges == 0:
        return True
    if view.has_ports == 0:
        return False
    for number in range(ranges):
        low, high = words[at + number] >> 16, words[at + number] & 0xFFFF
        if low <= view.destination_port <= high:
            return True
    return False


def read_rules(value: object) -> list[int]:
    """The words of rules from configuration; raises InputError with the place of what is wrong."""
    if not isinstance(value, list | tuple):
        raise InputError("fw.rules", value, "a list of rules")
    words = []
    for number, rule in enumerate(value):
        words += _read_rule(f"fw.rules[{number}]", rule)
    return words


def _read_rule(where: str, rule: object) -> list[int]:
    if not isinstance(rule, Mapping):
        raise InputError(where, rule, f"an object with {', '.join(_KEYS)}")
    for key in rule:
        if key not in _KEYS:
            raise InputError(where, key, f"one of {', '.join(_KEYS)}")
    if "action" not in rule:
        raise InputError(f"{where}.action", None, "allow or deny")
    protocol = choice(where, rule, "protocol", "any", ("any", *PROTOCOLS))
    source, destination = _network(where, rule, "source"), _network(where, rule, "destination")
    if source.version and destination.version and source.version != destination.version:
        expected = f"an IPv{source.version} network, as the source"
        raise InputError(f"{where}.destination", rule["destination"], expected)
    ports = _ports(where, rule)
    allow = choice(where, rule, "action", "", ("allow", "deny")) == "allow"
    return [int(allow), PROTOCOLS.get(protocol, _ANY), *source, *destination, len(ports), *ports]


def _network(where: str, rule: Mapping[str, Any], key: str) -> Network:
    return network(f"{where}.{key}", rule[key]) if key in rule else ANY_NETWORK


def _ports(where: str, rule: Mapping[str, Any]) -> list[int]:
    if "destination_port" in rule and "destination_ports" in rule:
        raise InputError(f"{where}.destination_port", rule["destination_port"], "one of the two")
    where = f"{where}.destination_ports"
    values = rule.get("destination_ports", ())
    if "destination_port" in rule:
        values = (rule["destination_port"],)
    if not isinstance(values, list | tuple):
        raise InputError(where, values, "a list of ports and [low, high] pairs")
    return [_port_range(where, value) for value in values]


def _port_range(where: str, value: object) -> int:
    pair: Sequence[object] = value if isinstance(value, list | tuple) else (value, value)
    match pair:
        case [int(low), int(high)] if 0 <= low <= high <= 65_535:
            return low << 16 | high
    raise InputError(where, value, "a port from 0 to 65535, or [low, high]")
