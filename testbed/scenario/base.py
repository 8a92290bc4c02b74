"""What every part of a scenario file is made of: strict models and bounded numbers."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Pair = Annotated[list[str], Field(min_length=2, max_length=2)]

NAME_PATTERN = r"^[a-z0-9][a-z0-9-]{0,40}$"
NODE_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_-]{0,20}$"
PATTERN_WORDS = {
    NAME_PATTERN: "1 to 41 small letters, digits and hyphens, no hyphen first",
    NODE_PATTERN: "1 to 21 letters, digits, hyphens and underscores, a letter or digit first",
}
"""What a person reads where text has a pattern."""


class Model(BaseModel):
    """Unknown keys are errors, values are not coerced between kinds, objects are frozen.

    Numbers are finite.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)
