"""An interrupt ends the command, also one that comes where Python ignores errors."""

from __future__ import annotations

import subprocess
import sys

from tests.support.places import ROOT

CODE = """
import os, signal, time
from testbed.cli import main as cli

class Slow:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGTERM)
        for _ in range(1000):
            pass

@cli.app.command()
def wait():
    Slow()
    time.sleep(60)
    print("not interrupted")

cli.main(["wait"])
"""


def test_an_interrupt_inside_a_destructor_is_not_lost() -> None:
    done = subprocess.run(
        [sys.executable, "-c", CODE], capture_output=True, text=True, timeout=120, cwd=ROOT
    )
    assert done.returncode == 130, done.stderr
    assert "interrupted; what was measured is kept" in done.stderr
    assert "not interrupted" not in done.stdout
