"""Which network functions there are, by the name that scenarios use."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from testbed.scenario.errors import InputError
from testbed.scenario.types import FunctionName
from testbed.vnf.functions import (
    firewall,
    idps,
    load_balancer,
    nat,
    signature_view,
    traffic_monitor,
    traffic_view,
    voc,
    wan_optimiser,
)
from testbed.vnf.functions.function import Function, Maker
from testbed.vnf.functions.share import Share

MAKERS: Mapping[FunctionName, Maker] = {
    "nat": nat.make,
    "fw": firewall.make,
    "tm": traffic_monitor.make,
    "voc": voc.make,
    "idps": idps.make,
    "wo": wan_optimiser.make,
    "lb": load_balancer.make,
}

SHARES: Mapping[FunctionName, Share] = {
    "tm": traffic_view.SHARE,
    "idps": signature_view.SHARE,
}
"""The functions whose groups tell one another what they have counted, and how."""


def make_function(name: FunctionName, config: Mapping[str, Any]) -> Function:
    """The function called `name`, configured by `config` (JSON values; {} gives the defaults).

    Keys that must be given: `public_address` of `nat`, `virtual_address` and `backends` of `lb`.
    Raises InputError for an unknown name, an unknown key or a bad value.
    """
    maker = MAKERS.get(name)
    if maker is None:
        raise InputError("function", name, f"one of {', '.join(MAKERS)}")
    return maker(config)
