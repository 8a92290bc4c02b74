"""Files that tell whether they are as they were written: at the end stands a digest of the rest."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from testbed.scenario.errors import InputError

Bytes = bytes | memoryview


def read_sealed(path: Path, field: str, mark: bytes, written_by: str) -> memoryview:
    """What stands before the seal of a file: `mark` and the digest of all that is before the mark.

    Raises InputError naming `field` and the file if it cannot be read, has no seal or another
    one; `written_by` says which command writes such files. Whoever reads on meets what was written.
    """
    try:
        content = memoryview(path.read_bytes())
    except OSError as error:
        raise InputError(field, str(path), f"a file that can be read ({error.strerror})") from error
    length = len(mark) + len(digest([]))
    body, seal = content[: max(0, len(content) - length)], bytes(content[-length:])
    if not seal.startswith(mark):
        wanted = f"a whole file of {written_by}; this is none, it was cut off or written to since"
        raise InputError(field, str(path), wanted)
    if seal != mark + digest([body]):
        raise InputError(field, str(path), f"a file as {written_by} wrote it; this one is damaged")
    return body


def digest(parts: Iterable[Bytes]) -> bytes:
    """SHA-256 in 64 hexadecimal digits."""
    found = hashlib.sha256()
    for content in parts:
        found.update(content)
    return found.hexdigest().encode()
