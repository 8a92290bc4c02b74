"""What the tests need from the host, and the check that they leave nothing behind."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import time
from collections.abc import Iterator

import hypothesis
import pytest

from testbed.substrate.ownership import is_alive
from testbed.substrate.probe import CapabilityError, choose, probe
from testbed.substrate.processes import command_of, with_variable

pytest_plugins = ["tests.support.kept"]
# No test asserts how long something took, and neither does Hypothesis: its deadline of 200 ms is
# passed by chance where the cores are busy.
hypothesis.settings.register_profile("deftbed", deadline=None)
hypothesis.settings.load_profile("deftbed")
SETTLE_S = 5.0
OPEN_VSWITCH = ("ovs-netdev", "ovs-system")
"""Its own interfaces, which come with its first bridge and go with its last, whoever makes them."""
_RUN_ID = re.compile(r"^\w+ (?P<run>[0-9a-f]{6})")


def missing_capability() -> str | None:
    """What the host lacks for an emulation, in words; None if it has everything."""
    try:
        choose(probe())
    except CapabilityError as error:
        return str(error)
    return None


def leftovers() -> frozenset[str]:
    """What lives outside processes' memory and a run could leave on the host."""
    found = {f"bridge {name}" for name in (_output("ovs-vsctl", "list-br") or "").split()}
    for line in (_output("ip", "netns", "list") or "").splitlines():
        found.add(f"namespace {line.split()[0]}")
    for line in (_output("ip", "-o", "link", "show") or "").splitlines():
        name = line.split(": ")[1].split("@")[0]
        if name not in OPEN_VSWITCH:
            found.add(f"interface {name}")
    found |= {f"process {name}" for name in _emulation_processes()}
    return frozenset(found)


def _new_since(before: frozenset[str]) -> list[str]:
    """What was not there `before` and is not a living run's of somebody else."""
    new = sorted(leftovers() - before)
    runs = {thing: _RUN_ID.match(thing) for thing in new}
    return [thing for thing, run in runs.items() if run is None or not is_alive(run["run"])]


def _emulation_processes() -> Iterator[str]:
    """Processes in a network namespace other than this one that this session's tests started."""
    own = os.readlink("/proc/self/ns/net")
    for pid, session in with_variable("DEFTBED_TEST_SESSION").items():
        if session != str(os.getpid()):
            continue
        with contextlib.suppress(OSError):  # it ended meanwhile
            if os.readlink(f"/proc/{pid}/ns/net") != own:
                yield f"{pid} {' '.join(command_of(pid))}"


def _output(*command: str) -> str | None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    emulated = [item for item in items if item.get_closest_marker("emulation")]
    reason = missing_capability() if emulated else None
    if reason is not None:
        for item in emulated:
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session", autouse=True)
def nothing_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fails the session if an emulation test left a bridge, namespace, interface or process."""
    emulated = any(item.get_closest_marker("emulation") for item in request.session.items)
    if not emulated or missing_capability() is not None:
        yield
        return
    os.environ["DEFTBED_TEST_SESSION"] = str(os.getpid())
    before = leftovers()
    yield
    deadline = time.monotonic() + SETTLE_S
    while (left := _new_since(before)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not left, f"the emulation tests left on this host: {sorted(left)}"
