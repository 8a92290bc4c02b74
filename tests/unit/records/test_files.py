"""Files are whole or not there, whatever ends their writing."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from testbed.records.files import copy, whole, write_bytes, write_json, write_text

KILLED = """
import os, signal, sys
from pathlib import Path
from testbed.records.files import whole
with whole(Path(sys.argv[1])) as beside:
    beside.write_bytes(b"new" * 1000)
    os.kill(os.getpid(), signal.SIGKILL)
"""
LIMITED = """
import resource, signal, sys
from pathlib import Path
from testbed.records.files import write_bytes
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (5000, resource.RLIM_INFINITY))
try:
    write_bytes(Path(sys.argv[1]), bytes(100_000))
except OSError as error:
    print(error)
    sys.exit(7)
"""


def test_each_writer_leaves_the_file_alone(tmp_path: Path) -> None:
    write_text(tmp_path / "a", "ä")
    write_bytes(tmp_path / "b", b"b")
    write_json(tmp_path / "c.json", {"x": 1})
    copy(tmp_path / "a", tmp_path / "d")
    assert {path.name for path in tmp_path.iterdir()} == {"a", "b", "c.json", "d"}
    assert (tmp_path / "d").read_text(encoding="utf-8") == "ä"


@pytest.mark.parametrize("there", [True, False])
def test_an_error_while_it_is_written_leaves_what_was_there(tmp_path: Path, there: bool) -> None:
    path = tmp_path / "x.json"
    if there:
        path.write_text("old")
    with pytest.raises(KeyboardInterrupt), whole(path) as beside:
        beside.write_text("half")
        raise KeyboardInterrupt
    assert [each.name for each in tmp_path.iterdir()] == (["x.json"] if there else [])
    assert not there or path.read_text() == "old"


def test_a_kill_while_it_is_written_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    path.write_text("old")
    done = subprocess.run([sys.executable, "-c", KILLED, str(path)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert path.read_text() == "old"


def test_a_disk_that_is_full_leaves_what_was_there_and_the_error_names_the_file(
    tmp_path: Path,
) -> None:
    path = tmp_path / "x.parquet"
    path.write_text("old")
    command = [sys.executable, "-c", LIMITED, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 7, done.stderr
    assert done.stdout.strip() == f"[Errno {errno.EFBIG}] {os.strerror(errno.EFBIG)}: '{path}'"
    assert path.read_text() == "old"
    assert [each.name for each in tmp_path.iterdir()] == ["x.parquet"]


def test_a_folder_in_its_place_is_an_error_that_names_it(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.mkdir()
    with pytest.raises(IsADirectoryError) as caught:
        write_json(path, {})
    assert str(caught.value) == f"[Errno {errno.EISDIR}] {os.strerror(errno.EISDIR)}: '{path}'"
