"""What every part of a scenario file is made of: strict models and bounded numbers."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Pair = Annotated[list[str], Field(min_length=2, max_length=2)]


class Model(BaseModel):
    """Unknown keys are errors, values are not coerced between kinds, objects are frozen."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
