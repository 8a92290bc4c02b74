"""What a test packet carries comes back, and only that."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from testbed.records.payload import HEADER, IP_UDP_BYTES, MAGIC, PayloadMaker, parse


@given(
    request=st.integers(0, 511),
    l3_bytes=st.integers(64, 1400),
    flow=st.integers(0, 63),
    seq=st.integers(0, 2**40),
    scheduled_ns=st.integers(-(2**62), 2**62),
)
def test_a_payload_has_its_size_and_says_what_it_is(
    request: int, l3_bytes: int, flow: int, seq: int, scheduled_ns: int
) -> None:
    payload = PayloadMaker(request, l3_bytes).make(flow, seq, scheduled_ns)
    assert len(payload) == l3_bytes - IP_UDP_BYTES
    assert parse(payload) == (request, flow, seq, scheduled_ns)
    assert all(byte > 127 for byte in payload[HEADER.size :])


def test_filler_is_the_same_in_every_run_and_differs_between_packets() -> None:
    ours, theirs = PayloadMaker(5, 1400), PayloadMaker(5, 1400)
    assert ours.make(1, 9, 0) == theirs.make(1, 9, 0)
    fillers = {ours.make(flow, seq, 0)[HEADER.size :] for flow in range(4) for seq in range(100)}
    assert len(fillers) == 400


def test_what_is_not_ours_is_not_parsed() -> None:
    payload = PayloadMaker(1, 200).make(0, 0, 0)
    assert parse(payload[: HEADER.size - 1]) is None
    assert parse(b"") is None
    assert parse(b"DTB0" + payload[len(MAGIC) :]) is None


@pytest.mark.parametrize("l3_bytes", [55, 1501])
def test_a_size_that_does_not_fit_is_refused(l3_bytes: int) -> None:
    with pytest.raises(ValueError, match=f"l3_bytes = {l3_bytes}: expected 56 to 1500"):
        PayloadMaker(1, l3_bytes)
