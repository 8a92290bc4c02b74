"""Results folders: where they are, who owns them, which is the latest."""

from __future__ import annotations

import contextlib
import itertools
import os
import secrets
import time
from pathlib import Path

from testbed.scenario.errors import InputError

RESULTS, LATEST = "results", "latest"


def results_folder(asked: Path | None, name: str, linked: bool = True) -> Path:
    """Make the folder that was asked for, else `results/<name>-<time>` (see `new_folder`).

    Raises InputError if it cannot be made.
    """
    if asked is None:
        return new_folder(Path(RESULTS), name, linked)
    make_folder(asked)
    return asked


def new_folder(base: Path, name: str, linked: bool = True) -> Path:
    """Make `<base>/<name>-<time>`, with `-2` and so on if there is one of this second already.

    If `linked`, `<base>/latest` points at it then. Raises InputError if it cannot be made.
    """
    latest = base / LATEST
    if linked and latest.exists() and not latest.is_symlink():
        what = "a folder" if latest.is_dir() else "a file"
        raise InputError(str(latest), what, "a link to the latest results: move it to another name")
    name = f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
    names = itertools.chain([name], (f"{name}-{number}" for number in itertools.count(2)))
    folder = next(base / each for each in names if _make(base / each))
    if linked:
        beside = base / f".{LATEST}-{secrets.token_hex(4)}"
        beside.symlink_to(folder.name)
        beside.replace(latest)
    return folder


def make_folder(folder: Path) -> None:
    """Make a folder for results; raises InputError if there is one already, or it cannot be."""
    if not _make(folder):
        raise InputError("results", str(folder), "a folder that does not exist yet")


def check_new(asked: Path | None) -> None:
    """Raise InputError at once if a folder for results could not be made; it is not made yet."""
    if asked is None:
        return
    try:
        asked.lstat()
        raise InputError("--results", str(asked), "a folder that does not exist yet")
    except (FileNotFoundError, NotADirectoryError):
        above = next(path for path in asked.absolute().parents if os.path.lexists(path))
    except (OSError, ValueError) as error:
        raise InputError("--results", str(asked), f"a name for a folder ({error})") from error
    if not above.is_dir():
        raise InputError("--results", str(asked), f"a folder below another; {above} is none")
    if not os.access(above, os.W_OK | os.X_OK):
        raise InputError("--results", str(asked), f"a folder that can be made: {above} is closed")


def _make(folder: Path) -> bool:
    """Make a folder, and those above it; False if it is there already. Raises InputError."""
    try:
        folder.mkdir(parents=True)
    except FileExistsError:
        return False
    except (OSError, ValueError) as error:
        raise InputError("results", str(folder), f"a folder that can be made ({error})") from error
    return True


def hand_back(folder: Path) -> None:
    """Give a results folder to the user who called sudo; nothing without sudo.

    Of the folder around it, only itself and its link `latest`, if it is ours by its name.
    """
    if os.geteuid() != 0 or not os.environ.get("SUDO_UID"):
        return
    uid, gid = int(os.environ["SUDO_UID"]), int(os.environ.get("SUDO_GID", "-1"))
    paths = [folder, *folder.rglob("*")]
    if folder.parent.name == RESULTS:
        paths += [folder.parent, folder.parent / LATEST]
    for path in paths:
        with contextlib.suppress(FileNotFoundError):
            os.chown(path, uid, gid, follow_symlinks=False)
