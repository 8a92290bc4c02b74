"""Measures what CPU the servers get that have a quota, all at once, before traffic flows."""

from __future__ import annotations

import math
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import IO

from testbed.records.fidelity_checks import ServerFigures
from testbed.scenario.names import server_name
from testbed.substrate.cgroups import ServerCgroups

MEASURE_S = 0.5
_SPIN = 'for file in "$@"; do echo $$ > "$file"; done; echo in; read line; while :; do :; done'


def measure_servers(cgroups: ServerCgroups, cores: Mapping[int, float]) -> list[ServerFigures]:
    """Let every server take all the CPU that it gets; `cores` maps its node to its quota.

    Where the quotas ask for more than the host has, this shows it. Raises OSError.
    """
    with ExitStack() as stack:
        spinners = [
            stack.enter_context(_spinner(cgroups.procs_files(node)))
            for node, quota in cores.items()
            for _ in range(math.ceil(quota))
        ]
        for spinner in spinners:
            spinner.write(b"go\n")
            spinner.flush()
        before = {node: (time.monotonic_ns(), cgroups.usage_ns(node)) for node in cores}
        time.sleep(MEASURE_S)
        figures = []
        for node, quota in cores.items():
            begin_ns, used_ns = before[node]
            used_ns = cgroups.usage_ns(node) - used_ns
            took_ns = time.monotonic_ns() - begin_ns
            figures.append(ServerFigures(server_name(node), quota, used_ns / took_ns))
    return figures


@contextmanager
def _spinner(files: Sequence[str]) -> Iterator[IO[bytes]]:
    """A shell that waits in a server's cgroup; a line written to what this gives lets it spin."""
    process = subprocess.Popen(
        ["sh", "-c", _SPIN, "sh", *files], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        if process.stdin is None or process.stdout is None:
            raise OSError("a process without pipes")
        if process.stdout.readline() != b"in\n":
            raise OSError(f"a process could not join {', '.join(files)}")
        yield process.stdin
    finally:
        process.kill()
        process.communicate()
