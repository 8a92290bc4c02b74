"""How often each signature was found by the `idps` instances of several groups."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import numpy as np

from testbed.vnf.functions.function import Function
from testbed.vnf.functions.idps import COUNT_TAG, RULES
from testbed.vnf.functions.share import Contribution, Share
from testbed.vnf.functions.sharing import TAG_SHIFT
from testbed.vnf.state.arrays import Words
from testbed.vnf.state.crdt import GrowCounter


def _keys(function: Function) -> Words:
    """A record for each rule."""
    return np.arange(int(function.config[RULES]), dtype=np.int64) | COUNT_TAG << TAG_SHIFT


def _view(function: Function, told: Mapping[str, Contribution]) -> dict[str, Any]:
    """{"groups": names, "matched": packets for each rule, by its place in `patterns`}."""
    matched = []
    for rule in range(int(function.config[RULES])):
        counts = (
            GrowCounter({replica: int(each.values[rule, 0])})
            for replica, each in enumerate(told.values())
        )
        matched.append(functools.reduce(GrowCounter.merge, counts, GrowCounter()).value)
    return {"groups": list(told), "matched": matched}


SHARE = Share(keys=_keys, view=_view)
