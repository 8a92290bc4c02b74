"""Each column of what a placement network reads, by hand and by a plain computation."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pytest

from agents.common.columns import Column, names
from agents.placement import features
from testbed.decisions.placement import Ledger, PlacementObservation
from testbed.scenario.paths import delay_matrix_ns
from testbed.scenario.types import NS_PER_S, Placement, Task
from tests.support.twin_support import MS, line_plan, make_request

NODE_NAMES, REQUEST_NAMES = names(features.NODE_COLUMNS), names(features.REQUEST_COLUMNS)


def cut(value: float) -> float:
    return max(-10.0, min(10.0, value))


def share(o: PlacementObservation, node: int, more_cores: float = 0.0) -> float:
    return float((o.used_cores[node] + more_cores) / o.capacity_cores[node])


def member(o: PlacementObservation, place: int) -> int | None:
    return o.members[place] if len(o.members) > place else None


def node_of(o: PlacementObservation, n: int) -> Iterator[float]:
    moves = o.task == "move"
    there, copied = moves and n == member(o, 0), moves and n == member(o, 1)
    backup = 0.0 if copied else o.backup_cores
    primary = 0.0 if there else o.primary_cores - (o.backup_cores if copied else 0.0)
    yield cut(share(o, n))
    yield cut(share(o, n, primary))
    yield cut(share(o, n, backup))
    yield cut(o.primary_cores / o.capacity_cores[n])
    yield min(2.0, share(o, n)) ** 2
    yield cut(o.capacity_cores[n] - o.used_cores[n])
    previous = o.placed[-1].primary if o.placed else o.source
    service_ns = o.primary_cores / o.rate_pps * NS_PER_S / o.capacity_cores[n]
    from_ns, to_ns = o.delay_ns[previous, n], o.delay_ns[n, o.destination]
    detour_ns = from_ns + to_ns - o.delay_ns[previous, o.destination]
    for spent_ns in (service_ns, from_ns, to_ns, detour_ns):
        yield cut(spent_ns / (10 * MS))
        yield cut(spent_ns / o.delay_bound_ns)
    free = [
        (float(o.delay_ns[n, m]), share(o, m))
        for m in range(len(o.alive))
        if m != n
        and o.alive[m]
        and o.memory_free_bytes[m] >= o.memory_bytes
        and share(o, m, o.backup_cores) <= 1.0
    ]
    near_ns, near_used = min(free, default=(100.0 * MS, 10.0))
    yield near_ns / (10 * MS)
    yield min(near_used, 10.0)
    yield cut(o.held[n] / 4)
    yield {member(o, 1): 0.5, member(o, 0): 1.0}.get(n, 0.0)


def request_of(o: PlacementObservation) -> Iterator[float]:
    living = np.flatnonzero(o.alive).tolist()
    shares = [share(o, n) for n in living]
    behind = len(o.functions) - 1 - o.function_index
    previous = o.placed[-1].primary if o.placed else o.source
    yield cut(o.rate_pps / 50)
    yield cut(o.primary_cores * 20)
    yield cut(o.backup_cores * 20)
    yield o.function_index / 4
    yield behind / 4
    yield float(behind == 0)
    yield cut(o.delay_left_ns / o.delay_bound_ns)
    yield cut(10 * MS / o.delay_bound_ns)
    yield cut(o.delay_ns[previous, o.destination] / (10 * MS))
    yield math.log(1 + min(o.lifetime_s, 1e4)) / 3
    yield cut(float(np.mean(shares)))
    yield cut(max(shares))
    yield cut(sum(o.used_cores[n] for n in living) / sum(o.capacity_cores[n] for n in living))
    yield float(o.task == "backup")
    yield float(o.admission)
    yield float(o.task == "move")


def drawn(seed: int) -> PlacementObservation:
    """A state of five servers on a line, as the ledger of a run tells it."""
    rng = np.random.default_rng(seed)
    cores = tuple(rng.uniform(0.3, 2.0, 5).tolist())
    plan = line_plan((), cores)
    ledger = Ledger(plan.servers, plan.profiles, delay_matrix_ns(plan.topology), seed % 2 == 0)
    for number in range(int(rng.integers(0, 60))):
        functions = ("nat", "fw", "idps")[: int(rng.integers(1, 4))]
        pairs = [rng.permutation(5)[:2].tolist() for _ in functions]
        other = make_request(100 + number, functions=functions, rate_pps=rng.uniform(20, 200))
        ledger.add(other, [Placement(*pair) for pair in pairs])
    if rng.random() < 0.4:
        ledger.server_down(int(rng.integers(5)))
    ledger.load_factor = float(rng.uniform(0.5, 2.0))
    request = make_request(
        0, functions=("nat", "fw", "idps"), rate_pps=rng.uniform(5, 200),
        source=int(rng.integers(5)), destination=int(rng.integers(5)),
        delay_bound_ns=int(rng.uniform(1, 90) * MS), end_ns=int(rng.uniform(2, 1e4) * NS_PER_S),
    )  # fmt: skip
    placed = [Placement(*rng.permutation(5)[:2].tolist()) for _ in range(int(rng.integers(0, 3)))]
    task: Task = ("place", "backup", "move")[seed % 3]
    if task == "place":
        return ledger.observe(request, placed)
    members = rng.permutation(5)[: int(rng.integers(1, 3))].tolist()
    ledger.add(request, [*placed, Placement(members[0], next(iter(members[1:]), None))])
    return ledger.observe_again(request, placed, task, members)


STATES = [drawn(seed) for seed in range(240)]


@pytest.mark.parametrize("column", NODE_NAMES)
def test_a_column_of_a_node_is_what_a_plain_computation_gives(column: str) -> None:
    number = NODE_NAMES.index(column)
    found = np.array([features.features(o)[0][:, number] for o in STATES])
    value = np.array([[list(node_of(o, n))[number] for n in range(5)] for o in STATES])
    np.testing.assert_allclose(found, value, rtol=1e-5, atol=1e-6)
    assert value.min() < value.max(), "the states tell this column's values apart"


@pytest.mark.parametrize("column", REQUEST_NAMES)
def test_a_column_of_the_request_is_what_a_plain_computation_gives(column: str) -> None:
    number = REQUEST_NAMES.index(column)
    found = np.array([features.features(o)[1][number] for o in STATES])
    value = np.array([list(request_of(o))[number] for o in STATES])
    np.testing.assert_allclose(found, value, rtol=1e-5, atol=1e-6)
    assert value.min() < value.max(), "the states tell this column's values apart"


@pytest.mark.parametrize("table", [features.NODE_COLUMNS, features.REQUEST_COLUMNS])
def test_a_column_is_where_the_table_has_its_name(table: tuple[Column, ...]) -> None:
    assert [getattr(features, name.upper()) for name in names(table)] == list(range(len(table)))


def test_the_plain_computation_has_every_column() -> None:
    o = STATES[0]
    assert len(list(node_of(o, 0))) == features.NODE_FEATURES == len(NODE_NAMES)
    assert len(list(request_of(o))) == features.REQUEST_FEATURES == len(REQUEST_NAMES)


def by_name(o: PlacementObservation, node: int) -> dict[str, float]:
    return dict(zip(NODE_NAMES, features.features(o)[0][node].tolist(), strict=True))


def a_move(**changes: object) -> PlacementObservation:
    """A NAT of 0.06 cores is to move from 0; its backup at 2 uses a quarter of that."""
    plan = line_plan((), (1.0, 1.0, 1.0, 1.0))
    ledger = Ledger(plan.servers, plan.profiles, delay_matrix_ns(plan.topology))
    request = make_request(0, **changes)
    ledger.add(request, [Placement(0, 2)])
    return ledger.observe_again(request, [], "move", (0, 2))


def test_a_primary_that_moves_to_its_backup_takes_what_the_backup_used() -> None:
    rows = [by_name(a_move(), node) for node in range(4)]
    assert [row["used"] for row in rows] == pytest.approx([0.06, 0.0, 0.015, 0.0])
    assert [row["used_with_primary"] for row in rows] == pytest.approx([0.06, 0.06, 0.06, 0.06])
    assert rows[2]["used_with_backup"] == pytest.approx(0.015)
    assert [row["member"] for row in rows] == [1.0, 0.0, 0.5, 0.0]


def test_a_server_without_memory_has_no_room_for_a_backup() -> None:
    plan = line_plan((), (1.0, 1.0, 1.0))
    ledger = Ledger(plan.servers, plan.profiles, delay_matrix_ns(plan.topology))
    for number in range(50):  # 50 functions of 20 MB fill the gigabyte of server 1
        ledger.add(make_request(100 + number, rate_pps=0.001, destination=2), [Placement(1, None)])
    seen = ledger.observe(make_request(destination=2), ())
    assert by_name(seen, 0)["to_backup"] == pytest.approx(1.0), "5 ms to 1, 10 ms to 2"
    assert by_name(seen, 1)["to_backup"] == pytest.approx(0.5)


def test_the_ledgers_columns_by_hand() -> None:
    plan = line_plan((), (1.0, 0.5, 2.0, 1.0))
    ledger = Ledger(plan.servers, plan.profiles, delay_matrix_ns(plan.topology))
    ledger.add(make_request(7, functions=("nat",), rate_pps=200.0), [Placement(1, 2)])
    ledger.server_down(3)
    ledger.load_factor = 2.0
    request = make_request(functions=("nat", "fw", "idps"), rate_pps=50.0, source=0, destination=2)
    o = ledger.observe(request, [Placement(1, 0)])
    # Another's NAT: 400 packets/s x 0.6 ms at 1, a quarter at 2; this chain's: 100 x 0.6 at 1.
    assert o.used_cores.tolist() == pytest.approx([0.015, 0.30, 0.06, 0.0])
    assert o.memory_free_bytes.tolist() == [980e6, 960e6, 980e6, 1e9]
    assert o.held.tolist() == [1.0, 1.0, 0.0, 0.0]
    assert o.alive.tolist() == [True, True, True, False]
    assert (o.rate_pps, o.primary_cores, o.backup_cores) == pytest.approx((100.0, 0.03, 0.0075))
    assert o.delay_from_previous_ns.tolist() == [5 * MS, 0, 5 * MS, 10 * MS]
    assert o.delay_to_egress_ns.tolist() == [10 * MS, 5 * MS, 0, 5 * MS]
    # 5 ms of way, and a packet takes 0.6 ms on half a core.
    assert o.delay_left_ns == 50 * MS - 5 * MS - round(1.2 * MS)
    assert (o.function_index, o.functions_left, o.lifetime_s) == (1, 1, 8.0)
