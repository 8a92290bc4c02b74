"""The example in docs/functions.md: it is this code, and it works."""

from __future__ import annotations

from pathlib import Path

import pytest

from testbed.scenario.errors import InputError
from testbed.vnf.functions.registry import MAKERS
from tests.support.functions_support import Runner, udp, udp6
from tests.support.places import ROOT
from tests.unit.vnf.functions import documented_example
from tests.unit.vnf.functions.documented_example import COUNT_TAG, make

DOCUMENT = ROOT / "docs" / "functions.md"


def test_the_document_shows_this_code() -> None:
    _, block, *_ = DOCUMENT.read_text().split("```python\n")
    code, _, _ = block.partition("```\n")
    assert code == Path(documented_example.__file__).read_text()


def test_the_example_works() -> None:
    runner = Runner(make({"least_hops": 9}))
    for number, packet in enumerate((udp(), udp6())):
        field = "hlim" if packet.version == 6 else "ttl"
        setattr(packet, field, 9)
        assert bytes(runner.passes(packet)) == bytes(packet)
        setattr(packet, field, 8)
        assert runner.dropped(packet) == "few-hops"
        assert runner.state == {(COUNT_TAG << 56, 0, 0, 0, 0): (number + 1,)}
    assert runner.dropped(b"") == "malformed"


def test_the_example_refuses_bad_configuration() -> None:
    with pytest.raises(InputError) as caught:
        make({"least_hops": 256})
    assert caught.value.field == "hops.least_hops"


def test_the_document_describes_every_function() -> None:
    text = DOCUMENT.read_text()
    for name in MAKERS:
        assert f"| `{name}` |" in text
