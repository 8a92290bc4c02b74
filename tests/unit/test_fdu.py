"""What the FDU does with a failed member follows from the group alone."""

from __future__ import annotations

import pytest

from testbed.orchestration.fdu import Group, Member, reaction

FIRST, SECOND = Member("a", "a.sock"), Member("b", "b.sock")


def test_a_failed_primary_is_replaced_by_its_backup_in_a_new_epoch() -> None:
    found = reaction(Group("g", (FIRST, SECOND), epoch=4), "a")
    assert (found.order, found.survivor, found.failed_role) == ("promote", SECOND, "primary")
    assert found.group == Group("g", (SECOND,), epoch=5)


def test_a_failed_backup_lets_the_primary_go_on_unprotected() -> None:
    found = reaction(Group("g", (FIRST, SECOND)), "b")
    assert (found.order, found.survivor, found.failed_role) == ("unprotect", FIRST, "backup")


def test_the_last_member_cannot_be_replaced() -> None:
    found = reaction(Group("g", (SECOND,), epoch=1), "b")
    assert (found.order, found.survivor) == (None, None)
    assert found.group.members == ()


def test_a_stranger_is_an_error() -> None:
    with pytest.raises(ValueError, match="c"):
        reaction(Group("g", (FIRST, SECOND)), "c")
