"""The figures of a run are those that its packets and events give by hand."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from testbed.records.packets import build_packets
from testbed.results.metrics import of_packets
from testbed.results.report.metric_tables import order_note
from testbed.results.run_summary import overload_s, recovery_ns, summarise
from testbed.statistics.quantiles import nearest_rank
from tests.support.results_support import MS, Arrival, arrivals, event, packets, schedule

MANIFEST = {"seed": 4, "valid": True}


def test_nearest_rank_on_the_textbook_example() -> None:
    values = np.array([15, 20, 35, 40, 50])
    assert [nearest_rank(values, p) for p in (0.05, 0.3, 0.4, 0.5, 1.0)] == [15, 20, 20, 35, 50]
    assert nearest_rank(values[:0], 0.5) is None


@given(
    st.lists(st.integers(-(2**50), 2**50), min_size=1), st.sampled_from([0.5, 0.95, 0.99, 0.999])
)
def test_nearest_rank_is_the_least_value_with_enough_below(values: list[int], share: float) -> None:
    found = nearest_rank(np.array(values), share)
    assert found in values
    assert found is not None
    need = math.ceil(share * len(values) - 1e-9)
    assert sum(value <= found for value in values) >= need
    assert sum(value < found for value in values) < need


def test_a_small_run_by_hand() -> None:
    # Request 0: 0..9 are due each ms; 3 and 4 swap, 5 comes twice, 9 is lost. 1: rejected.
    order = [0, 1, 2, 4, 3, 5, 5, 6, 7, 8]
    records: list[Arrival] = [(0, 0, seq, 20 * MS + place * MS) for place, seq in enumerate(order)]
    frame = packets([schedule(10), schedule(11, request=1)], records)
    events = [
        event(-9, "request", request=0),
        event(-9, "decision", placements=[], request=0, accepted=True),
        event(-8, "chain-ready", request=0),
        event(0, "run-start"),
        event(1, "request", request=1),
        event(1, "decision", placements=[], request=1, accepted=False),
        event(40, "run-end"),
    ]
    summary = summarise(frame, events, MANIFEST)
    assert summary["seed"] == 4
    assert summary["valid"] is True
    assert (summary["sent"], summary["received"], summary["lost"]) == (21, 9, 12)
    assert (summary["blocked"], summary["unserved"], summary["unsent"]) == (11, 0, 0)
    assert (summary["duplicated"], summary["reordered"]) == (1, 1)
    assert (summary["accepted"], summary["requested"]) == (1, 2)
    # Latencies in ms: 20 20 20 | 4: 19 | 3: 21 | 5: 20 | 6, 7, 8: 21.
    assert summary["latency_ns"] == {
        "p50": 20 * MS, "p95": 21 * MS, "p99": 21 * MS, "p999": 21 * MS,
    }  # fmt: skip
    # 9 packets of 100 B; the traffic lasts 10 ms, from the first to the last due packet.
    assert summary["goodput_bps"] == pytest.approx(9 * 800 / 0.010)
    json.dumps(summary)


def test_packets_before_the_chain_is_ready_are_unserved() -> None:
    frame = packets([schedule(10)], [(0, 0, seq, 30 * MS) for seq in range(6, 10)])
    events = [
        event(100, "run-start"),
        event(100, "decision", placements=[], request=0, accepted=True),
        event(104.5, "chain-ready", request=0),
    ]
    summary = summarise(frame, events, MANIFEST)
    # 0..4 were sent before 4.5 ms; 5 was lost in the chain.
    assert (summary["lost"], summary["blocked"], summary["unserved"]) == (6, 0, 5)


@settings(max_examples=40, deadline=None)
@given(st.permutations(range(9)), st.integers(0, 8))
def test_reordered_is_rfc_4737(order: list[int], lost: int) -> None:
    kept = [seq for seq in order if seq != lost]
    next_expected, expected = 0, 0
    for seq in kept:
        if seq >= next_expected:
            next_expected = seq + 1
        else:
            expected += 1
    records: list[Arrival] = [(0, 0, seq, place) for place, seq in enumerate(kept)]
    assert int(of_packets(packets([schedule(9)], records))["reordered"].sum()) == expected


def test_what_the_network_reordered_is_told_from_the_rest() -> None:
    frame = packets([schedule(3)], [(0, 0, seq, place) for place, seq in enumerate((1, 0, 2))])
    events = [
        event(40, "order", edge="edge-1", path=2, delivered=3, overtaken=1),
        event(40, "order", edge="edge-0", path=3, delivered=9, overtaken=5),  # answers
        event(40, "order", edge="edge-2", path=4, delivered=7, overtaken=2),
    ]
    assert summarise(frame, events, MANIFEST)["overtaken"] == 3
    assert summarise(frame, events[1:2], MANIFEST)["overtaken"] is None
    assert order_note("deft", summarise(frame, events[:1], MANIFEST)) == (
        "deft, seed 4: 1 of 3 packets out of order; "
        "1 overtaken in the network after the last function, none by a function."
    )
    assert "1 more in the end" in order_note(
        "deft", summarise(frame, events[:1], MANIFEST) | {"overtaken": 0}
    )
    assert "was not noted" in order_note("deft", summarise(frame, [], MANIFEST))


def test_flows_are_not_reordered_among_each_other() -> None:
    records: list[Arrival] = [(0, 1, 0, 1), (0, 1, 1, 2), (0, 0, 0, 3), (0, 0, 1, 4)]
    frame = packets([schedule(4, flows=2)], records)
    assert summarise(frame, [], MANIFEST)["reordered"] == 0


def test_nothing_received_gives_nulls_and_no_error() -> None:
    summary = summarise(packets([schedule(5)], []), [], MANIFEST)
    assert summary["latency_ns"] == {"p50": None, "p95": None, "p99": None, "p999": None}
    assert (summary["lost"], summary["goodput_bps"]) == (5, 0.0)
    nothing = summarise(build_packets([], {}, arrivals([])), [], MANIFEST)
    assert (nothing["sent"], nothing["goodput_bps"]) == (0, None)


def test_a_packet_that_arrived_was_sent() -> None:
    frame = build_packets([schedule(2)], {0: np.array([5, 0])}, arrivals([(0, 0, 1, 9)]))
    summary = summarise(frame, [], MANIFEST)
    assert (summary["sent"], summary["received"], summary["lost"]) == (2, 1, 1)


def test_overload_is_summed_over_servers_and_ends_with_the_run() -> None:
    events = [
        event(0, "overload-begin", node=1),
        event(100, "overload-begin", node=2),
        event(200, "overload-begin", node=1),
        event(300, "overload-end", node=1),
        event(350, "overload-end", node=1),
        event(500, "run-end"),
        event(900, "overload-end", node=2),
    ]
    assert overload_s(events) == pytest.approx(0.3 + 0.4)
    assert overload_s(events[:5]) == pytest.approx(0.3 + 0.25)
    assert overload_s([]) == 0


def decided(request: int, *nodes: list[int]) -> dict[str, Any]:
    return event(1, "decision", request=request, placements=list(nodes))


def led(at_ms: int, group: str, primary: int | None) -> dict[str, Any]:
    return event(at_ms, "reconfigured", group=group, primary=primary)


TWO_CHAINS = [
    decided(0, [3, 5], [5, 3]),
    decided(2, [3, 4]),
    *(led(2, group, 0) for group in ("r0-h0", "r0-h1", "r2-h0")),
    event(3, "first-release", group="r0-h0"),
]


def test_recovery_counts_from_the_fault_that_struck_the_primary() -> None:
    """Two faults close together, and who recovers from the first one is done after the second."""
    events = [
        *TWO_CHAINS,
        event(10, "fault", node=3),
        event(20, "fault", node=5),
        led(25, "r0-h0", 1),
        event(40, "first-release", group="r2-h0"),
        event(45, "first-release", group="r0-h1"),
        event(46, "first-release", group="r0-h1"),
    ]
    assert recovery_ns(events) == [30 * MS, 25 * MS]


def test_a_group_that_two_faults_strike_recovers_from_the_first() -> None:
    events = [
        *TWO_CHAINS,
        event(10, "fault", node=3),
        led(18, "r0-h0", 1),
        event(20, "fault", node=5),
        event(60, "first-release", group="r0-h0"),
        event(100, "fault", node=4),
        event(130, "first-release", group="r0-h0"),
    ]
    assert recovery_ns(events) == [50 * MS]


def test_a_move_is_no_recovery_and_a_fault_strikes_where_the_primary_is_by_then() -> None:
    events = [
        *TWO_CHAINS,
        event(10, "fault", node=9),
        led(20, "r0-h0", 2),
        event(21, "first-release", group="r0-h0"),
        event(22, "moved", instance="r0-h0-m2", node=7),
        event(30, "fault", node=3),
        event(40, "fault", node=7),
        event(70, "first-release", group="r0-h0"),
    ]
    assert recovery_ns(events) == [30 * MS]


def test_shards_begin_where_the_decision_put_their_function() -> None:
    events = [
        decided(0, [3, 5]),
        *(led(2, f"r0-h0-s{shard}", 0) for shard in range(2)),
        event(5, "fault", node=3),
        event(9, "first-release", group="r0-h0-s1"),
        event(11, "first-release", group="r0-h0-s0"),
    ]
    assert recovery_ns(events) == [4 * MS, 6 * MS]
