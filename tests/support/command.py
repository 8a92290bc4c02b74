"""The command `deftbed`, as a user runs it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

from tests.support.places import ROOT

COMMAND = [sys.executable, "-c", "from testbed.cli.main import main; main()"]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}


def deftbed(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """What became of a command of `deftbed`."""
    command = [*COMMAND, *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=300, env=ENVIRONMENT, **options
    )


def answer(*arguments: str) -> dict[str, Any]:
    """What a command prints with `--json`; the command has to succeed."""
    done = deftbed(*arguments, "--json")
    assert done.returncode == 0, done.stderr
    printed: dict[str, Any] = json.loads(done.stdout)
    return printed
