"""Which consensus for the failure detection unit? `python -m bench.consensus --json`.

Three members on this host: PySyncObj as the FDU uses it
(`testbed.orchestration.detection.raft`, with a journal), PySyncObj with its own defaults (TCP,
its own thread), and etcd, if a program `etcd` is on the PATH or named by --etcd (Debian:
etcd-server), with its data on tmpfs and its timers as short as ours, asked by compare-and-set
transactions through its HTTP gateway.

Commits are asked for one after the other at a member that does not lead, and counted until they
are applied there; then many at once. An election is measured from SIGKILL of the leader to the
first commit after it, asked for at a survivor; the killed member then comes back.
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import numpy as np

from bench.rigs.consensus_systems import (
    MEMBERS,
    Cluster,
    DefaultMember,
    EtcdCluster,
    PySyncObjCluster,
    TunedMember,
    free_ports,
    timed,
)

RUNS = 3
COMMITS = 200
PIPELINED = 3000
IDLE_S = 4.0
ELECTIONS = 5


# ------------------------------------------------------------------------------- measuring


def cpu_s(cluster: Cluster) -> float:
    """CPU time of all members so far."""
    times = [process.cpu_times() for process in cluster.processes().values()]
    return sum(time.user + time.system for time in times)


def election_s(cluster: Cluster) -> float:
    """From SIGKILL of the leader to the next commit; the leader is started again."""
    leader = cluster.leader()
    survivor = next(name for name in cluster.processes() if name != leader)
    process = cluster.processes()[leader]

    def fail() -> None:
        process.send_signal(signal.SIGKILL)
        cluster.first_commit(survivor)

    took_s = timed(fail)
    cluster.restart(leader)
    cluster.first_commit(leader)
    return took_s


def figures_of(cluster: Cluster) -> dict[str, float]:
    """All figures of a cluster that has begun."""
    cluster.leader()
    times_us = np.array(cluster.commit_times_s(COMMITS)) * 1e6
    pipeline_s = cluster.pipeline_s(PIPELINED)
    before_s = cpu_s(cluster)
    time.sleep(IDLE_S)
    idle_s = cpu_s(cluster) - before_s
    memory = [process.memory_full_info().uss for process in cluster.processes().values()]
    return {
        "commit_p50_us": float(np.quantile(times_us, 0.5)),
        "commit_p99_us": float(np.quantile(times_us, 0.99)),
        "pipelined_per_s": PIPELINED / pipeline_s,
        "idle_cpu_of_a_member_percent": 100 * idle_s / IDLE_S / MEMBERS,
        "own_memory_of_a_member_mib": sum(memory) / MEMBERS / 2**20,
        "failover_p50_ms": 1e3 * median(election_s(cluster) for _ in range(ELECTIONS)),
    }


@contextmanager
def cluster_of(system: str, etcd: str | None) -> Iterator[Cluster]:
    """Start a cluster, in memory; it is gone afterwards."""
    folder = Path(tempfile.mkdtemp(dir="/dev/shm"))
    cluster: PySyncObjCluster | EtcdCluster
    try:
        if system == "etcd":
            cluster = EtcdCluster(str(etcd), folder)
        elif system == "pysyncobj":
            members = {f"m{n}": str(folder / f"m{n}") for n in range(MEMBERS)}
            cluster = PySyncObjCluster(TunedMember, members)
        else:
            addresses = {f"m{n}": f"127.0.0.1:{p}" for n, p in enumerate(free_ports(MEMBERS))}
            cluster = PySyncObjCluster(DefaultMember, addresses)
        try:
            yield cluster
        finally:
            cluster.close()
    finally:
        shutil.rmtree(folder)


def main() -> None:
    """Print one line for each system."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    parser.add_argument("--etcd", default=shutil.which("etcd"), help="the program etcd")
    options = parser.parse_args()
    for system in ("pysyncobj", "pysyncobj-defaults", "etcd"):
        if system == "etcd" and options.etcd is None:
            continue
        runs = []
        for _ in range(RUNS):
            with cluster_of(system, options.etcd) as cluster:
                runs.append(figures_of(cluster))
        line = {
            "bench": "consensus",
            "case": {"system": system, "members": MEMBERS},
            "figures": {name: round(median(run[name] for run in runs), 2) for name in runs[0]},
            "spread": {
                name: [round(min(values), 2), round(max(values), 2)]
                for name in runs[0]
                for values in [[run[name] for run in runs]]
            },
            "runs": RUNS,
        }
        print(
            json.dumps(line) if options.json else f"{line['case']}: {line['figures']}", flush=True
        )


if __name__ == "__main__":
    main()
