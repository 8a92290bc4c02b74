"""Each column of what provisioning's agent sees, by hand and by a plain count of the chains."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pytest

from agents.provisioning import observation_columns as columns
from agents.provisioning.batch import ProvisioningBatch
from agents.provisioning.env import ProvisioningEnv
from agents.provisioning.generator import GeneratorConfig, draw_stream
from agents.provisioning.heuristic import random_actions
from agents.provisioning.observation_columns import CENTRE
from agents.provisioning.types import (
    BOUND_MS,
    CHAINS,
    CPU,
    LENGTHS,
    PROCESSING_MS,
    RAM_GB,
    STORAGE_GB,
    TYPES,
    VNF_NAMES,
    VNFS,
    Observation,
    State,
)
from tests.unit.agents.provisioning.test_provisioning import INDUSTRY, NAT, VOIP, one_bundle, play

COLUMNS = {
    part: tuple(column.name for column in table)
    for part, table in (
        ("own", columns.OWN_COLUMNS),
        ("underway", columns.UNDERWAY_COLUMNS),
        ("pending", columns.PENDING_COLUMNS),
        ("centres", columns.CENTRE_COLUMNS),
    )
}


NEVER = {
    f"{name}_completed"
    for v, name in enumerate(VNF_NAMES)
    if all(chain[length - 1] != v for chain, length in zip(CHAINS, LENGTHS, strict=True))
}
"""No chain ends with these."""


def test_each_column_has_one_name_and_says_its_unit_and_scale() -> None:
    tables = (columns.OWN_COLUMNS, *(columns.UNDERWAY_COLUMNS, columns.PENDING_COLUMNS))
    for table in (*tables, columns.CENTRE_COLUMNS):
        names = [column.name for column in table]
        assert len(set(names)) == len(names)
        assert all(column.what and column.scale for column in table)


def log(count: float) -> float:
    return math.log(1 + count) / 6


class Group(NamedTuple):
    """Chains of a bundle that are at the same place and stage, as plain numbers."""

    kind: int
    vnf: int
    stage: int
    size: int
    place: int
    left_ms: float
    rate_mbps: float
    servable: int
    slack_ms: float
    nearest: bool


def groups_of(s: State, b: int, here: int) -> list[Group]:
    """All chains of an episode, by deadline; `servable` is found by serving one after another."""
    found = []
    for g in range(int(s.groups[b])):
        r, stage, place = int(s.bundle[b, g]), int(s.stage[b, g]), int(s.place[b, g])
        kind, size = int(s.kind[b, r]), int(s.size[b, g])
        due_ms = float(s.arrival[b, r]) + BOUND_MS[kind]
        rate = float(s.rate_mbps[b, r])
        found.append(
            Group(
                kind, CHAINS[kind][stage], stage, size, place, due_ms - float(s.step[b]), rate,
                served_one_by_one(s, b, g, here, due_ms), slack_of(s, b, g, here, due_ms),
                served_best(s, b, g, here, due_ms),
            )
        )  # fmt: skip
    return found


def served_one_by_one(s: State, b: int, g: int, here: int, due_ms: float) -> int:
    r, stage, place = int(s.bundle[b, g]), int(s.stage[b, g]), int(s.place[b, g])
    kind, to, rate = int(s.kind[b, r]), int(s.destination[b, r]), float(s.rate_mbps[b, r])
    chain = CHAINS[kind][: LENGTHS[kind]]
    after_ms = sum(PROCESSING_MS[v] for v in chain[stage + 1 :]) + s.delay_ms[b, here, to]
    step = float(s.step[b])
    time_ms = max(step, s.ready_ms[b, g] + s.delay_ms[b, place, here])
    served = 0
    while served < s.size[b, g]:
        time_ms += PROCESSING_MS[chain[stage]]
        if time_ms > step + 1 + 1e-6 or time_ms + after_ms > due_ms + 1e-6:
            break
        used = (served + 1) * rate
        if place != here and used > s.link_free[b, place, here] + 1e-6:
            break
        last = stage + 1 == LENGTHS[kind]
        if last and here != to and used > s.link_free[b, here, to] + 1e-6:
            break
        served += 1
    return served


def added_ms(s: State, b: int, g: int, d: int) -> float:
    """Propagation by way of `d`."""
    to = int(s.destination[b, s.bundle[b, g]])
    return float(s.delay_ms[b, s.place[b, g], d] + s.delay_ms[b, d, to])


def slack_of(s: State, b: int, g: int, here: int, due_ms: float) -> float:
    kind, stage = int(s.kind[b, s.bundle[b, g]]), int(s.stage[b, g])
    work_ms = sum(PROCESSING_MS[v] for v in CHAINS[kind][stage : LENGTHS[kind]])
    return max(0.0, due_ms - float(s.step[b]) - work_ms - added_ms(s, b, g, here))


def fits(s: State, b: int, d: int, v: int) -> bool:
    """Whether `d` can run one more instance of `v`."""
    stored = s.idle[b, d, v] > 0 or s.storage_free[b, d] >= STORAGE_GB[v]
    return bool(s.cpu_free[b, d] >= CPU[v] and s.ram_free[b, d] >= RAM_GB[v] and stored)


def served_best(s: State, b: int, g: int, here: int, due_ms: float) -> bool:
    """No data centre after this one adds less, or as little where an instance is idle there."""
    v = CHAINS[int(s.kind[b, s.bundle[b, g]])][int(s.stage[b, g])]
    mine = (added_ms(s, b, g, here), not s.idle[b, here, v])
    for d in s.order[b, s.turn[b] + 1 : s.centres[b]].tolist():
        theirs = (added_ms(s, b, g, d), not s.idle[b, d, v])
        able = fits(s, b, d, v) and served_one_by_one(s, b, g, d, due_ms) > 0
        if theirs < mine and able:
            return False
    return True


class Offer(NamedTuple):
    """What an instance would do for the chains that are best served here."""

    packed: float = 0.0
    slack_ms: float = np.inf
    worth: float = 0.0


def offer_of(s: State, b: int, here: int, groups: list[Group], v: int) -> Offer:
    packed, slack_ms, worth = 0.0, np.inf, 0.0
    if not fits(s, b, here, v):
        return Offer()
    for g in groups:
        if g.vnf != v or not g.nearest:
            continue
        fit = 0
        while fit < g.servable and packed + (fit + 1) * PROCESSING_MS[v] <= 1 + 1e-6:
            fit += 1
        if fit == 0:
            continue
        left = CHAINS[g.kind][g.stage : LENGTHS[g.kind]]
        work = sum(CPU[w] / math.floor(1 / PROCESSING_MS[w] + 1e-6) for w in left)
        packed, slack_ms = packed + fit * PROCESSING_MS[v], min(slack_ms, g.slack_ms)
        worth += fit / work / CPU[v]
    return Offer(packed, slack_ms, worth)


def chosen_of(offers: list[Offer]) -> int | None:
    """The VNF of most worth that fills 0.8 of an instance, or has 1 ms to spare at most."""
    found = [v for v, o in enumerate(offers) if o.worth and (o.packed >= 0.8 or o.slack_ms <= 1.0)]
    return max(found, key=lambda v: offers[v].worth, default=None)


def expected(s: State, b: int) -> dict[str, np.ndarray]:
    here = int(s.order[b, s.turn[b]])
    groups = groups_of(s, b, here)
    return {
        "own": np.array(list(own_of(s, b, here, groups))),
        "underway": np.array([list(underway_of(groups, kind, here)) for kind in range(TYPES)]),
        "pending": np.array([list(pending_of(groups, kind, here)) for kind in range(TYPES)]),
        "centres": np.array(list(centres_of(s, b, here, groups))),
    }


def own_of(s: State, b: int, here: int, groups: list[Group]) -> Iterator[float]:
    yield s.cpu_free[b, here] / 120
    yield s.cpu[b, here] / 120
    yield s.ram_free[b, here] / 256
    yield s.storage_free[b, here] / 2000
    yield 1 - s.actions[b] / 100
    yield (s.centres[b] - 1 - s.turn[b]) / s.centres[b]
    yield log(sum(g.size for g in groups))
    offers = [offer_of(s, b, here, groups, v) for v in range(VNFS)]
    for v in range(VNFS):
        can = [g for g in groups if g.vnf == v and g.servable]
        total = sum(g.servable for g in can)
        yield log(s.idle[b, here, v])
        yield log(s.installed[b, here, v] - s.idle[b, here, v])
        yield min(1.0, total * PROCESSING_MS[v])
        yield log(total)
        yield log(sum(g.servable for g in can if g.stage + 1 == LENGTHS[g.kind]))
        yield log(sum(g.servable for g in can if g.place == here))
        yield min((g.left_ms for g in can), default=0.0) / 100
        yield offers[v].packed
        yield 1 / (1 + offers[v].slack_ms)
        yield log(offers[v].worth)
        yield float(chosen_of(offers) == v)


def underway_of(groups: list[Group], kind: int, here: int) -> Iterator[float]:
    mine = [g for g in groups if g.kind == kind and g.stage > 0]
    yield log(sum(g.size for g in mine))
    yield log(sum(g.size for g in mine if g.place == here))
    yield min((g.left_ms for g in mine), default=0.0) / BOUND_MS[kind]
    for stage in (1, 2, 3, 4):
        yield log(sum(g.size for g in mine if g.stage == stage))


def pending_of(groups: list[Group], kind: int, here: int) -> Iterator[float]:
    mine = [g for g in groups if g.kind == kind and g.stage == 0]
    yield log(sum(g.size for g in mine))
    yield log(sum(g.size for g in mine if g.place == here))
    yield min((g.left_ms for g in mine), default=0.0) / BOUND_MS[kind]
    yield min(4.0, sum(g.size * g.rate_mbps for g in mine) / 1000)
    yield log(sum(g.servable for g in mine))


def centres_of(s: State, b: int, here: int, groups: list[Group]) -> Iterator[list[float]]:
    turns = s.order[b, : s.centres[b]].tolist()
    for d in range(s.cpu.shape[1]):
        if d not in turns:
            yield [0.0] * CENTRE
            continue
        there = [g for g in groups if g.place == d]
        yield [
            s.cpu_free[b, d] / 120,
            s.cpu[b, d] / 120,
            min(4.0, s.delay_ms[b, here, d] / 5),
            max(0.0, s.link_free[b, here, d] / 1000),
            float(d == here),
            float(turns.index(d) > s.turn[b]),
            log(sum(g.size for g in there)),
            *(log(s.idle[b, d, v]) for v in range(VNFS)),
            *(log(sum(g.size for g in there if g.vnf == v)) for v in range(VNFS)),
        ]


@pytest.fixture(scope="module")
def seen() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """(found, expected) of each part, over random play under loads light and heavy."""
    pairs: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {name: [] for name in COLUMNS}
    config = GeneratorConfig(centres=(2, 5), arrival_steps=12, load=(0.1, 6.0))
    batch = ProvisioningBatch([draw_stream(config, (21, i)) for i in range(8)], room=(6, 1))
    actor = random_actions(np.random.default_rng(3))
    for number in range(600):
        if number % 12 == 0:
            found = batch.observe()
            for b in np.flatnonzero(~batch.done):
                for name, value in expected(batch.state, int(b)).items():
                    pairs[name].append((getattr(found, name)[b].copy(), value))
        batch.step(actor(batch))
    return {
        name: (np.stack([one for one, _ in both]), np.stack([two for _, two in both]))
        for name, both in pairs.items()
    }


@pytest.mark.parametrize(
    ("part", "column"), [(part, column) for part, names in COLUMNS.items() for column in names]
)
def test_a_column_is_what_a_plain_count_gives(
    seen: dict[str, tuple[np.ndarray, np.ndarray]], part: str, column: str
) -> None:
    number = COLUMNS[part].index(column)
    found, value = (array[..., number] for array in seen[part])
    np.testing.assert_allclose(found, value, atol=1e-6)
    never = column in NEVER and part == "own"
    assert never or value.min() < value.max(), "the states tell this column's values apart"


def own(found: Observation, column: str) -> float:
    return float(found.own[0, COLUMNS["own"].index(column)])


def test_chains_that_fit_are_counted_once_however_many_there_are() -> None:
    batch = ProvisioningBatch([one_bundle(kind=VOIP, requests=50)])
    found = batch.observe()
    # A NAT takes 0.06 ms: 16 of the 50 fit into a step, and fill 0.96 of it.
    assert own(found, "nat_servable") == pytest.approx(math.log(17) / 6)
    assert own(found, "nat_here") == pytest.approx(math.log(17) / 6)
    assert own(found, "nat_filled") == pytest.approx(0.96)
    assert own(found, "nat_completed") == 0.0
    assert own(found, "nat_left") == pytest.approx(1.0)
    pending = dict(zip(COLUMNS["pending"], found.pending[0, VOIP].tolist(), strict=True))
    assert pending == pytest.approx(
        {"chains": log(50), "here": log(50), "left": 1.0, "rate": 0.05, "servable": log(16)}
    )
    assert own(found, "chains") == pytest.approx(log(50))


def test_few_chains_fill_their_share_of_a_step() -> None:
    found = ProvisioningBatch([one_bundle(kind=VOIP, requests=5)]).observe()
    assert own(found, "nat_filled") == pytest.approx(0.3)
    assert own(found, "nat_servable") == pytest.approx(math.log(6) / 6)


def test_those_that_would_be_completed_and_those_elsewhere_are_told_apart() -> None:
    batch, _ = play(one_bundle(kind=INDUSTRY, requests=3), NAT)
    found = batch.observe()
    # The NAT ends at 0.18 ms; a firewall takes 0.03 ms, and is the last that the chain needs.
    assert own(found, "fw_completed") == own(found, "fw_servable") == pytest.approx(log(3))
    assert own(found, "fw_filled") == pytest.approx(0.09)
    assert own(found, "nat_servable") == 0.0
    far = one_bundle(kind=VOIP, requests=50, cpu=(0.5, 100.0), way_ms=0.5)
    batch = ProvisioningBatch([far])
    batch.state.turn[0] = 1  # whoever is asked, the chains are at data centre 0
    found = batch.observe()
    # They come after 0.5 ms: 8 fit into what is left of the step.
    assert own(found, "nat_servable") == pytest.approx(log(8))
    assert own(found, "nat_here") == 0.0
    assert found.pending[0, VOIP, COLUMNS["pending"].index("here")] == 0.0


def test_a_link_that_carries_few_is_seen() -> None:
    stream = one_bundle(kind=VOIP, requests=9, cpu=(0.5, 100.0), ends=(0, 1), rate_mbps=300.0)
    batch = ProvisioningBatch([stream])
    batch.state.turn[0] = 1
    found = batch.observe()
    assert own(found, "nat_servable") == pytest.approx(log(3))
    assert found.pending[0, VOIP, COLUMNS["pending"].index("rate")] == pytest.approx(2.7)


def test_whoever_has_a_turn_is_present_whatever_its_number() -> None:
    batch = ProvisioningBatch([one_bundle(cpu=(10.0, 20.0, 30.0))])
    s = batch.state
    s.centres[0], s.order[0] = 2, [2, 0, 1]  # data centre 1 is out of order
    found = batch.observe()
    assert found.present[0].tolist() == [True, False, True]
    assert found.centres[0, :, 1].tolist() == pytest.approx([10 / 120, 0.0, 30 / 120])
    s.place[0, 0] = 2
    found = batch.observe()
    assert found.centres[0, 2, COLUMNS["centres"].index("chains")] == pytest.approx(log(2))
    assert found.centres[0, 2, COLUMNS["centres"].index("nat_needed")] == pytest.approx(log(2))


def test_a_rest_of_rounding_and_a_bound_that_is_past_are_nothing() -> None:
    batch = ProvisioningBatch([one_bundle(cpu=(10.0, 10.0))])
    batch.state.link_free[0, 0, 1] = -1e-13
    batch.state.arrival[0, 0] = -1000.0
    found = batch.observe()
    assert found.centres[0, 1, COLUMNS["centres"].index("link_free")] == 0.0
    assert found.pending[0, INDUSTRY, COLUMNS["pending"].index("left")] == 0.0


def test_what_is_seen_lies_within_the_space() -> None:
    env = ProvisioningEnv(GeneratorConfig(centres=(2, 4), arrival_steps=8, load=(8.0, 8.0)))
    shown, _ = env.reset(seed=5)
    rng, over = np.random.default_rng(0), False
    while not over:
        assert env.observation_space.contains(shown)
        action = np.int64(rng.choice(np.flatnonzero(shown["action_mask"])))
        shown, _, over, _, _ = env.step(action)
