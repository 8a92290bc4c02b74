"""The log of a search for hyperparameters: a line each, behind a digest that tells damage."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

from optuna.storages.journal import BaseJournalBackend

from testbed.scenario.errors import InputError


class StudyJournal(BaseJournalBackend):
    """What happened in a study, in a file; one process at a time, which holds a lock on it.

    A last line without its end is what a kill left of it: it is dropped, as if the kill had come
    before. Any other line that is not as it was written is told.
    """

    def __init__(self, path: Path) -> None:
        """Open or make the file. Raises InputError naming "resume" and the file."""
        try:
            self._file = path.open("a+b")
        except OSError as error:
            wanted = f"a file that can be written to ({error.strerror})"
            raise InputError("resume", str(path), wanted) from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._file.seek(0)
            content = self._file.read()
            self._logs = list(_read(content, path))
            self._file.truncate(content.rfind(b"\n") + 1)
        except BlockingIOError as error:
            self._file.close()
            wanted = "a study that no other `deftbed tune` works on"
            raise InputError("resume", str(path), wanted) from error
        except InputError:
            self._file.close()
            raise

    def read_logs(self, log_number_from: int) -> Iterable[dict[str, Any]]:
        """The entries from this number on."""
        return self._logs[log_number_from:]

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Add entries; they are on the disk before this returns."""
        for log in logs:
            text = json.dumps(log, separators=(",", ":")).encode()
            self._file.write(_digest(len(self._logs), text) + b" " + text + b"\n")
            self._logs.append(log)
        self._file.flush()
        os.fsync(self._file.fileno())

    def __enter__(self) -> StudyJournal:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()


def _read(content: bytes, path: Path) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(content.split(b"\n")[:-1]):
        seal, _, text = line.partition(b" ")
        if seal != _digest(number, text):
            wanted = f"a study as `deftbed tune` wrote it; line {number + 1} is damaged"
            raise InputError("resume", str(path), wanted)
        yield json.loads(text)


def _digest(number: int, text: bytes) -> bytes:
    """Of a line and its place, so that lines that are missing or stand twice are told too."""
    return hashlib.sha256(b"%d " % number + text).hexdigest()[:32].encode()
