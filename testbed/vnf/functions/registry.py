"""Which network functions there are, by the name that scenarios use."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from testbed.scenario.errors import InputError
from testbed.scenario.types import FunctionName
from testbed.vnf.functions.base import Function
from testbed.vnf.functions.firewall import Firewall
from testbed.vnf.functions.idps import Idps
from testbed.vnf.functions.nat import Nat
from testbed.vnf.functions.traffic_monitor import TrafficMonitor
from testbed.vnf.functions.voc import VideoOptimisationController

_MAKERS: Mapping[str, Callable[[Mapping[str, Any]], Function]] = {
    "nat": Nat.from_config,
    "fw": Firewall.from_config,
    "tm": TrafficMonitor.from_config,
    "voc": VideoOptimisationController.from_config,
    "idps": Idps.from_config,
}


def make_function(name: FunctionName, config: Mapping[str, Any]) -> Function:
    """The function called `name`, configured by `config` (JSON values; {} gives the defaults).

    Only `nat` has a key that must be given: `public_address`. Raises InputError for an unknown
    name, an unknown key or a bad value.
    """
    maker = _MAKERS.get(name)
    if maker is None:
        raise InputError("function", name, f"one of {', '.join(_MAKERS)}")
    return maker(config)
