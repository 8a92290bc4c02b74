"""Results folders: each command gets one of its own, or one error that says why not."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from testbed.results.folder import LATEST, check_new, make_folder, new_folder, results_folder
from testbed.scenario.errors import InputError


def test_two_of_one_second_get_a_folder_each(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: new_folder(tmp_path, "smoke"), range(24)))
    assert len(set(made)) == 24 and all(folder.is_dir() for folder in made)
    assert (tmp_path / LATEST).resolve() in made
    assert {path.name for path in tmp_path.iterdir()} == {LATEST, *(path.name for path in made)}


@pytest.mark.parametrize("folder", [True, False])
def test_a_thing_called_latest_that_is_no_link_is_not_touched(tmp_path: Path, folder: bool) -> None:
    latest = tmp_path / LATEST
    latest.mkdir() if folder else latest.write_text("mine")
    with pytest.raises(InputError) as caught:
        new_folder(tmp_path, "smoke")
    assert caught.value.field == str(latest) and "link" in caught.value.expected
    assert list(tmp_path.iterdir()) == [latest]
    assert new_folder(tmp_path, "evaluation", linked=False).is_dir()


def test_a_link_to_results_that_are_gone_is_replaced(tmp_path: Path) -> None:
    (tmp_path / LATEST).symlink_to("gone")
    folder = new_folder(tmp_path, "smoke")
    assert (tmp_path / LATEST).resolve() == folder


@pytest.mark.parametrize("name", ["", "there", "file/below", "file", "x" * 300, "nul\0nul"])
def test_a_folder_that_cannot_be_made_is_one_input_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("there").mkdir()
    Path("file").touch()
    before = sorted(tmp_path.iterdir())
    for refuse in (check_new, make_folder, lambda path: results_folder(path, "smoke")):
        with pytest.raises(InputError):
            refuse(Path(name))
    assert sorted(tmp_path.iterdir()) == before


def test_a_folder_in_one_that_takes_none_is_refused() -> None:
    with pytest.raises(InputError):
        make_folder(Path("/proc/deftbed/results"))  # from root neither


def test_nothing_is_made_while_it_is_checked(tmp_path: Path) -> None:
    check_new(tmp_path / "new" / "results")
    assert not (tmp_path / "new").exists()
