"""The loop of the line without a socket: fates of frames, order, cuts, changes of rate, traces."""

from __future__ import annotations

import dataclasses
import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from testbed.scenario.impairments import GilbertElliott, Impairments
from testbed.scenario.types import Link
from testbed.substrate.links import line_io, line_tables
from testbed.substrate.links.carriers import settings_of
from testbed.substrate.links.line_fate import draw, stream_of
from testbed.substrate.links.line_tables import Tables, Wire, apply_settings, make_tables, restart

MS = 1_000_000
LINK = Link(0, 1, 10 * MS, 1_000_000_000, 10_000_000)


class Bench:
    """One direction of a link: frames go in, (number, due_ns) come out."""

    def __init__(self, link: Link, seed: int = 1, traces: tuple[str, ...] = ()) -> None:
        self.traces = traces
        counters = np.zeros((2, line_tables.COUNTER_COLUMNS), dtype=np.int64)
        wire = Wire(0, 1, stream_of(seed, 0, True), settings_of(link))
        self.tables: Tables = make_tables([wire], traces, counters)
        self.number_of: dict[int, int] = {}

    def send(self, count: int, gap_ns: int = 1 * MS, size: int = 125, start_ns: int = 0) -> None:
        for number in range(count):
            height = self.tables.free[line_tables.SLOTS] - 1
            slot = int(self.tables.free[height])
            if line_io.accept(self.tables, 0, slot, size, start_ns + number * gap_ns):
                self.tables.free[line_tables.SLOTS] = height
                self.number_of[slot] = number

    def arrived(self, until_ns: int = 1 << 60) -> list[tuple[int, int]]:
        found = []
        while True:
            count, next_ns = line_io.collect(self.tables, until_ns)
            for i in range(count):
                slot = int(self.tables.batch[i])
                found.append((self.number_of[slot], int(self.tables.due_ns[slot])))
                if self.tables.last[i]:
                    self.tables.free[self.tables.free[line_tables.SLOTS]] = slot
                    self.tables.free[line_tables.SLOTS] += 1
            if next_ns > until_ns:
                return found

    def counter(self, column: int) -> int:
        return int(self.tables.counters[0, column])

    def change(self, now_ns: int, link: Link, up: bool = True) -> None:
        apply_settings(self.tables, 0, settings_of(link, up), self.traces, now_ns)


def with_(**impairments: Any) -> Link:
    return dataclasses.replace(LINK, impairments=Impairments(**impairments))


def numbers(link: Link, count: int, seed: int = 1) -> list[int]:
    bench = Bench(link, seed)
    bench.send(count)
    return [number for number, _ in bench.arrived()]


def test_a_link_without_impairments_delays_and_nothing_else() -> None:
    bench = Bench(LINK)
    bench.send(500)
    assert bench.arrived() == [(n, n * MS + 1000 + 10 * MS) for n in range(500)]


def test_the_same_seed_loses_the_same_frames_and_another_seed_others() -> None:
    link = with_(loss=0.1)
    assert numbers(link, 2000) == numbers(link, 2000)
    assert numbers(link, 2000) != numbers(link, 2000, seed=2)


def test_what_a_frame_meets_does_not_depend_on_when_it_comes() -> None:
    link = with_(loss=0.1, burst=GilbertElliott(0.01, 0.3))
    slow, fast = Bench(link), Bench(link)
    slow.send(1000, gap_ns=5 * MS)
    fast.send(1000, gap_ns=20_000)
    assert [n for n, _ in slow.arrived()] == [n for n, _ in fast.arrived()]


def test_a_restart_repeats_every_fate() -> None:
    bench = Bench(with_(loss=0.2, burst=GilbertElliott(0.05, 0.3)))
    bench.send(300)
    first = [n for n, _ in bench.arrived()]
    restart(bench.tables, 0)
    bench.send(300, start_ns=10**9)
    assert [n for n, _ in bench.arrived()] == first


def test_directions_and_links_draw_independently() -> None:
    keys = [stream_of(3, link, forward) for link in range(20) for forward in (True, False)]
    assert len(set(keys)) == 40
    drawn = np.array([[draw(key, n, 0) for n in range(4000)] for key in keys[:8]])
    correlation = np.corrcoef(drawn) - np.eye(8)
    assert np.abs(correlation).max() < 5 / math.sqrt(4000)


@pytest.mark.parametrize("loss", [0.001, 0.01, 0.2])
def test_random_loss_is_binomial(loss: float) -> None:
    count = 40_000
    bench = Bench(with_(loss=loss))
    for part in range(4):
        bench.send(count // 4, gap_ns=10_000, start_ns=part * 100 * MS)
        bench.arrived()
    lost = bench.counter(line_tables.LOST)
    assert bench.counter(line_tables.DROPS) == 0
    assert abs(lost - count * loss) < 4 * math.sqrt(count * loss * (1 - loss))


@pytest.mark.parametrize(
    "burst",
    [
        GilbertElliott(0.01, 0.25),
        GilbertElliott(0.02, 0.5, 0.7),
        GilbertElliott(0.05, 0.2, 0.9, 0.01),
    ],
)
def test_gilbert_elliott_has_its_stationary_loss_and_mean_burst(burst: GilbertElliott) -> None:
    count = 30_000
    bench = Bench(with_(burst=burst))
    kept = np.zeros(count, dtype=bool)
    for part in range(3):
        bench.send(count // 3, gap_ns=10_000, start_ns=part * 100 * MS)
        kept[[part * count // 3 + n for n, _ in bench.arrived()]] = True
    lost = ~kept
    bursts = int((lost[1:] & ~lost[:-1]).sum() + lost[0])
    # Frames are not independent: the variance grows by (1 + memory) / (1 - memory) at most.
    spread = burst.loss * (1 - burst.loss) * (1 + burst.memory) / (1 - burst.memory)
    assert abs(lost.mean() - burst.loss) < 4 * math.sqrt(spread / count)
    assert lost.sum() / bursts == pytest.approx(burst.mean_burst, rel=5 / math.sqrt(bursts))


def test_the_formulas_of_burst_loss() -> None:
    simple = GilbertElliott(0.01, 0.25)
    assert simple.loss == pytest.approx(0.01 / 0.26)
    assert simple.mean_burst == pytest.approx(4.0)
    # Without memory (p + r = 1) a run of losses is geometric: 1 / (1 - loss).
    independent = GilbertElliott(0.3, 0.7)
    assert independent.mean_burst == pytest.approx(1 / (1 - 0.3))
    assert GilbertElliott(0.0, 0.5).mean_burst == 0.0


def test_jitter_keeps_the_order_and_stays_within_its_bounds() -> None:
    bench = Bench(with_(jitter_ns=4 * MS))
    bench.send(3000)
    arrived = bench.arrived()
    assert [n for n, _ in arrived] == list(range(3000))
    delays = np.array([due - n * MS - 1000 for n, due in arrived])
    assert delays.min() >= 6 * MS and delays.max() <= 14 * MS
    assert delays.std() > 1 * MS


def test_jitter_may_change_the_order_and_is_then_uniform() -> None:
    bench = Bench(with_(jitter_ns=4 * MS, jitter_reorders=True))
    bench.send(3000)
    arrived = bench.arrived()
    assert [n for n, _ in arrived] != list(range(3000))
    assert sorted(n for n, _ in arrived) == list(range(3000))
    delays = np.sort([(due - n * MS - 1000 - 10 * MS) / (4 * MS) for n, due in arrived])
    uniform = np.linspace(-1, 1, len(delays))
    assert np.abs(delays - uniform).max() < 2 * 1.63 / math.sqrt(3000)  # Kolmogorov, 1 %


def test_a_reordered_frame_goes_without_the_delay() -> None:
    bench = Bench(with_(reorder=0.1))
    bench.send(1000)
    early = [n for n, due in bench.arrived() if due == n * MS + 1000]
    assert len(early) == bench.counter(line_tables.REORDERED)
    assert 60 < len(early) < 140


def test_a_duplicated_frame_comes_twice_at_once() -> None:
    bench = Bench(with_(duplicate=0.1))
    bench.send(1000)
    arrived = bench.arrived()
    twice = [n for (n, _), (m, _) in itertools.pairwise(arrived) if n == m]
    assert len(arrived) == 1000 + len(twice)
    assert len(twice) == bench.counter(line_tables.DUPLICATED)
    assert 60 < len(twice) < 140
    assert bench.tables.free[line_tables.SLOTS] == line_tables.SLOTS  # every slot is free again


def test_a_cut_loses_what_is_on_the_wire_and_what_comes_until_it_is_mended() -> None:
    bench = Bench(LINK)
    bench.send(20)  # at 0 .. 19 ms, due at 10 .. 29 ms
    early = bench.arrived(15 * MS)
    bench.change(20 * MS, LINK, up=False)
    bench.send(5, start_ns=21 * MS)
    bench.change(27 * MS, LINK, up=True)
    bench.send(3, start_ns=28 * MS)
    late = bench.arrived()
    assert [n for n, _ in early] == [0, 1, 2, 3, 4]
    assert [n for n, _ in late] == [0, 1, 2]
    assert bench.counter(line_tables.CUT) == 15 + 5


def test_what_waits_leaves_at_the_new_rate() -> None:
    slow = dataclasses.replace(LINK, rate_bps=1_000_000)  # 125 bytes take 1 ms
    bench = Bench(slow)
    bench.send(10, gap_ns=0)
    bench.change(4 * MS, dataclasses.replace(LINK, rate_bps=2_000_000))
    due_ms = [(due - 10 * MS) / MS for _, due in bench.arrived()]
    assert due_ms == pytest.approx([1, 2, 3, 4, 4.5, 5, 5.5, 6, 6.5, 7])
    bench.send(1, start_ns=5 * MS)
    assert bench.arrived() == [(0, round(17.5 * MS))]


def test_a_trace_delivers_at_its_opportunities_and_begins_anew(tmp_path: Path) -> None:
    path = tmp_path / "trace"
    path.write_text("2\n2\n5\n10\n")
    settings = {**settings_of(LINK), "trace": str(path), "delay_ns": 0}
    bench = Bench(LINK, traces=(str(path),))
    apply_settings(bench.tables, 0, settings, bench.traces, 0)
    bench.send(6, gap_ns=0, size=1514)
    assert [due / MS for _, due in bench.arrived()] == [2, 2, 5, 10, 12, 12]
    bench.send(2, gap_ns=0, size=1514, start_ns=16 * MS)
    assert [due / MS for _, due in bench.arrived()] == [20, 22]
