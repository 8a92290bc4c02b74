"""The vocabulary of the problem: tables, one stream of requests, the state of a batch.

Tables are those of Onsu et al., IEEE Networking Letters 6(3), 2024. Times are milliseconds; a step
is one of them.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]
Float32Array = NDArray[np.float32]

VNF_NAMES = ("nat", "fw", "voc", "tm", "wo", "idps")
VNFS = len(VNF_NAMES)
CPU = (1.0, 9.0, 5.0, 13.0, 5.0, 11.0)
RAM_GB = (4.0, 5.0, 11.0, 7.0, 2.0, 15.0)
STORAGE_GB = (7.0, 1.0, 13.0, 7.0, 5.0, 2.0)
PROCESSING_MS = (0.06, 0.03, 0.11, 0.07, 0.08, 0.02)

_NAT, _FW, _VOC, _TM, _WO, _IDPS = range(VNFS)
TYPE_NAMES = (
    "cloud-gaming", "augmented-reality", "voip", "video", "massive-iot", "industry",
)  # fmt: skip
TYPES = len(TYPE_NAMES)
LONGEST = 5
"""VNFs of a chain at most."""
CHAINS = (
    (_NAT, _FW, _VOC, _WO, _IDPS),
    (_NAT, _FW, _TM, _VOC, _IDPS),
    (_NAT, _FW, _TM, _FW, _NAT),
    (_NAT, _FW, _TM, _VOC, _IDPS),
    (_NAT, _FW, _IDPS, -1, -1),
    (_NAT, _FW, -1, -1, -1),
)
LENGTHS = (5, 5, 5, 5, 3, 2)
BOUND_MS = (80.0, 10.0, 100.0, 100.0, 5.0, 8.0)
RATE_MBPS = ((4.0, 4.0), (100.0, 100.0), (0.064, 0.064), (4.0, 4.0), (1.0, 50.0), (70.0, 70.0))
"""(least, most) of a request."""
BUNDLE = ((40, 55), (1, 4), (100, 200), (50, 100), (10, 15), (1, 4))
"""(least, most) requests that arrive together."""

RAM_CAPACITY_GB = 256.0
STORAGE_CAPACITY_GB = 2000.0
LINK_MBPS = 1000.0
ARRIVAL_EVERY = 4
"""Steps from one set of bundles to the next."""
ACTIONS_A_STEP = 100

ACTIONS = 2 * VNFS + 1
"""Allocate v: v. Uninstall v: VNFS + v. Wait: the last."""
WAIT = 2 * VNFS


class Stream(NamedTuple):
    """One episode's data centres (D) and bundles of requests (R, in order of arrival)."""

    cpu: FloatArray  # [D], capacity
    delay_ms: FloatArray  # [D, D], propagation
    kind: IntArray  # [R], number of the SFC type
    requests: IntArray  # [R], how many
    source: IntArray  # [R]
    destination: IntArray  # [R]
    rate_mbps: FloatArray  # [R], of each request
    arrival: IntArray  # [R], step


class Totals(NamedTuple):
    """What has happened in each of B episodes so far; all [B] but `*_by_type` [B, TYPES]."""

    satisfied_by_type: IntArray
    dropped_by_type: IntArray
    delay_ms: FloatArray  # end-to-end delays of the satisfied, summed
    cpu_ms: FloatArray  # CPU x time that instances ran
    ram_gb_ms: FloatArray  # the same of RAM
    storage_gb_ms: FloatArray  # storage x time that instances were installed
    invalid: IntArray
    decisions: IntArray


class State(NamedTuple):
    """A batch of B episodes as struct of arrays.

    D data centres, R bundles and G groups are the most that any of them can have. A group is the
    chains of one bundle that have been served together so far; groups 0 ... `groups` are alive, by
    deadline, so that whoever walks along them meets the most urgent first.
    """

    # given by the stream
    centres: IntArray  # [B]
    bundles: IntArray  # [B]
    cpu: FloatArray  # [B, D]
    delay_ms: FloatArray  # [B, D, D]
    kind: IntArray  # [B, R]
    requests: IntArray  # [B, R]
    source: IntArray  # [B, R]
    destination: IntArray  # [B, R]
    rate_mbps: FloatArray  # [B, R]
    arrival: FloatArray  # [B, R], ms
    # clock
    step: IntArray  # [B]
    actions: IntArray  # [B], taken in this step
    turn: IntArray  # [B], position in `order`
    order: IntArray  # [B, D], data centres by priority
    done: BoolArray  # [B]
    # data centres
    cpu_free: FloatArray  # [B, D], in this step
    ram_free: FloatArray  # [B, D], in this step
    storage_free: FloatArray  # [B, D]
    installed: IntArray  # [B, D, VNFS]
    idle: IntArray  # [B, D, VNFS], installed and not running in this step
    link_free: FloatArray  # [B, D, D], Mb/s, in this step
    # chains
    arrived: IntArray  # [B], bundles
    groups: IntArray  # [B]
    bundle: IntArray  # [B, G]
    size: IntArray  # [B, G], chains
    stage: IntArray  # [B, G], VNFs that have served it
    place: IntArray  # [B, G], data centre of the last of them, the source before
    ready_ms: FloatArray  # [B, G], when that was over
    totals: Totals


class Observation(NamedTuple):
    """What is seen at the data centres whose turn it is; see observe.py for the columns."""

    own: Float32Array  # [B, OWN]
    underway: Float32Array  # [B, TYPES, UNDERWAY]
    pending: Float32Array  # [B, TYPES, PENDING]
    centres: Float32Array  # [B, D, CENTRE]
    present: BoolArray  # [B, D]
    mask: BoolArray  # [B, ACTIONS], what is valid
