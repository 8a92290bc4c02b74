"""How large a run may be. Each bound of the scenario file that stands in several places is here."""

from __future__ import annotations

MAX_RUN_S = 604_800.0
"""A run takes a week at most."""
MAX_FAR_S = 1e9
"""Of a time that may lie beyond the end of any run."""
MAX_DELAY_S = 10.0
"""A link's delay at most."""
LEAST_RATE_BPS, MOST_RATE_BPS = 10e3, 100e9
"""A link's rate; what a back end reaches on a host is less."""
MAX_ENTRIES = 1000
"""Entries of a list of the file at most: of changes, faults, moves, seeds and the like."""
MAX_NODES, MAX_LINKS = 128, 999
"""Interface names and MAC addresses of a run have room for this many."""
MAX_SHARDS = 8
"""Shards of a chain at most."""
MAX_UNITS = 512
"""Shards of all requests of a run together at most: the ports of their groups are of as many.

So there are no more requests either."""
MAX_PACKETS = 10_000_000
"""Packets of a run at most: all are planned before it, and recorded one by one."""
MAX_STEPS = 10_000
"""Steps of a rate that varies, over a run, at most."""
