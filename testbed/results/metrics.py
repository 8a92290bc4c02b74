"""The metrics of packets, as the RFCs define them, from the recorded packets alone. Pure.

Of a packet (`of_packets`), in nanoseconds:

- `delay_ns`: one-way delay (RFC 7679): first arrival less *actual* sending, both from when the
  kernel was handed the packet or handed it over. All hosts share one clock, so there is no error of
  synchronisation. A packet that is lost has none; the loss threshold is the end of the run.
- `ipdv_ns`: delay variation between packets (RFC 3393). Selection function: each packet and the one
  that was sent before it in its flow (`seq` - 1), if both arrived. It may be negative.
- `pdv_ns`: packet delay variation (RFC 5481): delay less the least delay of the flow.
- `reordered`: its first arrival came after that of a packet of its flow with a greater `seq`
  (Type-P-Reordered, RFC 4737 section 3.3). `extent`: in arrivals, how far behind the earliest such
  packet it came (section 4.2.1), each packet counted at its first arrival.
- `duplicates`: arrivals beyond the first (RFC 5560).
- `lag_ns`: actual sending less scheduled time. `gap_error_ns`: how far the time since the packet
  before it in its flow (`seq` - 1) is from the schedule's, if both were sent.

Of a set of packets (`measure`): percentiles with their intervals (`testbed.statistics.quantiles`);
loss (RFC 7680) over the packets sent; duplication and reordering over those that arrived; `pdv_ns`
= D99.9 - Dmin (RFC 8219 section 7.3.1), of the delays together; `ipdv_ns` of absolute values;
goodput; `rate_ratio`: the rate that the sender reached over the schedule's, both by the mean time
between two packets; and where the time went, if packets were traced (`testbed.results.hops`). Delay
percentiles count a lost packet as infinitely late (RFC 7679 section 5.1). Sets are merged by
putting their packets together: nothing is averaged, so a merged percentile is exact.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from testbed.results.hops import measure_hops
from testbed.statistics.quantiles import quantile, quantiles

FORMAT = 1
_NS_PER_S = 1_000_000_000
_ORDER = ["chain", "flow", "seq"]
_KEPT = ["chain", "sfc", "flow", "seq", "l3_bytes", "scheduled_ns", "received_ns", "hops"]


def of_packets(packets: pd.DataFrame) -> pd.DataFrame:
    """The metrics of each packet: the rows of `packets`, ordered by (chain, flow, seq).

    `packets` has the columns of `testbed.records.packets`. Beside those of `_KEPT` a row has sent,
    received (bool), delay_ns, ipdv_ns, pdv_ns, lag_ns, gap_error_ns, extent (Int64, null where
    there is none), reordered (bool) and duplicates (int64).
    """
    ordered = packets.sort_values(_ORDER, ignore_index=True)
    received = ordered["received_ns"].notna()
    delay_ns = ordered["received_ns"] - ordered["sent_ns"]
    lag_ns = ordered["sent_ns"] - ordered["scheduled_ns"]
    flows = [ordered["chain"], ordered["flow"]]
    follows = ordered["seq"].diff() == 1
    for column in flows:
        follows &= column.diff() == 0
    extent = _extents(ordered)
    frame = ordered[_KEPT].copy()
    frame["sent"] = (ordered["sent_ns"].notna() | received).astype(bool)
    frame["received"] = received.astype(bool)
    frame["delay_ns"] = delay_ns
    frame["ipdv_ns"] = delay_ns.diff().where(follows)
    frame["pdv_ns"] = delay_ns - delay_ns.groupby(flows).transform("min")
    frame["lag_ns"] = lag_ns
    frame["gap_error_ns"] = lag_ns.diff().abs().where(follows)
    frame["reordered"] = extent > 0
    frame["extent"] = pd.arrays.IntegerArray(extent, extent == 0)
    frame["duplicates"] = (ordered["copies"] - 1).clip(lower=0).astype(np.int64)
    return frame


def _extents(ordered: pd.DataFrame) -> NDArray[np.int64]:
    """Extent of reordering of each packet, 0 if it was not reordered."""
    extents = np.zeros(len(ordered), np.int64)
    arrived = ordered[ordered["arrival"].notna()].sort_values(["chain", "flow", "arrival"])
    for _, flow in arrived.groupby(["chain", "flow"], sort=False):
        seq = flow["seq"].to_numpy(dtype=np.int64)
        greatest = np.maximum.accumulate(seq)
        late = np.flatnonzero(seq < greatest)
        # `greatest` never falls, so the first packet above a seq is the first maximum above it.
        before = np.searchsorted(greatest, seq[late], side="right")
        extents[flow.index.to_numpy()[late]] = late - before
    return extents


def measure(rows: pd.DataFrame) -> dict[str, Any]:
    """The metrics of a set of packets, given what `of_packets` says of each; JSON values."""
    sent, received = int(rows["sent"].sum()), int(rows["received"].sum())
    delays = np.sort(rows["delay_ns"].dropna().to_numpy(dtype=np.int64))
    lost = sent - received
    ipdv = rows["ipdv_ns"].dropna().to_numpy(dtype=np.int64)
    copied = int((rows["duplicates"] > 0).sum())
    extents = rows["extent"].dropna().to_numpy(dtype=np.int64)
    least = int(delays[0]) if len(delays) else None
    return {
        "due": len(rows),
        "sent": sent,
        "received": received,
        "lost": lost,
        "loss_ratio": _ratio(lost, sent),
        "duplicated": int(rows["duplicates"].sum()),
        "copied": copied,
        "duplication_ratio": _ratio(copied, received),
        "reordered": len(extents),
        "reordered_ratio": _ratio(len(extents), received),
        "extent_max": int(extents.max()) if len(extents) else None,
        "extent_mean": float(extents.mean()) if len(extents) else None,
        "delay_min_ns": least,
        "delay_ns": quantiles(delays, lost),
        "ipdv_pairs": len(ipdv),
        "ipdv_ns": quantiles(np.abs(ipdv)),
        "pdv_ns": _less(quantile(delays, 0.999, lost).to_json(), least),
        "goodput_bps": goodput_bps(rows),
        "rate_ratio": rate_ratio(rows),
        "lag_ns": quantiles(rows["lag_ns"].dropna().to_numpy(dtype=np.int64)),
        "gap_error_ns": quantiles(rows["gap_error_ns"].dropna().to_numpy(dtype=np.int64)),
        "hops": measure_hops(rows),
    }


def _less(entry: Mapping[str, Any], least: int | None) -> dict[str, Any]:
    """A percentile less the least delay, which is there whenever the percentile is."""
    return {
        key: value - (least or 0) if isinstance(value, float) else value
        for key, value in entry.items()
    }


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def goodput_bps(rows: pd.DataFrame) -> float | None:
    """L3 bits that arrived, each packet counted once, per second of the set's traffic.

    Its traffic lasts from the first to the last scheduled time; None if that is no time. `rows` are
    packets or what `of_packets` makes of them.
    """
    if rows.empty:
        return None
    duration_ns = int(rows["scheduled_ns"].max() - rows["scheduled_ns"].min())
    if duration_ns <= 0:
        return None
    arrived = rows["received"] if "received" in rows else rows["received_ns"].notna()
    return int(rows.loc[arrived, "l3_bytes"].sum()) * 8 * _NS_PER_S / duration_ns


def rate_ratio(rows: pd.DataFrame) -> float | None:
    """The rate that was reached over that of the schedule, of what `of_packets` makes of packets.

    Rates are packets less one over the time from the first to the last; None if that is no time.
    """
    sent_ns = (rows["scheduled_ns"] + rows["lag_ns"]).dropna()
    if len(sent_ns) < 2:
        return None
    asked_ns = int(rows["scheduled_ns"].max() - rows["scheduled_ns"].min())
    took_ns = int(sent_ns.max() - sent_ns.min())
    if asked_ns <= 0 or took_ns <= 0:
        return None
    return ((len(sent_ns) - 1) / took_ns) / ((len(rows) - 1) / asked_ns)


def scopes(rows: pd.DataFrame) -> Iterator[tuple[dict[str, Any], pd.DataFrame]]:
    """The sets of packets that are measured: the run, then each chain and each of its flows.

    With each set comes what names it: {"scope": "run"}, {"scope": "chain", "chain", "sfc"},
    {"scope": "flow", "chain", "sfc", "flow"}.
    """
    yield {"scope": "run"}, rows
    for chain, of_chain in rows.groupby("chain"):
        name = {"chain": int(str(chain)), "sfc": str(of_chain["sfc"].iloc[0])}
        yield {"scope": "chain", **name}, of_chain
        for flow, of_flow in of_chain.groupby("flow"):
            yield {"scope": "flow", **name, "flow": int(str(flow))}, of_flow


def measure_all(packets: pd.DataFrame) -> list[dict[str, Any]]:
    """The metrics of a run: an entry for the run, each chain and each flow (see `scopes`)."""
    return [{**name, **measure(part)} for name, part in scopes(of_packets(packets))]


def flat(entry: Mapping[str, Any]) -> dict[str, Any]:
    """An entry as one line of a table: percentiles become columns, e.g. `delay_p99_low_ns`.

    What it says of hops is no single figure and is left out.
    """
    row: dict[str, Any] = {}
    for key, value in entry.items():
        if isinstance(value, list):
            continue
        if not isinstance(value, Mapping):
            row[key] = value
            continue
        stem = key.removesuffix("_ns")
        named = {"": value} if "value" in value else {f"_{name}": q for name, q in value.items()}
        for name, found in named.items():
            row[f"{stem}{name}_ns"] = found["value"]
            row |= {f"{stem}{name}_{end}_ns": found[end] for end in ("low", "high")}
    return row
