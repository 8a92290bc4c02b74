"""What a file says of itself, and how it differs from what was expected."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_SHOWN = 3
"""Of what differs, at most so much is told."""
_LONGEST = 40
"""Longer values, such as digests, say nothing to a reader."""


def differences(expected: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    """Names whose values differ, with both values, in words; empty if none does."""
    names = [n for n in {**expected, **found} if expected.get(n) != found.get(n)]
    told = [_told(name, expected.get(name), found.get(name)) for name in names[:_SHOWN]]
    more = len(names) - _SHOWN
    return ", ".join([*told, *([f"and {more} more that differ"] if more > 0 else [])])


def flat(values: Mapping[Any, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings and lists as one, with dots in its names."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        inner = dict(enumerate(value)) if isinstance(value, (list, tuple)) else value
        if isinstance(inner, Mapping) and inner:
            found |= flat(inner, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found


def _told(name: str, expected: object, found: object) -> str:
    if max(len(str(expected)), len(str(found))) > _LONGEST:
        return f"the same {name}"
    return f"{name} {expected}, not {found}"
