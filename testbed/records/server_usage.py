"""servers.parquet: CPU, memory and queue of every server by time.

| column         | type    | meaning                                                           |
|----------------|---------|-------------------------------------------------------------------|
| `t_ns`         | int64   | end of the sampling period, from the run's origin                 |
| `node`         | int64   | the server's substrate node                                       |
| `utilisation`  | float64 | demand admitted in the period over what the server can do in it   |
| `queue_ns`     | int64   | how long a packet that came now would wait for the emulated CPU   |
| `dropped`      | int64   | packets refused in the period for lack of CPU                     |
| `cpu_ns`       | int64   | real CPU time of the server's processes so far                    |
| `memory_bytes` | int64   | resident memory of the server's processes                         |
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from testbed.records.files import RawFormatError
from testbed.records.parquet import read_table, schema_of, write_table

FORMAT = 1
NAME = "servers"

SCHEMA = schema_of(
    NAME,
    FORMAT,
    [
        pa.field("t_ns", pa.int64(), nullable=False),
        pa.field("node", pa.int64(), nullable=False),
        pa.field("utilisation", pa.float64(), nullable=False),
        pa.field("queue_ns", pa.int64(), nullable=False),
        pa.field("dropped", pa.int64(), nullable=False),
        pa.field("cpu_ns", pa.int64(), nullable=False),
        pa.field("memory_bytes", pa.int64(), nullable=False),
    ],
)


def write(samples: Iterable[Mapping[str, Any]], path: Path) -> None:
    """Write samples (objects with the columns above; none is well, too) to a parquet file.

    Raises KeyError for a sample without one of the columns.
    """
    rows = [{name: sample[name] for name in SCHEMA.names} for sample in samples]
    write_table(pa.Table.from_pylist(rows, schema=SCHEMA), path)


def read(path: Path) -> pd.DataFrame:
    """The samples in a parquet file; raises RawFormatError (see `records.parquet.read_table`)."""
    frame: pd.DataFrame = read_table(path, NAME, SCHEMA).to_pandas()
    if not np.isfinite(frame["utilisation"].to_numpy(dtype=np.float64)).all():
        raise RawFormatError(f"{path}: utilisation", "not finite", "numbers")
    return frame


def empty() -> pd.DataFrame:
    """No samples."""
    frame: pd.DataFrame = SCHEMA.empty_table().to_pandas()
    return frame
