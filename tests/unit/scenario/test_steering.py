"""Service path identifiers: the chain's path in the low bits, the shard in the high ones."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from testbed.scenario.steering import (
    BASE_PATHS,
    SHARDS,
    base_path,
    forward_path,
    path_mac,
    reverse_path,
    shard_of,
    with_shard,
)

LAST_REQUEST = (1 << 19) - 2


@given(st.integers(0, (1 << 20) - 1), st.integers(0, 15), st.integers(0, 15))
def test_a_path_is_its_base_path_and_its_shard(base: int, shard: int, other: int) -> None:
    path = with_shard(base, shard)
    assert path < 1 << 24
    assert (base_path(path), shard_of(path)) == (base, shard)
    assert with_shard(path, other) == with_shard(base, other)
    assert with_shard(base, 0) == base


def test_the_shard_is_the_top_four_of_24_bits() -> None:
    assert with_shard(0x12345, 0xA) == 0xA12345
    assert path_mac(with_shard(0x12345, 0xA), 1, 0) == "02:a1:23:45:01:00"


@pytest.mark.parametrize(("path", "shard"), [(0, SHARDS), (0, -1), (-1, 0), (1 << 24, 0)])
def test_what_does_not_fit_is_refused(path: int, shard: int) -> None:
    with pytest.raises(ValueError, match="out of range"):
        with_shard(path, shard)


def test_requests_leave_room_for_the_shard() -> None:
    assert (forward_path(0), reverse_path(0)) == (2, 3)
    assert forward_path(LAST_REQUEST) < reverse_path(LAST_REQUEST) == BASE_PATHS - 1
    for request in (-1, LAST_REQUEST + 1):
        for path in (forward_path, reverse_path):
            with pytest.raises(ValueError, match=f"request {request}"):
                path(request)
