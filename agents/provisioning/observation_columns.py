"""The columns of the observation: their names, units and scales, and where each stands.

Each part of the observation has one table below. A column stands where its name stands in the
table. Counts are shown as log(1 + n) / 6, in which 1 stands for some 400. All columns lie within 0
and `CUT`. "Here" is the data centre whose turn it is. Servable are, of each group, as many chains
as an instance here could serve in this step if it served no other group (`servable` in chains.py).
"""

from __future__ import annotations

from agents.common.columns import Column
from agents.provisioning.types import VNF_NAMES

LARGEST_CPU = 120.0
LONGEST_WAY_MS = 5.0
LONGEST_BOUND_MS = 100.0
CUT = 4.0
"""No column is above it."""


COUNTED = "log(1 + n) / 6"
SHOWN = "as it is"
HEAD_COLUMNS = (
    Column("cpu_free", "CPU", "/ 120"),
    Column("cpu", "CPU", "/ 120"),
    Column("ram_free", "GB", "/ 256"),
    Column("storage_free", "GB", "/ 2000"),
    Column("decisions_left", "share of a step's", SHOWN),
    Column("turns_left", "share of a step's", SHOWN),
    Column("chains", "chains", COUNTED),
)
"""What is here."""
VNF_COLUMNS = (
    Column("idle", "instances", COUNTED),
    Column("running", "instances", COUNTED),
    Column("filled", "share of an instance's step, by what is servable", "at most 1"),
    Column("servable", "chains", COUNTED),
    Column("completed", "servable chains of which it is the last VNF", COUNTED),
    Column("here", "servable chains that are here", COUNTED),
    Column("left", "ms, of the most urgent servable chain", "/ 100"),
    Column("packed", "share of an instance's step, by what is best served here", SHOWN),
    Column("slack", "ms to spare, of the most urgent of these", "1 / (1 + n), 0 without one"),
    Column("worth", "chains finished for a CPU ms, about (`offers` in packing.py)", COUNTED),
    Column("advised", "whether the packing heuristic would allocate it", SHOWN),
)
"""What an instance of each VNF here would do."""
OWN_COLUMNS = HEAD_COLUMNS + tuple(
    column._replace(name=f"{name}_{column.name}") for name in VNF_NAMES for column in VNF_COLUMNS
)
UNDERWAY_COLUMNS = (
    Column("chains", "chains of the type with a VNF behind them", COUNTED),
    Column("here", "of these, those that are here", COUNTED),
    Column("left", "ms, of the most urgent", "/ the type's bound"),
    Column("second", "chains that need their second VNF next", COUNTED),
    Column("third", "chains that need their third VNF next", COUNTED),
    Column("fourth", "chains that need their fourth VNF next", COUNTED),
    Column("fifth", "chains that need their fifth VNF next", COUNTED),
)
PENDING_COLUMNS = (
    Column("chains", "chains of the type without a VNF behind them", COUNTED),
    Column("here", "of these, those that are here", COUNTED),
    Column("left", "ms, of the most urgent", "/ the type's bound"),
    Column("rate", "Mb/s, of all together", "/ 1000, at most 4"),
    Column("servable", "of these, those that are servable here", COUNTED),
)
CENTRE_COLUMNS = (
    Column("cpu_free", "CPU", "/ 120"),
    Column("cpu", "CPU", "/ 120"),
    Column("delay", "ms from here", "/ 5, at most 4"),
    Column("link_free", "Mb/s from here", "/ 1000"),
    Column("is_here", "whether it is here", SHOWN),
    Column("turn_to_come", "whether its turn is still to come", SHOWN),
    Column("chains", "chains there", COUNTED),
    *(Column(f"{name}_idle", "instances", COUNTED) for name in VNF_NAMES),
    *(Column(f"{name}_needed", "chains there that need it next", COUNTED) for name in VNF_NAMES),
)


def place_of(columns: tuple[Column, ...], name: str) -> int:
    """The number of the column of that name."""
    return [column.name for column in columns].index(name)


HEAD, EACH = len(HEAD_COLUMNS), len(VNF_COLUMNS)
OWN, UNDERWAY = len(OWN_COLUMNS), len(UNDERWAY_COLUMNS)
PENDING, CENTRE = len(PENDING_COLUMNS), len(CENTRE_COLUMNS)

# Compiled code takes numbers alone.
CPU_FREE, CAPACITY, RAM_FREE, STORAGE_FREE, DECISIONS_LEFT, TURNS_LEFT, ALL_CHAINS = (
    place_of(HEAD_COLUMNS, name)
    for name in (
        "cpu_free", "cpu", "ram_free", "storage_free", "decisions_left", "turns_left", "chains",
    )
)  # fmt: skip
(
    VNF_IDLE, VNF_RUNNING, VNF_FILLED, VNF_SERVABLE, VNF_COMPLETED, VNF_HERE, VNF_LEFT, VNF_PACKED,
    VNF_SLACK, VNF_WORTH, VNF_ADVISED,
) = (
    place_of(VNF_COLUMNS, name)
    for name in (
        "idle", "running", "filled", "servable", "completed", "here", "left", "packed", "slack",
        "worth", "advised",
    )
)  # fmt: skip
TYPE_CHAINS, TYPE_HERE, TYPE_LEFT = (
    place_of(UNDERWAY_COLUMNS, name) for name in ("chains", "here", "left")
)
"""At the same place in both tables of types."""
NEEDS_SECOND = place_of(UNDERWAY_COLUMNS, "second")
PENDING_RATE, PENDING_SERVABLE = (place_of(PENDING_COLUMNS, name) for name in ("rate", "servable"))
CENTRE_CPU_FREE, CENTRE_CPU, CENTRE_DELAY, CENTRE_LINK, CENTRE_HERE, CENTRE_TO_COME = (
    place_of(CENTRE_COLUMNS, name)
    for name in ("cpu_free", "cpu", "delay", "link_free", "is_here", "turn_to_come")
)
CENTRE_CHAINS = place_of(CENTRE_COLUMNS, "chains")
CENTRE_IDLE = place_of(CENTRE_COLUMNS, f"{VNF_NAMES[0]}_idle")
CENTRE_NEEDED = place_of(CENTRE_COLUMNS, f"{VNF_NAMES[0]}_needed")
