"""The wiring's JSON: read back as written, refused by the name of the field."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given

from controller.wiring import Wiring, WiringError
from tests.support.controller_support import make_wiring, wirings


@given(wirings())
def test_json_there_and_back(wiring: Wiring) -> None:
    assert Wiring.from_json(json.loads(json.dumps(wiring.to_json()))) == wiring


def _set(*path: Any) -> Callable[[dict[str, Any]], None]:
    *where, last, value = path

    def change(data: Any) -> None:
        for key in where:
            data = data[key]
        data[last] = value

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_set("extra", 1), r"wiring\.extra"),
        (_set("switches", {}), "switches = {}: expected a list"),
        (_set("switches", 0, "dpid", "1"), r"switches\.0\.dpid = '1'"),
        (_set("switches", 0, "dpid", True), r"switches\.0\.dpid = True"),
        (_set("switches", 1, "dpid", 1), r"switches\.dpid = 1.*once"),
        (_set("switches", 1, "name", "s0"), r"switches\.name = 's0'.*once"),
        (_set("links", 0, "a_port", 0), r"links\.0\.a_port = 0"),
        (_set("links", 0, "a_port", 1), r"port 1'.*once"),
        (_set("links", 0, "b", "s7"), r"links\.0\.b = 's7'"),
        (_set("links", 0, "b", "s0"), r"links\.0\.b = 's0'.*another"),
        (_set("links", 0, "delay_ns", 1.5), r"links\.0\.delay_ns = 1\.5"),
        (_set("links", 0, "delay_ns", -1), r"links\.0\.delay_ns = -1"),
        (_set("hosts", 1, "mac", "0a:00:00:00:00:0G"), r"hosts\.1\.mac"),
        (_set("hosts", 1, "mac", "ff:ff:ff:ff:ff:ff"), r"hosts\.1\.mac.*unicast"),
        (_set("hosts", 1, "mac", "0a:00:00:00:00:01"), r"hosts\.mac.*once"),
        (_set("hosts", 1, "port", 1), r"hosts\.1\.switch.*once"),
        (_set("hosts", 1, "switch", "x"), r"hosts\.1\.switch = 'x'"),
        (_set("hosts", 1, "name", ""), r"hosts\.1\.name"),
        (lambda data: data["hosts"][0].pop("port"), r"hosts\.0\.port.*missing"),
    ],
)
def test_a_wrong_field_is_named(change: Callable[[dict[str, Any]], None], words: str) -> None:
    data = copy.deepcopy(make_wiring(2, [(0, 1, 1)]).to_json())
    change(data)
    with pytest.raises(WiringError, match=words):
        Wiring.from_json(data)
