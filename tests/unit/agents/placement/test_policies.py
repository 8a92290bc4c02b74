"""The placement policies: what each looks at, what it never does, and that it can be repeated."""

from __future__ import annotations

import dataclasses
import io
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from agents.common.checkpoints import checkpoint_of, write_checkpoint
from agents.common.seal import digest
from agents.placement.baselines import DeftPolicy, GreedyDelayPolicy
from agents.placement.config import PpoConfig
from agents.placement.features import features, make_inputs, masks, node_features
from agents.placement.model import NetworkSize, make_network, save_model
from agents.placement.observe import pack_observations
from agents.placement.on_twin import play
from agents.placement.outcomes import evaluate
from agents.placement.policies import make_policy
from agents.placement.train import train
from testbed.decisions.placement import PlacementObservation
from testbed.scenario.errors import InputError
from testbed.scenario.load import load_scenario
from testbed.scenario.types import Placement
from testbed.twin.calibration import Calibration
from testbed.twin.constants import TwinConstants
from tests.support.places import SMOKE
from tests.support.twin_support import MS, line_plan, make_request, observe, random_plan
from tests.unit.calibration.test_estimation import make_calibration


def decisions(policy: object, count: int = 200, **seen: object) -> list[Placement]:
    return [
        policy.decide(observe(make_request(number), **seen))  # type: ignore[attr-defined,arg-type]
        for number in range(count)
    ]


def test_deft_spreads_over_all_servers_whatever_their_load() -> None:
    idle = decisions(DeftPolicy(1))
    assert idle == decisions(DeftPolicy(1), used={0: 5.0})
    counts = Counter(choice.primary for choice in idle)
    assert all(30 <= counts[node] <= 70 for node in range(4))
    pairs = Counter((choice.primary, choice.backup) for choice in idle)
    assert len(pairs) == 12  # every pair of two different nodes


def test_defts_primary_is_a_hash_and_its_backup_is_drawn_from_the_seed() -> None:
    one, two = decisions(DeftPolicy(1)), decisions(DeftPolicy(2))
    assert [c.primary for c in one] == [c.primary for c in two]
    assert [c.backup for c in one] != [c.backup for c in two]
    # Pinned: a hash that changed from one process or release to the next would not be stable.
    assert [c.primary for c in one[:8]] == [1, 0, 0, 1, 0, 0, 3, 3]


def test_deft_leaves_out_the_dead() -> None:
    chosen = decisions(DeftPolicy(1), dead=(0, 2))
    assert {c.primary for c in chosen} == {1, 3}
    assert all(c.backup == 4 - c.primary for c in chosen)
    assert decisions(DeftPolicy(1), 1, dead=(0, 1, 2)) == [Placement(3, None)]
    assert decisions(DeftPolicy(1), 1, dead=(0, 1, 2, 3)) == [None]


def test_greedy_takes_the_least_delay_that_has_capacity() -> None:
    greedy = GreedyDelayPolicy()
    request = make_request(source=1, destination=1, rate_pps=100.0)
    assert greedy.decide(observe(request)) == Placement(1, 0)
    assert greedy.decide(observe(request, used={1: 0.75})) == Placement(0, 1)
    assert greedy.decide(observe(request, used={1: 0.8, 0: 0.75})) == Placement(2, 3)
    full = {node: 0.9 for node in range(4)}
    assert greedy.decide(observe(request, used=full)) == Placement(1, 0)


def test_greedy_prefers_the_fast_server_on_the_way_and_rejects_without_one() -> None:
    greedy = GreedyDelayPolicy()
    assert greedy.decide(observe(cores=(0.5, 0.5, 0.9, 0.5))) == Placement(2, 1)
    assert greedy.decide(observe(dead=(0, 1, 2))) == Placement(3, None)
    assert greedy.decide(observe(dead=(0, 1, 2, 3))) is None


def test_masks_leave_out_dead_full_and_late_nodes() -> None:
    request = make_request(source=0, destination=0, delay_bound_ns=25 * MS, rate_pps=100.0)
    seen = pack_observations([observe(request, used={0: 0.95}, dead=(1,))])
    primary, backup = masks(seen)
    # 0 has no capacity for the primary, 1 is dead, 3 is 30 ms there and back.
    assert primary[0].tolist() == [False, False, True, False, True]
    assert backup[0].tolist() == [True, False, True, True]


def test_masks_give_way_bound_first_then_capacity_but_never_the_dead() -> None:
    late = make_request(source=0, destination=0, delay_bound_ns=1)
    primary, _ = masks(pack_observations([observe(late, used={0: 2.0}, dead=(1,))]))
    assert primary[0].tolist() == [False, False, True, True, True]
    full = {node: 2.0 for node in range(4)}
    primary, backup = masks(pack_observations([observe(late, used=full, dead=(1,))]))
    assert primary[0].tolist() == [True, False, True, True, True]
    assert backup[0].tolist() == [True, False, True, True]
    heavy = observe()
    heavy = dataclasses.replace(heavy, memory_bytes=2_000_000_000)
    primary, backup = masks(pack_observations([heavy]))
    assert primary[0].tolist() == [False] * 4 + [True]
    assert not backup.any()


def test_masks_of_a_move_leave_the_backup_and_let_the_primary_stay() -> None:
    seen = observe(used={0: 2.0, 1: 0.1, 2: 0.95, 3: 0.95}, task="move", members=(0, 2))
    primary, backup = masks(pack_observations([seen]))
    # 0.06 of a server is asked for; at the backup's node 2 a quarter of it is there already.
    assert primary[0].tolist() == [True, True, True, False, False]
    assert backup[0].tolist() == [False, False, True, False]
    alone = dataclasses.replace(seen, members=(0,))
    primary, backup = masks(pack_observations([alone]))
    assert primary[0].tolist() == [True, True, False, False, False]
    assert not backup.any()


def test_features_tell_the_tasks_apart_and_count_no_primary_twice() -> None:
    used = {0: 0.5, 2: 0.3}
    node, request = features(observe(used=used, task="move", members=(0, 2)))
    assert node[0, 0] == node[0, 1] == pytest.approx(0.5)
    assert node[1, 1] == pytest.approx(node[1, 0] + 0.06)
    assert node[:, 17].tolist() == [1.0, 0.0, 0.5, 0.0]
    told = [request[[13, 15]].tolist()]
    for task, members in (("backup", (0,)), ("place", ())):
        node, request = features(observe(used=used, task=task, members=members))
        assert node[0, 1] == pytest.approx(node[0, 0] + 0.06)
        told.append(request[[13, 15]].tolist())
    assert told == [[0.0, 1.0], [1.0, 0.0], [0.0, 0.0]]


def test_features_of_one_equal_those_in_a_batch_and_follow_the_nodes() -> None:
    plan, shown = random_plan(3), []

    def decide(seen: PlacementObservation) -> Placement:
        shown.append(seen)
        alive = np.flatnonzero(seen.alive)
        free = [int(node) for node in alive if node not in seen.members]
        return Placement(free[0], free[1])

    play([plan], [decide])
    assert len(shown) > 20
    assert {seen.task for seen in shown} == {"place", "backup"}
    inputs = make_inputs(pack_observations(shown))
    for row, seen in enumerate(shown):
        node, request = features(seen)
        np.testing.assert_array_equal(node, inputs.node[row].numpy())
        np.testing.assert_array_equal(request, inputs.request[row].numpy())
        order = np.random.default_rng(row).permutation(len(seen.alive))
        shuffled = renumbered(seen, order)
        np.testing.assert_allclose(node_features(pack_observations([shuffled]))[0], node[order])


def renumbered(seen: PlacementObservation, order: np.ndarray) -> PlacementObservation:
    """The same state where node i is what was node order[i]."""
    new = np.argsort(order)
    nodes = (
        "alive", "capacity_cores", "used_cores", "memory_free_bytes", "held",
        "delay_from_previous_ns", "delay_to_egress_ns",
    )  # fmt: skip
    return dataclasses.replace(
        seen,
        **{name: getattr(seen, name)[order] for name in nodes},
        members=tuple(int(new[node]) for node in seen.members),
        delay_ns=seen.delay_ns[order][:, order],
        source=int(new[seen.source]),
        destination=int(new[seen.destination]),
        placed=tuple(
            Placement(int(new[p.primary]), None if p.backup is None else int(new[p.backup]))
            for p in seen.placed
        ),
    )


def test_evaluation_counts_what_the_twin_measured() -> None:
    plan = line_plan((make_request(),))
    found = evaluate(GreedyDelayPolicy(), [plan, plan], TwinConstants())
    assert found.plans == 2
    assert found.goodput_pps == pytest.approx(80.0)
    assert found.loss == pytest.approx(0.0)
    assert found.latency_p50_ns <= found.latency_p99_ns < 50 * MS
    assert found.reward < 0.0


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "a whole file of `deftbed train`"),
        (b"no model", "a whole file of `deftbed train`"),
        (None, "can be read"),
        ("unsealed", "a whole file of `deftbed train`"),
        ("code", "tensors and plain values"),
        ("list", "names for what it holds"),
        ("dict", "kind placement-ppo, not None"),
        ("sizes", "sizes of its network"),
        ("weights", "request.weight [16, 16], not [8, 16]"),
        ("no weights", "weights that fit"),
    ],
)
def test_a_missing_or_broken_model_is_named(
    tmp_path: Path, content: bytes | str | None, expected: str
) -> None:
    path = tmp_path / "model.pt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        write_odd_model(content, path)
    with pytest.raises(InputError) as caught:
        make_policy("ppo", 1, path)
    assert (caught.value.field, caught.value.value) == ("model", str(path))
    assert expected in caught.value.expected
    assert "weights_only" not in str(caught.value)


def write_odd_model(kind: str, path: Path) -> None:
    network, size = make_network(NetworkSize(8, 2), 0), NetworkSize(8, 2)
    save_model(path, network, size if kind != "weights" else NetworkSize(16, 2))
    right = torch.load(path, weights_only=True)
    if kind == "unsealed":
        torch.save(right, path)
    elif kind == "code":  # a class of ours: code would run to load it
        write_checkpoint(path, {**right, "size": size})
    elif kind == "dict":
        write_checkpoint(path, {"format": 1})
    elif kind == "sizes":
        write_checkpoint(path, {**right, "size": {"breadth": 8}})
    elif kind == "no weights":
        write_checkpoint(path, {key: right[key] for key in right if key != "weights"})
    elif kind == "list":
        buffer = io.BytesIO()
        torch.save([1, 2], buffer)
        body = buffer.getvalue()
        path.write_bytes(body + b"deftbed sealed 1 " + digest([body]))


def test_no_model_and_an_unknown_policy_are_named() -> None:
    with pytest.raises(InputError) as caught:
        make_policy("ppo", 1, None)
    assert caught.value.field == "model"
    with pytest.raises(InputError) as caught:
        make_policy("magic", 1, None)
    assert caught.value.field == "policy"
    assert {type(make_policy(name, 1, None)) for name in ("deft", "greedy-delay")} == {
        DeftPolicy, GreedyDelayPolicy,
    }  # fmt: skip


CONFIG = PpoConfig(
    steps=8, pool=8, validation=2, held_out=2, minibatch=32, segment=2, size=NetworkSize(16, 2, 8)
)


class CutOff(Exception):
    """Stands for the end of a process in the middle of a training."""


def short_training(
    out: Path,
    seed: int,
    until: float = 2.0,
    resume: bool = False,
    calibration: Calibration | None = None,
) -> tuple[dict[str, torch.Tensor], list[float]]:
    shares: list[float] = []

    def progress(share: float, _: dict[str, float]) -> None:
        shares.append(share)
        if share > until:
            raise CutOff

    scenario = load_scenario(SMOKE)
    report = train(
        [scenario], out, 300, 8, seed, progress, CONFIG, resume=resume, calibration=calibration
    )
    assert report.decisions >= 300
    assert report.rounds == len(report.curve)
    assert set(report.evaluation) == {"deft", "greedy-delay", "ppo"}
    weights = torch.load(out, weights_only=True)["weights"]
    return weights, shares


def same(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(one[name], two[name]) for name in one)


def test_the_same_seed_gives_the_same_weights_and_another_gives_others(tmp_path: Path) -> None:
    one, shares = short_training(tmp_path / "a.pt", 5)
    two, _ = short_training(tmp_path / "b.pt", 5)
    other, _ = short_training(tmp_path / "c.pt", 6)
    assert same(one, two)
    assert not same(one, other)
    start = make_network(CONFIG.size, 5).state_dict()
    assert not torch.equal(one["primary_score.weight"], start["primary_score.weight"])
    assert shares == sorted(shares)
    assert shares[-1] == 1.0


def test_a_training_learns_in_the_twin_of_a_calibration(tmp_path: Path) -> None:
    plain, _ = short_training(tmp_path / "a.pt", 5)
    fitted, _ = short_training(tmp_path / "b.pt", 5, calibration=make_calibration())
    assert not same(plain, fitted)


def test_a_training_that_was_cut_off_ends_with_the_same_weights(tmp_path: Path) -> None:
    whole, _ = short_training(tmp_path / "a.pt", 5)
    out = tmp_path / "b.pt"
    with pytest.raises(CutOff):
        short_training(out, 5, until=0.7)
    assert not out.exists() and checkpoint_of(out).exists()
    for seed, calibration in ((6, None), (5, make_calibration())):
        with pytest.raises(InputError) as caught:
            short_training(out, seed, resume=True, calibration=calibration)
        assert caught.value.field == "resume"
    resumed, shares = short_training(out, 5, resume=True)
    assert shares[0] > 0.3
    assert same(whole, resumed)
    assert not checkpoint_of(out).exists()


def test_a_trained_model_decides_on_any_substrate(tmp_path: Path) -> None:
    out = tmp_path / "m.pt"
    short_training(out, 5)
    policy = make_policy("ppo", 1, out)
    for dead in ((), (0, 1)):
        seen = observe(dead=dead)
        choice = policy.decide(seen)
        assert choice == policy.decide(seen)
        if choice is not None:
            assert seen.alive[choice.primary]
            assert choice.backup != choice.primary
    assert policy.decide(observe(dead=(0, 1, 2, 3))) is None
