"""Prioritised replay: the sum tree and n-step returns against hand-computed values."""

from __future__ import annotations

import numpy as np
import pytest

from agents.common.replay import Cut, NStep, PrioritisedReplay, SumTree, Transition


def transitions(values: list[float], actions: int = 2) -> Transition:
    count = len(values)
    rows = np.array(values)[:, None]
    return Transition(
        rows, np.arange(count), np.array(values), np.ones(count), rows + 1.0,
        np.ones((count, actions), dtype=bool),
    )  # fmt: skip


def test_the_sum_tree_finds_the_place_that_a_mass_falls_into() -> None:
    tree = SumTree(5)
    tree.set(np.arange(5), np.array([1.0, 2.0, 0.0, 3.0, 4.0]))
    assert tree.total == 10.0
    mass = np.array([0.0, 0.999, 1.0, 2.999, 3.0, 5.999, 6.0, 9.999])
    assert tree.find(mass).tolist() == [0, 0, 1, 1, 3, 3, 4, 4]


def test_what_is_set_again_replaces_what_was_there() -> None:
    tree = SumTree(3)
    tree.set(np.array([0, 1, 2]), np.array([5.0, 1.0, 1.0]))
    tree.set(np.array([0, 1, 1]), np.array([0.0, 9.0, 2.0]))
    assert tree.get(np.arange(3)).tolist() == [0.0, 2.0, 1.0]
    assert tree.total == 3.0
    assert tree.find(np.array([0.0])).tolist() == [1]


def test_the_very_end_of_the_mass_is_not_an_empty_place() -> None:
    tree = SumTree(4)
    tree.set(np.arange(4), np.array([0.1, 0.2, 0.3, 0.0]))
    assert tree.find(np.array([tree.total])).tolist() == [2]


def test_transitions_are_drawn_in_proportion_to_their_priority() -> None:
    replay = PrioritisedReplay(8, 1, 2, alpha=0.5, floor=0.0)
    replay.add(transitions([0.0, 1.0, 2.0]))
    replay.update(np.arange(3), np.array([1.0, -4.0, 9.0]))  # priorities 1, 2, 3
    drawn = replay.sample(np.full(6000, 0.5), beta=1.0)
    assert np.bincount(drawn.places).tolist() == [1000, 2000, 3000]
    # (N P)^-1 is 2, 1, 2/3; over the largest of them: 1, 1/2, 1/3.
    for index, weight in ((0, 1.0), (1, 0.5), (2, 1.0 / 3.0)):
        np.testing.assert_allclose(drawn.weight[drawn.places == index], weight)


def test_without_alpha_all_are_equal_and_weigh_the_same() -> None:
    replay = PrioritisedReplay(4, 1, 2, alpha=0.0)
    replay.add(transitions([0.0, 1.0, 2.0, 3.0]))
    replay.update(np.arange(4), np.array([1.0, 10.0, 100.0, 1000.0]))
    drawn = replay.sample(np.full(400, 0.5), beta=0.7)
    assert np.bincount(drawn.places).tolist() == [100] * 4
    assert (drawn.weight == 1.0).all()


def test_a_new_transition_has_the_highest_priority_there_was() -> None:
    replay = PrioritisedReplay(8, 1, 2, alpha=1.0, floor=0.0)
    replay.add(transitions([0.0, 1.0]))
    replay.update(np.arange(2), np.array([3.0, 1.0]))
    replay.add(transitions([2.0]))
    assert np.bincount(replay.sample(np.full(700, 0.5), 1.0).places).tolist() == [300, 100, 300]


def test_the_oldest_make_room() -> None:
    replay = PrioritisedReplay(3, 1, 2, alpha=1.0)
    replay.add(transitions([0.0, 1.0]))
    replay.add(transitions([2.0, 3.0]))
    assert len(replay) == 3
    drawn = replay.sample(np.full(300, 0.5), 1.0).transition
    assert sorted(set(drawn.reward.tolist())) == [1.0, 2.0, 3.0]


def test_a_restored_replay_goes_on_as_the_first() -> None:
    first = PrioritisedReplay(4, 1, 2, alpha=0.6)
    first.add(transitions([0.0, 1.0, 2.0]))
    first.update(np.arange(2), np.array([5.0, 0.5]))
    second = PrioritisedReplay(4, 1, 2, alpha=0.6)
    second.restore(first.state())
    for replay in (first, second):
        replay.add(transitions([7.0, 8.0]))
    uniform = np.random.default_rng(0).random(64)
    one, two = first.sample(uniform, 0.4), second.sample(uniform, 0.4)
    assert one.places.tolist() == two.places.tolist()
    assert one.weight.tolist() == two.weight.tolist()
    assert one.transition.reward.tolist() == two.transition.reward.tolist()


def pushed(
    steps: NStep, t: int, reward: list[float], discount: list[float], cut: Cut | None = None
) -> list[Transition]:
    """Step `t` of some environments: they show t before it and t + 1 after it."""
    count = len(reward)
    rows = np.full((count, 1), float(t))
    mask = np.ones((count, 2), dtype=bool)
    action = np.full(count, t)
    return steps.push(rows, action, np.array(reward), np.array(discount), rows + 1.0, mask, cut)


def test_n_step_returns_end_with_the_episode() -> None:
    steps = NStep(3)
    # Environment 0 goes on; environment 1 ends with its second step (discount 0).
    assert pushed(steps, 0, [1.0, 1.0], [0.5, 0.5]) == []
    assert pushed(steps, 1, [2.0, 2.0], [0.5, 0.0]) == []
    (ready,) = pushed(steps, 2, [4.0, 4.0], [0.5, 0.5])
    assert ready.rows.tolist() == [[0.0], [0.0]]
    assert ready.action.tolist() == [0, 0]
    assert ready.next_rows.tolist() == [[3.0], [3.0]]
    # 1 + 0.5 * 2 + 0.25 * 4 = 3; 1 + 0.5 * 2 = 2.
    assert ready.reward.tolist() == pytest.approx([3.0, 2.0])
    assert ready.discount.tolist() == [0.125, 0.0]


def test_n_step_returns_of_an_episode_that_is_cut_off_lead_to_where_it_was() -> None:
    steps = NStep(3)
    # Environment 1 is cut off with its second step, in a state that shows 9.
    mask = np.array([[True, True], [False, True]])
    cut = Cut(np.array([False, True]), np.array([[np.nan], [9.0]]), mask)
    assert pushed(steps, 0, [1.0, 1.0], [0.5, 0.5]) == []
    first, second = pushed(steps, 1, [2.0, 2.0], [0.5, 0.5], cut)
    # From step 0: 1 + 0.5 * 2, and 0.25 of the value of 9; from step 1: 2, and 0.5 of it.
    for ready, row, reward, discount in ((first, 0.0, 2.0, 0.25), (second, 1.0, 2.0, 0.5)):
        assert ready.rows.tolist() == [[row]]
        assert ready.reward.tolist() == [reward]
        assert ready.discount.tolist() == [discount]
        assert ready.next_rows.tolist() == [[9.0]]
        assert ready.next_mask.tolist() == [[False, True]]
    # Environment 0 goes on, and nothing of environment 1 reaches into its next episode.
    third, fourth, fifth = (pushed(steps, t, [4.0, 4.0], [0.5, 0.5]) for t in (2, 3, 4))
    assert [ready.rows[:, 0].tolist() for (ready,) in (third, fourth, fifth)] == [
        [0.0], [1.0], [2.0, 2.0],
    ]  # fmt: skip
    assert third[0].reward.tolist() == [3.0]
    assert fifth[0].reward.tolist() == [7.0, 7.0]
    assert fifth[0].next_rows.tolist() == [[5.0], [5.0]]


def test_an_episode_that_is_cut_off_at_once_and_one_that_ended_before_are_whole() -> None:
    steps = NStep(3)
    everywhere = Cut(np.ones(1, dtype=bool), np.array([[9.0]]), np.ones((1, 2), dtype=bool))
    pushed(steps, 0, [1.0], [0.0])  # ends; the next episode is cut off after two steps
    pushed(steps, 1, [2.0], [0.5])
    found = pushed(steps, 2, [4.0], [0.5], everywhere)
    assert [(r.rows[0, 0], r.reward[0], r.discount[0]) for r in found] == [
        (0.0, 1.0, 0.0), (1.0, 4.0, 0.25), (2.0, 4.0, 0.5),
    ]  # fmt: skip
    (alone,) = pushed(steps, 3, [8.0], [0.5], everywhere)
    assert (alone.rows[0, 0], alone.reward[0], alone.discount[0]) == (3.0, 8.0, 0.5)


def test_restored_steps_go_on_as_the_first_and_share_nothing_with_their_state() -> None:
    first, second = NStep(3), NStep(3)
    cut = Cut(np.array([False, True]), np.full((2, 1), 9.0), np.ones((2, 2), dtype=bool))
    pushed(first, 0, [1.0, 1.0], [0.5, 0.5], cut)
    state = first.state()
    second.restore(state)
    for part in state[0]:
        part.zero_()
    for steps in (first, second):
        assert pushed(steps, 1, [2.0, 2.0], [0.5, 0.5]) == []
    (one,), (two,) = (pushed(steps, 2, [4.0, 4.0], [0.5, 0.5]) for steps in (first, second))
    for kept, given in zip(one, two, strict=True):
        assert kept.tolist() == given.tolist()
    assert one.reward.tolist() == [3.0]  # environment 1's was completed before
