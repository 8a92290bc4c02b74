"""The git revision of the sources that made a result."""

from __future__ import annotations

import subprocess
from pathlib import Path


def git_revision() -> str | None:
    """The revision of the checkout that runs, with "+changes" if it was changed; None outside."""
    here = Path(__file__).parents[1]
    # Without optional locks: `status` would write the index, as root in a user's checkout.
    command = ["git", "--no-optional-locks", "-c", f"safe.directory={here.parent}", "-C", str(here)]
    try:
        head = subprocess.run([*command, "rev-parse", "HEAD"], capture_output=True, text=True)
        status = subprocess.run(
            [*command, "status", "--porcelain", "-uno"], capture_output=True, text=True
        )
    except FileNotFoundError:
        return None
    if head.returncode != 0:
        return None
    return head.stdout.strip() + ("+changes" if status.stdout.strip() else "")
