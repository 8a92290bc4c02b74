"""The raw values of an evaluation: one row for each policy, cell, stream and model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from testbed.records.files import whole

VALUES = "values.parquet"
CELL = ["topology", "load"]

FloatArray = NDArray[np.float64]


def write_values(rows: Iterable[Mapping[Any, Any]], folder: Path) -> pd.DataFrame:
    """Write values.parquet and values.csv, with the columns of `agents.placement.sweep.Row`."""
    frame = pd.DataFrame(list(rows))
    with whole(folder / VALUES) as beside:
        frame.to_parquet(beside, index=False)
    with whole(folder / "values.csv") as beside:
        frame.to_csv(beside, index=False)
    return frame


def read_values(folder: Path) -> pd.DataFrame:
    """The rows that `write_values` wrote."""
    return pd.read_parquet(folder / VALUES)


def table_of(frame: pd.DataFrame, policy: str, key: str) -> FloatArray:
    """A policy's values of a figure in one cell as a table [models, streams], streams ascending.

    Raises ValueError if a model lacks a stream that another has.
    """
    rows = frame[frame["policy"] == policy]
    table = rows.pivot(index="model", columns="stream", values=key).sort_index(axis=1)
    if len(rows) != table.size:
        raise ValueError(f"{policy}, {key}: {len(rows)} rows, expected {table.size}")
    return np.asarray(table.to_numpy(dtype=np.float64))
