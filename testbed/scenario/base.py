"""What every part of a scenario file is made of: strict models and bounded numbers.

Every number has a least and a greatest value, so that what follows from it (nanoseconds, packets,
bytes) is a number that the run can work with.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from testbed.scenario.limits import LEAST_RATE_BPS, MAX_RUN_S, MOST_RATE_BPS

Moment = Annotated[float, Field(ge=0, le=MAX_RUN_S)]
"""A time from the start of the run, or a length of time that may be none."""
Timer = Annotated[float, Field(ge=1e-3, le=MAX_RUN_S)]
"""A length of time after which a process looks again; none looks more often than each 1 ms."""
Rate = Annotated[float, Field(ge=LEAST_RATE_BPS, le=MOST_RATE_BPS)]
"""Bits per second of a link or a transfer."""
MemoryBytes = Annotated[int, Field(ge=1, le=1 << 50)]
Factor = Annotated[float, Field(ge=1e-6, le=1e6)]
"""Of a rate, or a weight among others."""
Share = Annotated[float, Field(ge=0, le=1)]
Percent = Annotated[float, Field(ge=0, le=100)]
Seed = Annotated[int, Field(ge=0, le=(1 << 32) - 1)]
Pair = Annotated[list[str], Field(min_length=2, max_length=2)]

NAME_PATTERN = r"^[a-z0-9][a-z0-9-]{0,40}$"
NODE_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_-]{0,20}$"
GRAPH_PATTERN = r"^[A-Za-z0-9_-]+(/[A-Za-z0-9_-]+)+$"
PATTERN_WORDS = {
    NAME_PATTERN: "1 to 41 small letters, digits and hyphens, no hyphen first",
    NODE_PATTERN: "1 to 21 letters, digits, hyphens and underscores, a letter or digit first",
    GRAPH_PATTERN: "a graph of topohub, e.g. sndlib/abilene",
}
"""What a person reads where text has a pattern."""
Name = Annotated[str, Field(pattern=NAME_PATTERN)]


class Model(BaseModel):
    """Unknown keys are errors, values are not coerced between kinds, objects are frozen.

    Numbers are finite.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)
