"""Membership: one primary, an epoch for each change, and nothing done for a stale command."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from testbed.vnf.replication import membership as m
from testbed.vnf.state.arrays import Words

MAJORITY = 2


def group_of(primary: int, *backups: int) -> Words:
    group = m.new_group()
    assert m.create(group, primary, sum(1 << backup for backup in backups))
    return group


def roles(group: Words) -> dict[int, int]:
    """The roles of those who have one."""
    found = {member: int(group[m.ROLES + member]) for member in range(m.MAX_MEMBERS)}
    return {member: role for member, role in found.items() if role != m.NONE}


def refused(group: Words, done: bool, before: Words) -> bool:
    return not done and bool(np.array_equal(group, before))


def test_a_group_begins_in_epoch_1() -> None:
    group = group_of(2, 0, 5)
    assert group[m.EPOCH] == 1
    assert roles(group) == {2: m.PRIMARY, 0: m.BACKUP, 5: m.BACKUP}
    assert m.primary_of(group) == 2
    assert m.is_confirmed(group)


@pytest.mark.parametrize(
    ("primary", "backups"), [(-1, 0), (m.MAX_MEMBERS, 0), (1, 0b10), (0, 1 << m.MAX_MEMBERS)]
)
def test_a_group_that_makes_no_sense_is_not_created(primary: int, backups: int) -> None:
    group = m.new_group()
    assert not m.create(group, primary, backups)
    assert not group.any()


def test_a_group_is_created_once() -> None:
    group = group_of(0, 1)
    before = group.copy()
    assert refused(group, m.create(group, 3, 0), before)


def test_a_member_comes_as_a_learner_and_is_admitted() -> None:
    group = group_of(0)
    assert m.join(group, 1, 4)
    assert roles(group) == {0: m.PRIMARY, 4: m.LEARNER}
    assert m.admit(group, 2, 4)
    assert roles(group) == {0: m.PRIMARY, 4: m.BACKUP}
    assert group[m.EPOCH] == 3


def test_a_learner_is_not_promoted() -> None:
    group = group_of(0)
    m.join(group, 1, 1)
    before = group.copy()
    assert refused(group, m.hand_over(group, 2, 1, 0, 1), before)
    assert m.vote_failed(group, 2, 0, 0, 1, MAJORITY)
    assert m.primary_of(group) == -1
    assert roles(group) == {1: m.LEARNER}
    # Nothing can be learnt from a group without a primary.
    before = group.copy()
    assert refused(group, m.admit(group, 3, 1), before)
    assert refused(group, m.join(group, 3, 2), before)


def test_the_backup_admitted_first_takes_over() -> None:
    group = group_of(0, 3)
    m.join(group, 1, 1)
    m.admit(group, 2, 1)
    assert m.vote_failed(group, 3, 0, 0, 1, MAJORITY)
    assert roles(group) == {3: m.PRIMARY, 1: m.BACKUP}


def test_of_backups_admitted_at_once_the_lowest_takes_over() -> None:
    group = group_of(4, 6, 2, 3)
    assert m.vote_failed(group, 1, 4, 0, 1, MAJORITY)
    assert m.primary_of(group) == 2


def test_a_majority_of_different_voters_removes_a_member() -> None:
    group = group_of(0, 1)
    assert not m.vote_failed(group, 1, 0, 2, 0, MAJORITY)
    assert not m.vote_failed(group, 1, 0, 2, 0, MAJORITY)
    assert m.primary_of(group) == 0
    assert m.vote_failed(group, 1, 0, 0, 0, MAJORITY)
    assert roles(group) == {1: m.PRIMARY}


def test_a_withdrawn_vote_does_not_count() -> None:
    group = group_of(0, 1)
    m.vote_failed(group, 1, 0, 2, 0, MAJORITY)
    assert m.retract(group, 1, 0, 2)
    assert not m.retract(group, 1, 0, 2)
    assert not m.vote_failed(group, 1, 0, 1, 0, MAJORITY)
    assert roles(group) == {0: m.PRIMARY, 1: m.BACKUP}


def test_votes_of_a_former_epoch_do_not_count() -> None:
    group = group_of(0, 1)
    m.vote_failed(group, 1, 0, 2, 0, MAJORITY)
    m.join(group, 1, 5)
    assert not m.vote_failed(group, 2, 0, 0, 0, MAJORITY)
    assert m.primary_of(group) == 0


def test_a_confirmed_death_needs_no_majority() -> None:
    group = group_of(0, 1)
    assert m.vote_failed(group, 1, 1, 0, 1, MAJORITY)
    assert roles(group) == {0: m.PRIMARY}
    assert m.is_confirmed(group)


def test_the_successor_of_a_primary_that_may_live_has_to_wait() -> None:
    group = group_of(0, 1, 2)
    m.vote_failed(group, 1, 0, 0, 0, 1)
    assert m.primary_of(group) == 1
    assert not m.is_confirmed(group)
    # Member 2 may have promised member 0 as well, whatever is known of member 1.
    m.vote_failed(group, 2, 1, 0, 1, MAJORITY)
    assert m.primary_of(group) == 2
    assert not m.is_confirmed(group)


def test_a_member_that_came_later_promised_the_doubtful_primary_nothing() -> None:
    group = group_of(0, 1)
    m.vote_failed(group, 1, 0, 0, 0, 1)
    m.join(group, 2, 0)
    m.admit(group, 3, 0)
    m.vote_failed(group, 4, 1, 0, 1, MAJORITY)
    assert m.primary_of(group) == 0
    assert m.is_confirmed(group)


@pytest.mark.parametrize(("stays", "left"), [(0, {1: m.PRIMARY}), (1, {1: 3, 0: m.BACKUP})])
def test_a_planned_hand_over(stays: int, left: dict[int, int]) -> None:
    group = group_of(0, 1)
    assert m.hand_over(group, 1, 1, stays, 1)
    assert roles(group) == left
    assert group[m.EPOCH] == 2
    assert m.is_confirmed(group)


def test_a_hand_over_from_a_primary_that_was_not_drained_has_to_wait() -> None:
    group = group_of(0, 1)
    assert m.hand_over(group, 1, 1, 0, 0)
    assert not m.is_confirmed(group)


def test_who_handed_over_and_stays_is_the_last_heir() -> None:
    group = group_of(0, 1, 2)
    m.hand_over(group, 1, 1, 1, 1)
    assert m.heir_of(group) == 2


def test_backups_and_learners_leave_and_the_primary_does_not() -> None:
    group = group_of(0, 1)
    m.join(group, 1, 2)
    assert m.leave(group, 2, 1)
    assert m.leave(group, 3, 2)
    before = group.copy()
    assert refused(group, m.leave(group, 4, 0), before)
    assert refused(group, m.leave(group, 4, 1), before)


@pytest.mark.parametrize("epoch", [-1, 0, 1, 4, 1 << 40])
def test_a_command_of_another_epoch_changes_nothing(epoch: int) -> None:
    group = group_of(0, 1)
    m.join(group, 1, 2)
    m.admit(group, 2, 2)
    m.join(group, 3, 3)  # epoch 4
    m.vote_failed(group, 4, 1, 1, 0, MAJORITY)
    for other in {epoch} - {4}:
        before = group.copy()
        assert refused(group, m.join(group, other, 5), before)
        assert refused(group, m.admit(group, other, 3), before)
        assert refused(group, m.hand_over(group, other, 1, 0, 1), before)
        assert refused(group, m.leave(group, other, 1), before)
        assert refused(group, m.vote_failed(group, other, 0, 0, 1, MAJORITY), before)
        assert refused(group, m.retract(group, other, 1, 1), before)


@pytest.mark.parametrize("member", [-1, m.MAX_MEMBERS, 1 << 50])
def test_a_number_that_is_no_member_s_changes_nothing(member: int) -> None:
    group = group_of(0, 1)
    before = group.copy()
    assert refused(group, m.join(group, 1, member), before)
    assert refused(group, m.admit(group, 1, member), before)
    assert refused(group, m.hand_over(group, 1, member, 0, 1), before)
    assert refused(group, m.leave(group, 1, member), before)
    assert refused(group, m.vote_failed(group, 1, member, 0, 1, MAJORITY), before)
    assert refused(group, m.vote_failed(group, 1, 0, m.MAX_VOTERS, 1, MAJORITY), before)
    assert refused(group, m.vote_failed(group, 1, 0, -1, 1, MAJORITY), before)


def test_nothing_happens_to_a_group_that_was_not_created() -> None:
    group = m.new_group()
    assert not m.join(group, 0, 1)
    assert not m.vote_failed(group, 0, 1, 0, 1, MAJORITY)
    assert not group.any()


MEMBERS = st.integers(-1, m.MAX_MEMBERS)
FLAGS = st.integers(0, 1)
VOTERS = st.integers(0, 2)


class Membership(RuleBasedStateMachine):
    """Any commands, half of them stale, on a group and on a second one that gets the same."""

    def __init__(self) -> None:
        super().__init__()
        self.group = m.new_group()
        self.twin = m.new_group()
        self.before = self.group.copy()

    def apply(self, name: str, epoch: int | None, *arguments: int) -> None:
        """Apply a command to both; `epoch` is that of the group unless it is given."""
        self.before = self.group.copy()
        command = getattr(m, name)
        if name != "create":
            arguments = (int(self.group[m.EPOCH]) if epoch is None else epoch, *arguments)
        done = command(self.group, *arguments)
        assert command(self.twin, *arguments) == done
        rises = int(self.group[m.EPOCH] - self.before[m.EPOCH])
        if name == "retract":
            assert rises == 0
        else:
            assert rises == int(done)
        if epoch is not None and epoch != self.before[m.EPOCH]:
            assert refused(self.group, done, self.before)
        if done and name not in ("retract", "create"):
            # Once more, it is stale.
            again = self.group.copy()
            assert refused(self.group, command(self.group, *arguments), again)

    @precondition(lambda self: self.group[m.EPOCH] == 0)
    @rule(primary=MEMBERS, backups=st.integers(0, 300))
    def create(self, primary: int, backups: int) -> None:
        self.apply("create", None, primary, backups)

    @rule(epoch=st.none() | st.integers(0, 9), member=MEMBERS)
    def join(self, epoch: int | None, member: int) -> None:
        self.apply("join", epoch, member)

    @rule(epoch=st.none() | st.integers(0, 9), member=MEMBERS)
    def admit(self, epoch: int | None, member: int) -> None:
        self.apply("admit", epoch, member)

    @rule(epoch=st.none() | st.integers(0, 9), member=MEMBERS)
    def leave(self, epoch: int | None, member: int) -> None:
        self.apply("leave", epoch, member)

    @rule(epoch=st.none() | st.integers(0, 9), to=MEMBERS, stays=FLAGS, drained=FLAGS)
    def hand_over(self, epoch: int | None, to: int, stays: int, drained: int) -> None:
        self.apply("hand_over", epoch, to, stays, drained)

    @rule(epoch=st.none() | st.integers(0, 9), member=MEMBERS, voter=VOTERS, confirmed=FLAGS)
    def vote(self, epoch: int | None, member: int, voter: int, confirmed: int) -> None:
        self.apply("vote_failed", epoch, member, voter, confirmed, MAJORITY)

    @rule(epoch=st.none() | st.integers(0, 9), member=MEMBERS, voter=VOTERS)
    def retract(self, epoch: int | None, member: int, voter: int) -> None:
        self.apply("retract", epoch, member, voter)

    @invariant()
    def at_most_one_primary(self) -> None:
        assert list(roles(self.group).values()).count(m.PRIMARY) <= 1

    @invariant()
    def a_backup_becomes_primary_and_nobody_else(self) -> None:
        if self.group[m.EPOCH] > 1:
            new, old = m.primary_of(self.group), m.primary_of(self.before)
            assert new in (-1, old) or self.before[m.ROLES + new] == m.BACKUP

    @invariant()
    def backups_do_not_go_without_a_primary(self) -> None:
        if m.BACKUP in roles(self.group).values():
            assert m.primary_of(self.group) >= 0

    @invariant()
    def a_majority_of_votes_is_never_left_standing(self) -> None:
        votes = self.group[m.VOTES : m.VOTES + m.MAX_MEMBERS]
        assert all(int(vote).bit_count() < MAJORITY for vote in votes)

    @invariant()
    def the_same_commands_give_the_same_record(self) -> None:
        assert np.array_equal(self.group, self.twin)


TestMembership = Membership.TestCase
TestMembership.settings = settings(max_examples=300, stateful_step_count=40, deadline=None)
