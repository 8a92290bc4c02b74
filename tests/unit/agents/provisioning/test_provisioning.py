"""The simulator of SFC provisioning: small cases by hand, and what holds in every episode."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from agents.provisioning.batch import ProvisioningBatch
from agents.provisioning.bound import accepted_at_most
from agents.provisioning.generator import GeneratorConfig, draw_stream
from agents.provisioning.heuristic import (
    lean_heuristic,
    packing_heuristic,
    priority_heuristic,
    random_actions,
)
from agents.provisioning.types import (
    ACTIONS_A_STEP,
    BOUND_MS,
    BUNDLE,
    CPU,
    LENGTHS,
    RAM_CAPACITY_GB,
    STORAGE_CAPACITY_GB,
    STORAGE_GB,
    TYPES,
    VNFS,
    WAIT,
    IntArray,
    Stream,
)
from testbed.scenario.errors import InputError

NAT, FW, VOC, TM, WO, IDPS = range(VNFS)
VOIP, IOT, INDUSTRY = 2, 4, 5
SHORT = GeneratorConfig(centres=(2, 4), arrival_steps=12, load=(1.0, 6.0))


def one_bundle(
    kind: int = INDUSTRY,
    requests: int = 2,
    cpu: tuple[float, ...] = (100.0,),
    way_ms: float = 0.0,
    ends: tuple[int, int] = (0, 0),
    rate_mbps: float = 1.0,
) -> Stream:
    """A bundle that arrives at once, with `way_ms` between any two data centres."""
    count = len(cpu)
    return Stream(
        cpu=np.array(cpu),
        delay_ms=way_ms * (1.0 - np.eye(count)),
        kind=np.array([kind]),
        requests=np.array([requests]),
        source=np.array([ends[0]]),
        destination=np.array([ends[1]]),
        rate_mbps=np.array([rate_mbps]),
        arrival=np.array([0]),
    )


def play(stream: Stream, *actions: int) -> tuple[ProvisioningBatch, list[float]]:
    batch = ProvisioningBatch([stream])
    return batch, [float(batch.step(np.array([action]))[0]) for action in actions]


def test_a_chain_passes_its_functions_within_a_step_one_request_after_the_other() -> None:
    batch, rewards = play(one_bundle(requests=3), NAT, FW)
    # The NAT ends with the third at 0.18 ms; the group goes on and leaves the firewall 0.09 later.
    assert rewards == [0.0, 3 * 2.0]
    totals = batch.state.totals
    assert totals.delay_ms[0] == pytest.approx(3 * 0.27)
    assert totals.cpu_ms[0] == CPU[NAT] + CPU[FW]
    assert batch.done[0]


def test_an_instance_serves_no_more_than_fit_into_its_step() -> None:
    batch, _ = play(one_bundle(requests=20), NAT)
    state = batch.state  # 1 ms / 0.06 ms: 16 of them
    assert state.size[0, : state.groups[0]].tolist() == [16, 4]
    assert state.stage[0, : state.groups[0]].tolist() == [1, 0]


def test_the_ways_between_data_centres_are_part_of_the_delay() -> None:
    stream = one_bundle(requests=1, cpu=(100.0, 8.0), way_ms=0.2, ends=(1, 1))
    batch = ProvisioningBatch([stream])
    assert batch.state.order[0].tolist() == [1, 0]  # the chain is at 1, so that 1 has its turn
    batch.step(np.array([NAT]))
    # Data centre 1 has 7 CPU left, a firewall takes 9: there was nothing to ask for there.
    assert batch.state.turn[0] == 1
    batch.step(np.array([FW]))
    assert batch.state.totals.delay_ms[0] == pytest.approx(0.06 + 0.2 + 0.03 + 0.2)


def test_a_request_is_dropped_once_its_bound_is_out_of_reach() -> None:
    batch = ProvisioningBatch([one_bundle(kind=IOT, requests=4, cpu=(0.5,))])
    # Nothing fits, so all waits are taken without asking: with the first the episode is over.
    assert batch.step(np.array([WAIT]))[0] == 4 * -1.5
    assert batch.done[0]
    assert batch.state.step[0] == BOUND_MS[IOT]
    assert batch.state.totals.dropped_by_type[0, IOT] == 4


def test_an_action_that_cannot_be_done_is_paid_for_and_changes_nothing() -> None:
    batch, rewards = play(one_bundle(), FW, VNFS + NAT, TM)
    assert rewards == [-1.0, -1.0, -1.0]
    assert batch.state.totals.invalid[0] == 3
    assert batch.state.totals.cpu_ms[0] == 0.0
    assert batch.state.installed.sum() == 0


def test_uninstalling_what_is_needed_is_punished_and_what_is_not_is_free() -> None:
    batch, rewards = play(one_bundle(requests=40), NAT, NAT, WAIT, NAT, VNFS + NAT)
    # In the second step 8 of 40 are without NAT: one instance serves them, the other is not needed.
    assert rewards[-1] == 0.0
    assert batch.state.installed[0, 0, NAT] == 1
    batch, rewards = play(one_bundle(requests=40), NAT, WAIT, VNFS + NAT)
    assert rewards[-1] == -0.5
    assert batch.state.storage_free[0, 0] == STORAGE_CAPACITY_GB


def test_storage_is_used_as_long_as_it_is_installed_and_cpu_while_it_runs() -> None:
    batch, _ = play(one_bundle(requests=20), NAT, WAIT, WAIT)
    totals = batch.state.totals
    assert totals.storage_gb_ms[0] == 2 * STORAGE_GB[NAT]
    assert totals.cpu_ms[0] == CPU[NAT]


def test_an_idle_instance_is_used_again() -> None:
    batch, _ = play(one_bundle(requests=40), NAT, WAIT, NAT)
    assert batch.state.installed[0, 0, NAT] == 1
    assert batch.state.idle[0, 0, NAT] == 0


def test_a_link_carries_no_more_than_its_rate_in_a_step() -> None:
    stream = one_bundle(requests=3, cpu=(0.5, 100.0), ends=(0, 1), rate_mbps=400.0)
    batch = ProvisioningBatch([stream])
    batch.step(np.array([WAIT]))  # nothing can be done at 0, which is asked first
    batch.step(np.array([NAT]))
    state = batch.state
    assert state.size[0, : state.groups[0]].tolist() == [2, 1]
    assert state.link_free[0, 0, 1] == 200.0


def test_streams_are_within_the_tables() -> None:
    stream = draw_stream(GeneratorConfig(), (1, 2))
    assert 2 <= len(stream.cpu) <= 8
    assert ((stream.cpu >= 12) & (stream.cpu <= 120)).all()
    assert np.unique(stream.arrival).tolist() == list(range(0, 100, 4))
    for kind in range(TYPES):
        sizes = stream.requests[stream.kind == kind]
        assert len(sizes) == 25
        assert ((sizes >= BUNDLE[kind][0]) & (sizes <= BUNDLE[kind][1])).all()
    again = draw_stream(GeneratorConfig(), (1, 2))
    assert all(np.array_equal(a, b) for a, b in zip(stream, again, strict=True))
    other = draw_stream(GeneratorConfig(), (1, 3))
    assert not np.array_equal(stream.requests, other.requests)


@pytest.mark.parametrize(
    ("field", "value"),
    [("centres", (0, 2)), ("cpu", (5, 4)), ("load", (0.0, 1.0)), ("arrival_steps", 0)],
)
def test_a_range_from_which_nothing_can_be_drawn_is_refused(field: str, value: object) -> None:
    with pytest.raises(InputError, match=field):
        dataclasses.replace(GeneratorConfig(), **{field: value})  # type: ignore[arg-type]


def scripted(batch: ProvisioningBatch, drawn: IntArray) -> list[tuple[float, ...]]:
    """What an episode goes through when action `drawn[t]` counts among the valid ones."""
    log = []
    for t in range(drawn.shape[0]):
        mask = batch.observe().mask
        actions = np.array(
            [np.flatnonzero(m)[n % m.sum()] for m, n in zip(mask, drawn[t], strict=True)]
        )
        rewards = batch.step(actions)
        seen = batch.observe()
        sums = [part.reshape(len(rewards), -1).sum(1, dtype=np.float64) for part in seen[:4]]
        log.append((*rewards, *np.concatenate(sums)))
    return log


def test_a_batch_is_its_episodes_one_by_one_to_the_last_bit() -> None:
    streams = [draw_stream(SHORT, (5, i)) for i in range(6)]
    drawn = np.random.default_rng(0).integers(0, 1000, (400, 6))
    together = np.array(scripted(ProvisioningBatch(streams), drawn)).reshape(400, 5, 6)
    for i, stream in enumerate(streams):
        alone = np.array(scripted(ProvisioningBatch([stream]), drawn[:, i : i + 1]))
        assert np.array_equal(alone, together[:, :, i])


def check_invariants(batch: ProvisioningBatch) -> None:
    s = batch.state
    assert (s.cpu_free >= 0).all()
    assert (s.ram_free >= 0).all()
    assert (s.ram_free <= RAM_CAPACITY_GB).all()
    assert (s.link_free > -1e-6).all()
    assert ((s.idle >= 0) & (s.idle <= s.installed)).all()
    stored = (s.installed * np.array(STORAGE_GB)).sum(-1)
    np.testing.assert_allclose(s.storage_free, STORAGE_CAPACITY_GB - stored)
    assert (s.actions < ACTIONS_A_STEP).all()
    totals = s.totals
    for b in range(len(s.step)):
        n = s.groups[b]
        settled = totals.satisfied_by_type[b].sum() + totals.dropped_by_type[b].sum()
        assert settled + s.size[b, :n].sum() == s.requests[b, : s.arrived[b]].sum()
        kinds = s.kind[b, s.bundle[b, :n]]
        assert (s.stage[b, :n] < np.array(LENGTHS)[kinds]).all()
        due = s.arrival[b, s.bundle[b, :n]] + np.array(BOUND_MS)[kinds]
        assert (np.diff(due) >= 0).all()


def test_nothing_is_lost_and_no_capacity_exceeded() -> None:
    batch = ProvisioningBatch([draw_stream(SHORT, (3, i)) for i in range(12)])
    actor = random_actions(np.random.default_rng(1))
    while not batch.done.all():
        batch.step(actor(batch))
        check_invariants(batch)
    assert batch.state.totals.invalid.sum() == 0  # the mask lets nothing invalid through
    assert batch.state.totals.dropped_by_type.sum() > 0
    assert batch.state.totals.satisfied_by_type.sum() > 0


def test_the_mask_leaves_out_only_what_is_invalid() -> None:
    batch = ProvisioningBatch([draw_stream(SHORT, (4, i)) for i in range(8)])
    rng, refused = np.random.default_rng(2), 0
    for _ in range(300):
        mask = batch.observe().mask.copy()
        actions = rng.integers(0, WAIT, len(mask))
        before = batch.state.totals.invalid.copy()
        over = batch.done.copy()
        batch.step(actions)
        invalid = batch.state.totals.invalid - before
        expected = ~mask[np.arange(len(mask)), actions] & ~over
        assert invalid.tolist() == expected.tolist()
        refused += int(invalid.sum())
    assert refused > 100


def test_an_episode_that_is_over_stays_as_it_is() -> None:
    batch, _ = play(one_bundle(requests=1), NAT, FW)
    decisions = batch.state.totals.decisions.copy()
    assert batch.step(np.array([NAT])).tolist() == [0.0]
    assert batch.state.totals.decisions.tolist() == decisions.tolist()
    assert batch.observe().own.sum() == 0.0


def test_the_heuristic_takes_the_most_urgent_first_and_the_nearest_data_centre() -> None:
    iot, voip = one_bundle(kind=IOT), one_bundle(kind=VOIP)
    both = voip._replace(
        **{
            name: np.concatenate([getattr(voip, name), getattr(iot, name)])
            for name in ("kind", "requests", "source", "destination", "rate_mbps", "arrival")
        }
    )
    batch = ProvisioningBatch([both])
    batch.step(priority_heuristic(batch))  # a NAT for all four
    assert priority_heuristic(batch).tolist() == [FW]
    far = one_bundle(requests=1, cpu=(100.0, 100.0), way_ms=0.3)
    batch = ProvisioningBatch([far])
    batch.state.order[0] = [1, 0]  # the turn is that of the data centre that is further away
    assert priority_heuristic(batch).tolist() == [WAIT]


def test_the_lean_heuristic_keeps_less_installed() -> None:
    streams = [draw_stream(SHORT, (8, i)) for i in range(4)]
    plain, lean = ProvisioningBatch(streams), ProvisioningBatch(streams)
    kept, freed = plain.run(priority_heuristic), lean.run(lean_heuristic)
    assert (freed.storage_gb_ms < kept.storage_gb_ms).all()
    assert (lean.state.installed.sum((1, 2)) < plain.state.installed.sum((1, 2))).all()


def test_the_packing_heuristic_waits_for_a_full_instance_while_there_is_time() -> None:
    full = ProvisioningBatch([one_bundle(kind=VOIP, requests=14)])
    assert packing_heuristic(full).tolist() == [NAT]  # 14 of the 16 chains of a step
    few = ProvisioningBatch([one_bundle(kind=VOIP, requests=13)])
    assert packing_heuristic(few).tolist() == [NAT if 13 * 0.06 >= 0.8 else WAIT]
    hasty = ProvisioningBatch([one_bundle(kind=VOIP, requests=1)])
    hasty.state.arrival[0, 0] = -98.8  # 1.2 ms are left for 0.25 ms of work
    assert packing_heuristic(hasty).tolist() == [NAT]
    hasty.state.arrival[0, 0] = -98.7
    assert packing_heuristic(hasty).tolist() == [WAIT]


def test_the_packing_heuristic_finishes_chains_before_it_begins_others() -> None:
    begun, new = one_bundle(kind=INDUSTRY, requests=30), one_bundle(kind=VOIP, requests=30)
    both = new._replace(
        **{
            name: np.concatenate([getattr(begun, name), getattr(new, name)])
            for name in ("kind", "requests", "source", "destination", "rate_mbps", "arrival")
        }
    )
    batch = ProvisioningBatch([both])
    s = batch.state
    mine = int(np.flatnonzero(s.bundle[0, : s.groups[0]] == 0)[0])
    assert packing_heuristic(batch).tolist() == [NAT]
    s.stage[0, mine] = 1  # those of Industry 4.0 need a firewall, their last function
    assert packing_heuristic(batch).tolist() == [FW]


def test_the_packing_heuristic_accepts_more_where_work_is_short() -> None:
    config = GeneratorConfig(centres=(2, 2), arrival_steps=40, load=(6.0, 6.0))
    streams = [draw_stream(config, (8, i)) for i in range(4)]
    priority, packing = ProvisioningBatch(streams), ProvisioningBatch(streams)
    ours, theirs = packing.run(packing_heuristic), priority.run(priority_heuristic)
    assert ours.satisfied_by_type.sum() > 1.03 * theirs.satisfied_by_type.sum()


def test_no_policy_exceeds_the_bound_with_hindsight() -> None:
    streams = [draw_stream(SHORT, (6, i)) for i in range(10)]
    batch = ProvisioningBatch(streams)
    totals = batch.run(priority_heuristic)
    accepted = totals.satisfied_by_type.sum(1) / batch.state.requests.sum(1)
    bound = np.array([accepted_at_most(stream) for stream in streams])
    assert (accepted <= bound + 1e-9).all()
    assert bound.min() < 1.0


def test_the_bound_counts_the_work() -> None:
    # A chain of Industry 4.0 takes 1/16 + 9/33 CPU ms at least; 1 CPU has 8 ms until its deadline.
    bound = accepted_at_most(one_bundle(requests=100, cpu=(1.0,)))
    assert bound == pytest.approx(8.0 / (1 / 16 + 9 / 33) / 100)
    late = one_bundle(requests=1, cpu=(100.0, 100.0), way_ms=7.95, ends=(0, 1))
    assert accepted_at_most(late) == 0.0
