"""Start of a process without orders: it reports that it is ready, then it reads the origin.

The harness sets the origin when all are ready, so each has to be told afterwards.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

POLL_S = 0.01


def await_origin(config: Mapping[str, Any]) -> int:
    """Say that this process is ready; the run's origin on CLOCK_MONOTONIC, in ns, once it is set.

    config: `ready`, a file that is made, and `origin`, a file that holds the number when it is
    there.
    """
    Path(config["ready"]).touch()
    origin = Path(config["origin"])
    while not origin.exists():
        time.sleep(POLL_S)  # a process that waits for its start has nothing else to do
    return int(origin.read_text(encoding="ascii"))
