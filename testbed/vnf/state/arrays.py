"""Names for the arrays that compiled code works on."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Bytes: TypeAlias = NDArray[np.uint8]
"""Bytes, C-contiguous, one dimension."""

Words: TypeAlias = NDArray[np.int64]
"""64 bit integers, C-contiguous, one dimension unless it is said otherwise."""

Indices: TypeAlias = NDArray[np.int32]

Array: TypeAlias = NDArray[Any]
