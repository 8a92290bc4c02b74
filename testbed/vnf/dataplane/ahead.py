"""Memory that will be needed soon, fetched in time: tables of 100,000 flows are in no cache."""

from __future__ import annotations

from testbed.compiled import compiled
from testbed.vnf.dataplane.frames import FLOW_AT
from testbed.vnf.dataplane.ring import Ring, rx_ahead, rx_frame
from testbed.vnf.functions.checksums import be32
from testbed.vnf.replication.flow_table import expect_flow, expect_marks
from testbed.vnf.state.arrays import Words
from testbed.vnf.state.memory import prefetch

SLOTS_AHEAD, FLOWS_AHEAD, MARKS_AHEAD = 8, 5, 2
"""How many frames ahead; less than there are slots in the smallest ring."""
_LINE_BYTES = 64
_LINES = 3
"""Of a slot: the ring's header, and the headers of the frame and its packet."""


@compiled
def look_ahead(m: Words, ring: Ring) -> None:
    """Fetch what the next frames need, while the oldest one is worked on."""
    slot = rx_ahead(ring, SLOTS_AHEAD)
    for line in range(_LINES):
        prefetch(ring.rx, slot + line * _LINE_BYTES)
    at = rx_frame(ring, rx_ahead(ring, FLOWS_AHEAD))
    if at >= 0:
        expect_flow(m, be32(ring.rx, at + 1) >> 8, be32(ring.rx, at + FLOW_AT))
    at = rx_frame(ring, rx_ahead(ring, MARKS_AHEAD))
    if at >= 0:
        expect_marks(m, be32(ring.rx, at + 1) >> 8, be32(ring.rx, at + FLOW_AT))
