"""Python 3.12: what it dropped comes from elsewhere."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.support.places import ROOT


def test_distutils_which_mininet_imports_comes_from_setuptools() -> None:
    """Python 3.12 has none of its own; Ubuntu 24.04 is a 3.12."""
    code = "import sys, mininet.node; print(sys.modules['distutils'].__file__)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert Path(done.stdout.strip()).parts[-3:-1] == ("setuptools", "_distutils")
