"""Drops packets with few hops left, and counts them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import numpy as np

from testbed.scenario.types import FunctionName
from testbed.vnf.functions.checksums import byte
from testbed.vnf.functions.config import check_keys, integer
from testbed.vnf.functions.effect import drop, forward, put
from testbed.vnf.functions.function import Call, Function, compiled_process
from testbed.vnf.functions.packet import OK, REASONS, parse
from testbed.vnf.functions.table import plain_key
from testbed.vnf.state.records import find

NAME = cast(FunctionName, "hops")
COUNT_TAG = 0x40  # mergeable: this instance's own count, which only grows
FEW_HOPS = len(REASONS)


@compiled_process
def _process(call: Call) -> int:
    view = parse(call.packet, call.length)
    if view.status != OK:
        return drop(call.effect, view.status)
    if byte(call.packet, 8 if view.version == 4 else 7) >= call.config[0]:
        return forward(call.effect, view.length)
    key = plain_key(COUNT_TAG, 0)
    row = find(call.records, key)
    put(call.effect, key, 0, 1 + (call.records.values[row, 0] if row >= 0 else 0))
    return drop(call.effect, FEW_HOPS)


def make(config: Mapping[str, Any]) -> Function:
    """Key: `least_hops`; raises InputError."""
    check_keys(NAME, config, ("least_hops",))
    least_hops = integer(NAME, config, "least_hops", 5, 0, 255)
    return Function(
        name=NAME,
        process=_process,
        config=np.array([least_hops], np.int64),
        reasons=(*REASONS, "few-hops"),
        capacity=1,
        value_words=1,
    )
