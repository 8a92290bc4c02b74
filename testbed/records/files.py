"""Writes files that are whole or absent: beside their place first, then moved there."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from testbed.scenario.errors import InputError


class RawFormatError(InputError):
    """A file is not what its place says; names the file, what was found and what was expected."""


@contextlib.contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A name beside `path` to write a file to, which moves to `path` at the end of the block.

    Whatever ends the block before that (an error, a full disk, a signal, a kill) leaves at `path`
    what was there. The content is on the disk before the name is. Raises OSError, which names the
    file.
    """
    beside = path.with_name(f".{os.getpid()}.{path.name}")  # some writers read the suffix
    try:
        yield beside
        _sync(beside)
        os.replace(beside, path)
        _sync(path.parent)
    except OSError as error:
        if error.errno is None:
            raise OSError(f"{path}: {error}") from error
        raise OSError(error.errno, os.strerror(error.errno), str(path)) from error
    finally:
        with contextlib.suppress(OSError):  # it moved, or was never made, or stays: hidden, unread
            beside.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file, in UTF-8; see `whole`."""
    with whole(path) as beside:
        beside.write_text(text, encoding="utf-8")


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file of bytes; see `whole`."""
    with whole(path) as beside:
        beside.write_bytes(content)


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write an object as JSON; see `whole`."""
    write_text(path, json.dumps(value, indent=1) + "\n")


def copy(source: Path, path: Path) -> None:
    """Copy a file; see `whole`."""
    with whole(path) as beside:
        shutil.copyfile(source, beside)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
