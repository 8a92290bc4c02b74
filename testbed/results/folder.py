"""Results folders: where they are, who owns them, which is the latest."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

from testbed.scenario.errors import InputError

RESULTS = "results"


def new_results_folder(base: Path, name: str) -> Path:
    """Make `<base>/<name>-<time>` and point `<base>/latest` at it."""
    folder = base / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
    make_folder(folder)
    latest = base / "latest"
    temporary = base / f".latest-{os.getpid()}"
    temporary.symlink_to(folder.name)
    temporary.replace(latest)
    return folder


def make_folder(folder: Path) -> None:
    """Make a folder for results; raises InputError if there is one already."""
    try:
        folder.mkdir(parents=True)
    except FileExistsError:
        raise InputError("results", str(folder), "a folder that does not exist yet") from None


def hand_back(folder: Path) -> None:
    """Give a results folder to the user who called sudo; nothing without sudo.

    Of the folder around it, only itself and its link `latest`, if it is ours by its name.
    """
    if os.geteuid() != 0 or not os.environ.get("SUDO_UID"):
        return
    uid, gid = int(os.environ["SUDO_UID"]), int(os.environ.get("SUDO_GID", "-1"))
    paths = [folder, *folder.rglob("*")]
    if folder.parent.name == RESULTS:
        paths += [folder.parent, folder.parent / "latest"]
    for path in paths:
        with contextlib.suppress(FileNotFoundError):
            os.chown(path, uid, gid, follow_symlinks=False)
