"""Scopes of records: what a tag says."""

from __future__ import annotations

import pytest

from testbed.vnf.functions.sharing import Scope, scope_of


def scope(tag: int, rest: int = 0) -> Scope:
    return scope_of((tag << 56 | rest, 0, 0, 0, 0))


@pytest.mark.parametrize(
    ("first", "last", "expected"),
    [
        (0x01, 0x3F, Scope.LOCAL),
        (0x40, 0x5F, Scope.MERGEABLE),
        (0x60, 0x7F, Scope.LINEARIZABLE),
    ],
)
def test_every_tag_has_one_scope(first: int, last: int, expected: Scope) -> None:
    for tag in range(first, last + 1):
        assert scope(tag) is scope(tag, (1 << 56) - 1) is expected


@pytest.mark.parametrize("word", [0, (1 << 56) - 1, -1, -(1 << 63)])
def test_other_tags_are_refused(word: int) -> None:
    with pytest.raises(ValueError, match="tag"):
        scope_of((word, 1, 2, 3, 4))
