"""What every network function is: a pure step from a packet and a state to a verdict and a delta.

The same (packet, state, reverse, now_ns) gives the same result on every member of a replica
group. A function never changes `state`; the runtime applies the delta, and replicates it.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Protocol

from testbed.scenario.errors import InputError
from testbed.scenario.types import FunctionName
from testbed.vnf.state import Delta, Key, Value


class Verdict(Enum):
    """What becomes of the packet."""

    FORWARD = "forward"
    DROP = "drop"


@dataclass(frozen=True, slots=True)
class Result:
    """`packet` is the packet to send on when the verdict is FORWARD, else None.

    `reason` names why a packet was dropped, or what was noted about one that goes on.
    A dropped packet may change the state too: the delta holds for either verdict.
    """

    verdict: Verdict
    packet: bytes | None
    delta: Delta
    reason: str = ""


class Function(Protocol):
    """A network function with its configuration. Objects are immutable and hold no state."""

    @property
    def name(self) -> FunctionName:
        """The function's name in scenarios."""

    def process(
        self, packet: bytes, state: Mapping[Key, Value], reverse: bool, now_ns: int
    ) -> Result:
        """Process one raw IP packet of the chain's forward or reverse path; never raises.

        `now_ns` is a time that the primary read once for this packet; it does not decrease.
        """


def drop(reason: str, delta: Delta = ()) -> Result:
    """The packet ends here."""
    return Result(Verdict.DROP, None, delta, reason)


def forward(packet: bytes, delta: Delta = (), reason: str = "") -> Result:
    """The packet goes on as `packet`."""
    return Result(Verdict.FORWARD, packet, delta, reason)


def check_keys(function: str, config: Mapping[str, Any], known: tuple[str, ...]) -> None:
    """Raise InputError if `config` has a key that is not in `known`."""
    for key in config:
        if key not in known:
            expected = f"one of {', '.join(known)}" if known else "no keys"
            raise InputError(f"{function} configuration", key, expected)


def integer(
    function: str, config: Mapping[str, Any], key: str, default: int, low: int, high: int
) -> int:
    """The integer `config[key]` within low..high, or the default; raises InputError else."""
    value = config.get(key, default)
    if type(value) is not int or not low <= value <= high:
        raise InputError(f"{function}.{key}", value, f"an integer from {low} to {high}")
    return value


def choice(
    function: str, config: Mapping[str, Any], key: str, default: str, choices: tuple[str, ...]
) -> str:
    """The text `config[key]`, one of `choices`, or the default; raises InputError else."""
    value = config.get(key, default)
    if value not in choices:
        raise InputError(f"{function}.{key}", value, f"one of {', '.join(choices)}")
    return str(value)


def ipv4_address(function: str, key: str, value: object) -> bytes:
    """The 4 bytes of a dotted IPv4 address; raises InputError for anything else."""
    try:
        return ipaddress.IPv4Address(value if isinstance(value, str) else "").packed
    except ipaddress.AddressValueError:
        raise InputError(f"{function}.{key}", value, "an IPv4 address such as 100.64.0.1") from None
