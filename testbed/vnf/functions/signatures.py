"""Payload signatures of the IDPS: the built-in ones, and how others are written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from testbed.scenario.errors import InputError
from testbed.vnf.functions.config import choice

MAX_SIGNATURES = 65_536


@dataclass(frozen=True, slots=True)
class Signature:
    """A byte pattern; `drop` says whether a match drops the packet or is only counted."""

    name: str
    pattern: bytes
    drop: bool


DEFAULT_SIGNATURES: tuple[Signature, ...] = (
    Signature("shellshock-cve-2014-6271", b"() { :;};", True),
    Signature("log4shell-cve-2021-44228", b"${jndi:", True),
    Signature("nop-sled-x86", b"\x90" * 32, True),
    Signature("php-cgi-cve-2012-1823", b"-d+allow_url_include", True),
    Signature("spring4shell-cve-2022-22965", b"class.module.classLoader", True),
    Signature("path-traversal", b"../../../", False),
    Signature("unix-password-file", b"/etc/passwd", False),
    Signature("sql-injection-union", b"UNION SELECT", False),
    Signature("windows-shell", b"cmd.exe", False),
)
"""Each pattern is the fixed part of a well-known attack."""


def read_signatures(value: object) -> tuple[Signature, ...]:
    """Signatures from configuration; raises InputError for bad, empty or repeated patterns."""
    if not isinstance(value, list | tuple) or len(value) > MAX_SIGNATURES:
        raise InputError("idps.patterns", value, f"a list of at most {MAX_SIGNATURES} patterns")
    signatures = tuple(_read(f"idps.patterns[{i}]", item) for i, item in enumerate(value))
    if len({signature.pattern for signature in signatures}) < len(signatures):
        raise InputError("idps.patterns", value, "patterns without repetition")
    return signatures


def _read(where: str, item: object) -> Signature:
    if not isinstance(item, Mapping):
        return Signature(str(item), _pattern(where, item), True)
    for key in item:
        if key not in ("name", "pattern", "action"):
            raise InputError(where, key, "one of name, pattern, action")
    pattern = _pattern(f"{where}.pattern", item.get("pattern"))
    name = item.get("name", item["pattern"])
    if not isinstance(name, str):
        raise InputError(f"{where}.name", name, "text")
    action = choice(where, item, "action", "drop", ("drop", "alert"))
    return Signature(name, pattern, action == "drop")


def _pattern(where: str, value: object) -> bytes:
    if not isinstance(value, str) or not value:
        raise InputError(where, value, "text, or hex: and hexadecimal digits; not empty")
    if not value.startswith("hex:"):
        return value.encode()
    try:
        pattern = bytes.fromhex(value[4:])
    except ValueError:
        pattern = b""
    if not pattern:
        raise InputError(where, value, "an even number of hexadecimal digits after hex:")
    return pattern
