"""The error of links, whatever carries them."""

from __future__ import annotations

from testbed.scenario.errors import RunError


class LinkError(RunError):
    """A link does not have what was asked for: says the interface, what it has, what was asked."""
