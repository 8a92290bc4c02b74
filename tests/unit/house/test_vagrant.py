"""The scripts around the virtual machine, as far as they can be judged without one."""

from __future__ import annotations

import os
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

from tests.support.places import ROOT

VAGRANT = ROOT / "vagrant"


def vm_test(*arguments: str, path: str | None = None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PATH": path or os.environ["PATH"]}
    return subprocess.run(
        [VAGRANT / "vm-test.sh", *arguments], capture_output=True, text=True, env=environment
    )


def in_bash(code: str, **environment: str) -> list[str]:
    """Lines that bash code prints after it has read pip-settings.sh, in this environment alone."""
    words = ["bash", "-euo", "pipefail", "-c", f"source {VAGRANT / 'pip-settings.sh'}; {code}"]
    done = subprocess.run(
        words,
        capture_output=True,
        text=True,
        check=True,
        env={"PATH": os.environ["PATH"], **environment},
    )
    return done.stdout.splitlines()


def test_help_names_every_option() -> None:
    done = vm_test("--help")
    assert done.returncode == 0
    for option in ("--scenario", "--out", "--accel", "--cpus", "--memory", "--limit", "--rebuild"):
        assert option in done.stdout


@pytest.mark.parametrize(
    "arguments, expected",
    [
        (["--cpu", "2"], "--cpu"),
        (["--cpus", "two"], "--cpus two: expected a number"),
        (["--memory", "0"], "--memory 0: expected a number"),
        (["--accel", "xen"], "--accel xen: expected one of kvm uml tcg"),
        (["--limit"], "--limit needs a value"),
        (["--scenario", "scenarios/none.yaml"], "scenarios/none.yaml: no such file"),
        (["--out", "/"], "--out /: exists already"),
    ],
)
def test_a_bad_argument_is_named_and_nothing_is_begun(arguments: list[str], expected: str) -> None:
    done = vm_test(*arguments)
    assert done.returncode == 2
    assert expected in done.stderr and "--help" in done.stderr
    assert done.stdout == ""


def test_tools_that_are_missing_are_named_by_their_packages(tmp_path: Path) -> None:
    for tool in ("bash", "dirname", "env"):
        (tmp_path / tool).symlink_to(str(shutil.which(tool)))
    done = vm_test(path=str(tmp_path))
    assert done.returncode == 1
    assert "qemu-system-x86" in done.stderr and "mmdebstrap" in done.stderr


def test_the_tar_holds_what_git_would_commit(tmp_path: Path) -> None:
    (tmp_path / "vagrant").mkdir()
    script = tmp_path / "vagrant" / "checkout-tar.sh"
    shutil.copy(VAGRANT / "checkout-tar.sh", script)
    for name in ("kept", "gone", "a new name"):
        (tmp_path / name).write_text(name)
    (tmp_path / "ignored").mkdir()
    (tmp_path / "ignored" / "file").write_text("")
    (tmp_path / ".gitignore").write_text("/ignored/\n/.venv/\n")
    (tmp_path / ".venv").symlink_to(tmp_path / "ignored")
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    subprocess.run(["git", "-C", tmp_path, "add", "kept", "gone"], check=True)
    (tmp_path / "gone").unlink()
    os.utime(tmp_path / "kept", ns=(1, 1_700_000_000_123_456_789))
    with (tmp_path / "ignored" / "tar").open("wb") as out:
        subprocess.run([script], stdout=out, check=True)
    with tarfile.open(tmp_path / "ignored" / "tar") as tar:
        assert sorted(tar.getnames()) == [
            ".gitignore",
            "a new name",
            "kept",
            "vagrant/checkout-tar.sh",
        ]
        # Compiled code is compared with its source to the nanosecond.
        assert tar.getmember("kept").pax_headers["mtime"] == "1700000000.123456789"


def test_pip_is_configured_in_the_root_as_it_is_here(tmp_path: Path) -> None:
    config = tmp_path / "pip.conf"
    config.write_text(
        "[global]\nfind-links = /a/wheels\nextra-index-url =\n"
        f"  file://{tmp_path}/index/simple\n  https://example.org/simple\n"
    )
    settings = in_bash("pip_settings", PIP_CONFIG_FILE=str(config), PIP_FIND_LINKS="/b", HOME="/")
    (indexes,) = (line for line in settings if line.startswith("PIP_EXTRA_INDEX_URL="))
    _, _, value = indexes.partition("=")
    assert value.split() == [f"file://{tmp_path}/index/simple", "https://example.org/simple"]
    # `env` takes the last: the environment goes before a file.
    assert [line for line in settings if line.startswith("PIP_FIND_LINKS=")][-1].endswith("=/b")


def test_what_pip_reads_from_this_machine_is_lent_to_the_root() -> None:
    paths = in_bash(
        "pip_paths",
        PIP_CONFIG_FILE="/dev/null",
        PIP_INDEX_URL="https://example.org/simple",
        PIP_EXTRA_INDEX_URL="file:///srv/index/simple/",
        PIP_FIND_LINKS="/srv/wheels",
        SSL_CERT_FILE="/srv/ca.crt",
    )
    assert {"/srv/index", "/srv/wheels", "/srv/ca.crt"} <= set(paths)
    assert not any("example.org" in path for path in paths)
