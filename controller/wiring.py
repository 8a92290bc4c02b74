"""The network as the controller knows it: where each port of each switch leads."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from testbed.scenario.errors import InputError

MAX_PORT = 0xFFFFFF00
"""OFPP_MAX of OpenFlow 1.3: the last number of a physical port."""
MAX_DPID = (1 << 64) - 1
MAX_DELAY_NS = 10**15
MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")


class WiringError(InputError):
    """A field of the wiring is wrong; the message names the field, its value and what was due."""


@dataclass(frozen=True, slots=True)
class SwitchEnd:
    """A switch and its OpenFlow datapath number."""

    name: str
    dpid: int


@dataclass(frozen=True, slots=True)
class Cable:
    """An undirected link: port `a_port` of switch `a` to port `b_port` of switch `b`."""

    a: str
    a_port: int
    b: str
    b_port: int
    delay_ns: int


@dataclass(frozen=True, slots=True)
class HostEnd:
    """A host: where it is plugged in, and the MAC address of its interface."""

    name: str
    switch: str
    port: int
    mac: str


@dataclass(frozen=True, slots=True)
class Wiring:
    """Switches, links and hosts. A switch's number is its place in `switches`."""

    switches: tuple[SwitchEnd, ...]
    links: tuple[Cable, ...]
    hosts: tuple[HostEnd, ...]

    def host(self, name: str) -> HostEnd:
        """The host called `name`; KeyError if there is none."""
        for host in self.hosts:
            if host.name == name:
                return host
        raise KeyError(name)

    def to_json(self) -> dict[str, Any]:
        """The wiring as JSON values; `Wiring.from_json` reads it back."""
        return {
            "switches": [asdict(switch) for switch in self.switches],
            "links": [asdict(link) for link in self.links],
            "hosts": [asdict(host) for host in self.hosts],
        }

    @staticmethod
    def from_json(data: object) -> Wiring:
        """The checked wiring in JSON values.

        Raises WiringError on a missing, unknown or wrong field, a name, datapath number, MAC
        address or port used twice, or an end at an unknown switch.
        """
        top = _fields(data, "wiring", ("switches", "links", "hosts"))
        wiring = Wiring(
            tuple(_switch(*item) for item in _items(top["switches"], "switches")),
            tuple(_cable(*item) for item in _items(top["links"], "links")),
            tuple(_host(*item) for item in _items(top["hosts"], "hosts")),
        )
        _check_distinct(wiring)
        _check_ends(wiring)
        return wiring


def _switch(field: str, data: object) -> SwitchEnd:
    values = _fields(data, field, ("name", "dpid"))
    return SwitchEnd(
        _text(values["name"], f"{field}.name"),
        _number(values["dpid"], f"{field}.dpid", 1, MAX_DPID),
    )


def _cable(field: str, data: object) -> Cable:
    values = _fields(data, field, ("a", "a_port", "b", "b_port", "delay_ns"))
    return Cable(
        _text(values["a"], f"{field}.a"),
        _number(values["a_port"], f"{field}.a_port", 1, MAX_PORT),
        _text(values["b"], f"{field}.b"),
        _number(values["b_port"], f"{field}.b_port", 1, MAX_PORT),
        _number(values["delay_ns"], f"{field}.delay_ns", 0, MAX_DELAY_NS),
    )


def _host(field: str, data: object) -> HostEnd:
    values = _fields(data, field, ("name", "switch", "port", "mac"))
    return HostEnd(
        _text(values["name"], f"{field}.name"),
        _text(values["switch"], f"{field}.switch"),
        _number(values["port"], f"{field}.port", 1, MAX_PORT),
        unicast_mac(values["mac"], f"{field}.mac"),
    )


def _fields(data: object, field: str, names: tuple[str, ...]) -> Mapping[str, Any]:
    if not isinstance(data, Mapping):
        raise WiringError(field, data, f"an object with {', '.join(names)}")
    for name in names:
        if name not in data:
            raise WiringError(f"{field}.{name}", None, "a value (the key is missing)")
    for name in data:
        if name not in names:
            raise WiringError(f"{field}.{name}", data[name], f"no keys but {', '.join(names)}")
    return data


def _items(data: object, field: str) -> Iterable[tuple[str, object]]:
    if not isinstance(data, list):
        raise WiringError(field, data, "a list")
    return [(f"{field}.{number}", item) for number, item in enumerate(data)]


def _text(value: object, field: str) -> str:
    if not isinstance(value, str) or not value:
        raise WiringError(field, value, "a name")
    return value


def _number(value: object, field: str, least: int, most: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise WiringError(field, value, f"a whole number from {least} to {most}")
    return value


def unicast_mac(value: object, field: str) -> str:
    """`value` if it is a unicast MAC address in lower case; raises WiringError."""
    if not isinstance(value, str) or not MAC.fullmatch(value) or int(value[:2], 16) & 1:
        raise WiringError(field, value, "a unicast MAC address such as 02:00:00:00:00:01")
    return value


def _check_distinct(wiring: Wiring) -> None:
    named: dict[str, list[tuple[str, object]]] = {
        "switches": [(k, v) for s in wiring.switches for k, v in asdict(s).items()],
        "hosts": [(k, getattr(h, k)) for h in wiring.hosts for k in ("name", "mac")],
    }
    for what, pairs in named.items():
        seen: set[tuple[str, object]] = set()
        for field, value in pairs:
            if (field, value) in seen:
                raise WiringError(f"{what}.{field}", value, "a value that is used once")
            seen.add((field, value))


def _check_ends(wiring: Wiring) -> None:
    switches = {switch.name for switch in wiring.switches}
    used: set[tuple[str, int]] = set()
    ends: list[tuple[str, str, int]] = []
    for number, link in enumerate(wiring.links):
        ends.append((f"links.{number}.a", link.a, link.a_port))
        ends.append((f"links.{number}.b", link.b, link.b_port))
        if link.a == link.b:
            raise WiringError(f"links.{number}.b", link.b, "another switch than a")
    ends += [(f"hosts.{n}.switch", host.switch, host.port) for n, host in enumerate(wiring.hosts)]
    for field, switch, port in ends:
        if switch not in switches:
            raise WiringError(field, switch, f"one of the switches {sorted(switches)}")
        if (switch, port) in used:
            raise WiringError(field, f"{switch} port {port}", "a port that is used once")
        used.add((switch, port))
