"""Checks of what a scenario says about a function; all raise InputError for what they refuse."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from typing import Any, NamedTuple

from testbed.scenario.errors import InputError


class Address(NamedTuple):
    """An address as two int64 words; an IPv4 address is the low one, never negative."""

    version: int
    high: int
    low: int


class Network(NamedTuple):
    """The addresses of a version with `address & mask == network` in both words.

    Version 0 is any address of any version; its words are 0.
    """

    version: int
    high: int
    low: int
    mask_high: int
    mask_low: int


ANY_NETWORK = Network(0, 0, 0, 0, 0)


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


def boolean(function: str, config: Mapping[str, Any], key: str, default: bool) -> bool:
    """A truth value from the configuration; raises InputError for anything else."""
    value = config.get(key, default)
    if type(value) is not bool:
        raise InputError(f"{function}.{key}", value, "true or false")
    return value


def choice(
    function: str, config: Mapping[str, Any], key: str, default: str, choices: tuple[str, ...]
) -> str:
    """The text `config[key]`, one of `choices`, or the default; raises InputError else."""
    value = config.get(key, default)
    if value not in choices:
        raise InputError(f"{function}.{key}", value, f"one of {', '.join(choices)}")
    return str(value)


def address(field: str, value: object, version: int = 0) -> Address:
    """The address that a text is: of the version 4 or 6, or of any if `version` is 0."""
    try:
        found = ipaddress.ip_address(value if isinstance(value, str) else "")
    except ValueError:
        found = None
    if found is None or getattr(found, "scope_id", None) or version not in (0, found.version):
        raise InputError(field, value, f"an {_example(version)}")
    high, low = words_of(int(found))
    return Address(found.version, high, low)


def network(field: str, value: object, version: int = 0) -> Network:
    """The network, such as 10.77.0.0/16 or fd00:77::/32, that a text is."""
    try:
        found = ipaddress.ip_network(value if isinstance(value, str) else "")
    except ValueError:
        found = None
    if found is None or version not in (0, found.version):
        expected = {4: "an IPv4 network such as 10.77.0.0/16",
                    6: "an IPv6 network such as fd00:77::/32"}  # fmt: skip
        either = "a network such as 10.77.0.0/16 or fd00:77::/32"
        raise InputError(field, value, expected.get(version, either))
    return Network(
        found.version, *words_of(int(found.network_address)), *words_of(int(found.netmask))
    )


def words_of(number: int) -> tuple[int, int]:
    """128 bits as two int64 words, high first."""
    return signed(number >> 64), signed(number)


def signed(number: int) -> int:
    """The low 64 bits of a number as an int64."""
    number &= (1 << 64) - 1
    return number - (1 << 64) if number >> 63 else number


def _example(version: int) -> str:
    return {
        0: "address such as 100.64.0.1 or fd00::1",
        4: "IPv4 address such as 100.64.0.1",
        6: "IPv6 address such as fd00::1",
    }[version]
