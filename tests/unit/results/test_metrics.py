"""The metrics are those that the RFCs' definitions give by hand, and by another way."""

from __future__ import annotations

import numpy as np
import pandas as pd
from hypothesis import given, settings
from hypothesis import strategies as st

from testbed.records.packets import build_packets
from testbed.results.metrics import flat, goodput_bps, measure, measure_all, of_packets, scopes
from testbed.results.run_summary import summarise
from tests.support.results_support import MS, Arrival, arrivals, packets, schedule

SENT_NS = 1000  # `packets` sends everything 1 us late


def by_hand() -> pd.DataFrame:
    """Packets 0..7, a ms apart: 3 is lost, 5 overtakes 4, 1 comes twice, 2 comes after 6."""
    order = [(0, 20), (1, 21), (1, 22), (5, 30), (4, 31), (6, 32), (2, 40), (7, 41)]
    return packets([schedule(8)], [(0, 0, seq, at * MS + SENT_NS) for seq, at in order])


def test_the_delay_is_from_sending_and_not_from_the_schedule() -> None:
    rows = of_packets(by_hand())
    assert rows["delay_ns"].fillna(-1).tolist() == [
        20 * MS, 20 * MS, 38 * MS, -1, 27 * MS, 25 * MS, 26 * MS, 34 * MS,
    ]  # fmt: skip
    assert rows["pdv_ns"].dropna().min() == 0
    assert rows["pdv_ns"].fillna(-1).tolist()[2] == 18 * MS


def test_delay_variation_is_of_neighbours_that_both_arrived() -> None:
    rows = of_packets(by_hand())
    none = None
    expected = [none, 0, 18 * MS, none, none, -2 * MS, 1 * MS, 8 * MS]
    assert [none if pd.isna(value) else value for value in rows["ipdv_ns"]] == expected
    assert measure(rows)["ipdv_pairs"] == 5


def test_delay_variation_does_not_reach_over_flows_or_chains() -> None:
    schedules = [schedule(4, flows=2), schedule(2, request=1)]
    records: list[Arrival] = [
        (request, flow, seq, (10 + 7 * flow + 50 * request) * MS)
        for request, flow, seq in [(0, 0, 0), (0, 1, 0), (0, 0, 1), (0, 1, 1), (1, 0, 0), (1, 0, 1)]
    ]
    frame = packets(schedules, records)
    rows = of_packets(frame)
    assert rows["ipdv_ns"].isna().tolist() == [True, False, True, False, True, False]
    # Nor in a part of the packets, where one flow ends with 0 and the next begins with 1.
    part = frame[(frame["chain"] == 0) & (frame["flow"] == frame["seq"])]
    assert len(part) == 2 and of_packets(part)["ipdv_ns"].isna().all()
    assert rows.groupby(["chain", "flow"])["pdv_ns"].min().tolist() == [0, 0, 0]


def test_reordering_and_its_extent() -> None:
    rows = of_packets(by_hand())
    # Arrivals: 0 1 5 4 6 2 7. 4 comes one after 5; 2 comes three after 5, the first above it.
    assert rows.loc[rows["reordered"], "seq"].tolist() == [2, 4]
    assert rows["extent"].dropna().tolist() == [3, 1]
    found = measure(rows)
    assert (found["reordered"], found["extent_max"], found["extent_mean"]) == (2, 3, 2.0)
    assert found["reordered_ratio"] == 2 / 7


def test_loss_duplication_goodput() -> None:
    found = measure(of_packets(by_hand()))
    assert (found["due"], found["sent"], found["received"], found["lost"]) == (8, 8, 7, 1)
    assert found["loss_ratio"] == 1 / 8
    assert (found["duplicated"], found["copied"], found["duplication_ratio"]) == (1, 1, 1 / 7)
    assert found["goodput_bps"] == 7 * 100 * 8 / 0.007
    assert found["delay_ns"]["p50"]["value"] == 26 * MS  # rank 4 of 8: the lost one is the last
    assert found["delay_ns"]["p50"]["high"] is None
    assert found["pdv_ns"]["value"] is None
    assert found["pdv_ns"]["note"] == "8 of at least 3688 samples"


def test_pdv_is_the_greatest_but_a_thousandth_less_the_least() -> None:
    count = 5000
    delays = np.random.default_rng(1).permutation(count) + 10 * MS
    planned = schedule(count)
    records = [
        (0, 0, int(seq), int(due + SENT_NS + delay))
        for (_, seq, due), delay in zip(planned.schedule.tolist(), delays, strict=True)
    ]
    found = measure(of_packets(packets([planned], records)))
    assert found["pdv_ns"]["value"] == 4995 - 1
    assert found["pdv_ns"]["low"] < 4994 < found["pdv_ns"]["high"]
    assert found["delay_min_ns"] == 10 * MS


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 5)), max_size=40))
def test_reordering_agrees_with_its_definition(order: list[tuple[int, int]]) -> None:
    records = [(0, flow, seq, MS * (9 + at)) for at, (flow, seq) in enumerate(order)]
    frame = packets([schedule(12, flows=2)], records)
    rows = of_packets(frame)
    for flow in (0, 1):
        firsts = list(dict.fromkeys(seq for f, seq in order if f == flow))
        for place, seq in enumerate(firsts):
            earlier = [at for at in range(place) if firsts[at] > seq]
            row = rows[(rows["flow"] == flow) & (rows["seq"] == seq)].iloc[0]
            assert bool(row["reordered"]) == bool(earlier)
            if earlier:
                assert row["extent"] == place - earlier[0]
    manifest = {"seed": 1, "valid": True}
    assert measure(rows)["reordered"] == summarise(frame, [], manifest)["reordered"]


def test_run_chains_and_flows_are_measured_each_by_itself() -> None:
    schedules = [schedule(10, flows=2), schedule(6, request=3)]
    records = [(0, 1, seq, 20 * MS) for seq in range(5)] + [(3, 0, 0, 9 * MS)]
    frame = packets(schedules, records)
    entries = measure_all(frame)
    names = [(e["scope"], e.get("chain"), e.get("flow")) for e in entries]
    assert names == [
        ("run", None, None),
        ("chain", 0, None), ("flow", 0, 0), ("flow", 0, 1),
        ("chain", 3, None), ("flow", 3, 0),
    ]  # fmt: skip
    assert [e["lost"] for e in entries] == [10, 5, 5, 0, 5, 5]
    # What is merged is the packets: a merged percentile is that of all of them.
    for name, part in scopes(of_packets(frame)):
        again = {**name, **measure(part.sample(frac=1.0, random_state=2))}
        assert again == next(e for e in entries if all(e.get(k) == v for k, v in name.items()))


def test_nothing_sent_gives_no_figure_and_no_error() -> None:
    frame = build_packets([schedule(3)], {}, arrivals([]))
    found = measure(of_packets(frame))
    assert (found["sent"], found["loss_ratio"], found["reordered_ratio"]) == (0, None, None)
    assert found["delay_ns"]["p50"]["value"] is None
    assert goodput_bps(build_packets([], {}, arrivals([]))) is None
    assert measure_all(build_packets([], {}, arrivals([])))[0]["due"] == 0


def test_a_line_of_a_table_has_every_figure() -> None:
    line = flat(measure_all(by_hand())[0])
    assert line["delay_p50_ns"] == 26 * MS
    assert line["delay_p50_high_ns"] is None
    assert line["pdv_ns"] is None
    assert not any(isinstance(value, dict) for value in line.values())


def test_how_well_the_sender_kept_its_schedule() -> None:
    frame = packets([schedule(4)], [])  # due at 0, 1, 2, 3 ms
    frame["sent_ns"] = [0, 1_500_000, 2_000_000, 6_000_000]
    rows = of_packets(frame)
    assert rows["lag_ns"].to_list() == [0, 500_000, 0, 3_000_000]
    assert rows["gap_error_ns"].dropna().to_list() == [500_000, 500_000, 3_000_000]
    assert measure(rows)["rate_ratio"] == 0.5
    frame.loc[3, "sent_ns"] = None
    assert measure(of_packets(frame))["rate_ratio"] == 1.0
