"""packets.parquet: one row a packet that was due, from the raw records of a run.

| column         | type          | meaning                                                         |
|----------------|---------------|-----------------------------------------------------------------|
| `chain`        | int64         | the request whose chain the packet is for                       |
| `sfc`          | string        | the type of that chain                                          |
| `flow`, `seq`  | int64         | the flow in the request, the packet in the flow, both from 0    |
| `l3_bytes`     | int64         | size with IP header                                             |
| `scheduled_ns` | int64         | when it was due                                                 |
| `sent_ns`      | int64 or null | when it was handed to the kernel; null if it was not            |
| `received_ns`  | int64 or null | first arrival                                                   |
| `copies`       | int64         | arrivals; 2 is one duplicate                                    |
| `arrival`      | int64 or null | rank of the first arrival among those of the flow, from 0       |
| `hops`         | string or null| what was spent where, if it was traced (`testbed.results.hops`) |

Times are nanoseconds from the run's origin. Rows are ordered by (chain, scheduled_ns, flow, seq).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from testbed.records.manifest import read_run_manifest
from testbed.records.parquet import read_table, schema_of, write_table
from testbed.records.raw import (
    ARRIVAL_DTYPE,
    SCHEDULE_DTYPE,
    RawFormatError,
    Records,
    read_array,
    read_arrivals,
    schedule_path,
    sent_path,
    sizes_path,
)

FORMAT = 1
NAME = "packets"

SCHEMA = schema_of(
    NAME,
    FORMAT,
    [
        pa.field("chain", pa.int64(), nullable=False),
        pa.field("sfc", pa.string(), nullable=False),
        pa.field("flow", pa.int64(), nullable=False),
        pa.field("seq", pa.int64(), nullable=False),
        pa.field("l3_bytes", pa.int64(), nullable=False),
        pa.field("scheduled_ns", pa.int64(), nullable=False),
        pa.field("sent_ns", pa.int64()),
        pa.field("received_ns", pa.int64()),
        pa.field("copies", pa.int64(), nullable=False),
        pa.field("arrival", pa.int64()),
        pa.field("hops", pa.string()),
    ],
)
_NULLABLE = ("sent_ns", "received_ns", "arrival")

LARGEST = 1 << 60
"""No number in a row is larger: figures are sums and differences of them."""
UNMATCHED = "unmatched_arrivals"
"""`frame.attrs` key: arrivals of packets that no schedule holds (a fault of the testbed)."""


TORN = "torn"
"""`frame.attrs` key: raw files that could not be read, and why, in words."""


@dataclass(frozen=True, slots=True)
class Scheduled:
    """The packets of one request; `schedule` is an array of `SCHEDULE_DTYPE`.

    `l3_bytes` is the size of all, or one for each row.
    """

    request: int
    sfc: str
    l3_bytes: int | Records
    schedule: Records


def build_packets(
    schedules: Sequence[Scheduled],
    sent_ns: Mapping[int, NDArray[np.int64]],
    received: Records,
) -> pd.DataFrame:
    """One row a scheduled packet, with the columns above.

    `sent_ns` gives for each request, in the order of its schedule, when packets were sent (0 or
    beyond the end of the array: not sent). `received` is an array of `ARRIVAL_DTYPE`; the records
    of one flow are in the order of arrival.
    """
    parts = []
    matched = 0
    for entry in sorted(schedules, key=lambda each: each.request):
        arrivals = received[received["request"] == entry.request]
        part, used = _request_rows(entry, sent_ns.get(entry.request), arrivals)
        parts.append(part)
        matched += used
    frame = pd.concat(parts, ignore_index=True) if parts else _typed({})
    frame.attrs[UNMATCHED] = len(received) - matched
    return frame


def _request_rows(
    entry: Scheduled, sent_ns: NDArray[np.int64] | None, arrivals: Records
) -> tuple[pd.DataFrame, int]:
    schedule = entry.schedule
    packets = len(schedule)
    rows = _rows_of(schedule, arrivals)
    rows = rows[rows >= 0]
    first_rows, first_at = np.unique(rows, return_index=True)
    first_ns = arrivals["received_ns"][_rows_of(schedule, arrivals) >= 0][first_at]
    stamps = np.zeros(packets, np.int64)
    if sent_ns is not None:
        known = min(packets, len(sent_ns))
        stamps[:known] = sent_ns[:known]
    columns = {
        "chain": np.full(packets, entry.request),
        "sfc": np.full(packets, entry.sfc, dtype=object),
        "flow": schedule["flow"],
        "seq": schedule["seq"],
        "l3_bytes": np.full(packets, entry.l3_bytes),
        "scheduled_ns": schedule["scheduled_ns"],
        "sent_ns": _nullable(stamps, stamps != 0),
        "received_ns": _scatter(packets, first_rows, first_ns),
        "copies": np.bincount(rows, minlength=packets),
        "arrival": _scatter(packets, first_rows, _ranks(schedule["flow"][first_rows], first_at)),
        "hops": np.full(packets, None, dtype=object),
    }
    return _typed(columns), len(rows)


def _rows_of(schedule: Records, arrivals: Records) -> NDArray[np.int64]:
    """For each arrival its row in the schedule, -1 if it has none. In a flow, seq runs 0..n-1."""
    if len(schedule) == 0:
        return np.full(len(arrivals), -1, np.int64)
    order = np.lexsort((schedule["seq"], schedule["flow"]))
    counts = np.bincount(schedule["flow"])
    begins = np.concatenate(([0], np.cumsum(counts)))
    flow = np.minimum(arrivals["flow"], len(counts) - 1)
    known = (arrivals["flow"] < len(counts)) & (arrivals["seq"] < counts[flow])
    at = np.where(known, begins[flow] + np.where(known, arrivals["seq"], 0).astype(np.int64), 0)
    return np.where(known, order[at], -1)


def _ranks(flows: NDArray[np.uint32], at: NDArray[np.int64]) -> NDArray[np.int64]:
    """The rank of each position `at` among the positions of the same flow."""
    order = np.lexsort((at, flows))
    grouped = flows[order]
    begins = np.searchsorted(grouped, grouped, side="left")
    ranks = np.empty(len(at), np.int64)
    ranks[order] = np.arange(len(at)) - begins
    return ranks


def _nullable(values: NDArray[np.int64], valid: NDArray[np.bool_]) -> pd.arrays.IntegerArray:
    return pd.arrays.IntegerArray(values.astype(np.int64), ~valid)


def _scatter(
    size: int, rows: NDArray[np.int64], values: NDArray[np.int64]
) -> pd.arrays.IntegerArray:
    full, valid = np.zeros(size, np.int64), np.zeros(size, np.bool_)
    full[rows], valid[rows] = values, True
    return _nullable(full, valid)


def _typed(columns: Mapping[str, object]) -> pd.DataFrame:
    frame = pd.DataFrame({field.name: columns.get(field.name, []) for field in SCHEMA})
    kinds = {
        field.name: "string"
        if pa.types.is_string(field.type)
        else ("Int64" if field.name in _NULLABLE else "int64")
        for field in SCHEMA
    }
    return frame.astype(kinds)


def collect(run_dir: Path) -> pd.DataFrame:
    """The packets of a run from its manifest and `raw/`; what a run cut short lacks is null.

    A raw file that is not what it should be counts as one that is not there: `frame.attrs[TORN]`
    says which are, and what was found. Raises RawFormatError for such a manifest.
    """
    manifest = read_run_manifest(run_dir / "manifest.json")
    raw = run_dir / "raw"
    torn: list[str] = []
    schedules, sent = [], {}
    for request in manifest["requests"]:
        number = int(request["id"])
        try:
            scheduled = _scheduled(raw, request)
            if scheduled is None:
                continue
            schedules.append(scheduled)
            if sent_path(raw / "sent", number).exists():
                sent[number] = read_array(sent_path(raw / "sent", number), np.dtype(np.int64))
        except RawFormatError as error:
            torn.append(str(error))
    arrivals = [np.empty(0, ARRIVAL_DTYPE)]
    for path in sorted(raw.glob("received-*")):
        try:
            arrivals.append(read_arrivals(path).records)
        except RawFormatError as error:
            torn.append(str(error))
    frame = build_packets(schedules, sent, np.concatenate(arrivals))
    frame.attrs[TORN] = torn
    return frame


def _scheduled(raw: Path, request: Mapping[str, Any]) -> Scheduled | None:
    number = int(request["id"])
    if not schedule_path(raw, number).exists():
        return None
    schedule = read_array(schedule_path(raw, number), SCHEDULE_DTYPE)
    sizes: int | Records = int(request["l3_bytes"])
    if sizes_path(raw, number).exists():
        sizes = read_array(sizes_path(raw, number), np.dtype(np.uint16))
        if len(sizes) != len(schedule):
            where = str(sizes_path(raw, number))
            raise RawFormatError(where, f"{len(sizes)} sizes", f"{len(schedule)}, as packets")
    return Scheduled(number, request["chain"], sizes, schedule)


def write(frame: pd.DataFrame, path: Path) -> None:
    """Write packets to a parquet file with the format's version in its metadata."""
    table = pa.Table.from_pandas(frame, schema=SCHEMA, preserve_index=False)
    write_table(table.replace_schema_metadata(SCHEMA.metadata), path)


def read(path: Path) -> pd.DataFrame:
    """The packets in a parquet file; raises RawFormatError (see `records.parquet.read_table`)."""
    table = read_table(path, NAME, SCHEMA)
    frame = _typed(table.to_pandas(types_mapper={pa.int64(): pd.Int64Dtype()}.get))
    for column in ("chain", "flow", "seq", "l3_bytes", "scheduled_ns", "copies"):
        if len(frame) and not frame[column].between(0, LARGEST).all():
            raise RawFormatError(f"{path}: {column}", int(frame[column].min()), "numbers from 0")
    for column in _NULLABLE:
        known = frame[column].dropna()
        if len(known) and not known.between(-LARGEST, LARGEST).all():
            raise RawFormatError(f"{path}: {column}", int(known.max()), "numbers of this run")
    return frame


def empty() -> pd.DataFrame:
    """No packets."""
    return _typed({})
