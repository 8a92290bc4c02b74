"""Reads and checks all records of a run, and names each torn file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from testbed.records import packets as packet_records
from testbed.records import server_usage as server_records
from testbed.records.events import read_events
from testbed.records.manifest import read_run_manifest
from testbed.records.raw import RawFormatError

Json = Mapping[str, Any]
DAY_NS = 86_400 * 10**9
EVENTS, SERVERS, PACKETS, MANIFEST = (
    "events.jsonl",
    "servers.parquet",
    "packets.parquet",
    "manifest.json",
)


@dataclass(frozen=True, slots=True)
class RunRecords:
    """`packets` and `servers` have the columns of their modules, `events` are in time's order.

    They are empty if their file is missing, and `lacking` names it.
    """

    manifest: Json
    packets: pd.DataFrame
    servers: pd.DataFrame
    events: tuple[Json, ...]
    lacking: tuple[str, ...]

    @property
    def has_packets(self) -> bool:
        """Whether there are packets, so that there are figures."""
        return PACKETS not in self.lacking


def read_records(run_dir: Path) -> RunRecords:
    """The records of the run in a folder; raises RawFormatError that names a file that is torn.

    The packets of a run that was killed before they were put together are so now, if its raw
    records are there.
    """
    try:
        return _read(run_dir)
    except OSError as error:
        expected = "a file that can be read"
        raise RawFormatError(str(error.filename or run_dir), error.strerror, expected) from error


def _read(run_dir: Path) -> RunRecords:
    manifest = read_run_manifest(run_dir / MANIFEST)
    seed = manifest.get("seed")
    if run_dir.name.startswith("seed-") and run_dir.name != f"seed-{seed}":
        raise RawFormatError(f"{run_dir / MANIFEST}: seed", seed, f"that of {run_dir}")
    packets = _packets(run_dir, manifest)
    paths = {name: run_dir / name for name in (EVENTS, SERVERS)}
    there = {name for name, path in paths.items() if path.exists()}
    events = tuple(read_events(paths[EVENTS])) if EVENTS in there else ()
    servers = server_records.read(paths[SERVERS]) if SERVERS in there else server_records.empty()
    lacking = [name for name in paths if name not in there]
    if packets is None:
        lacking.insert(0, PACKETS)
        packets = packet_records.empty()
    _check_whole(run_dir, manifest, events, EVENTS in there)
    _check_nodes(run_dir, manifest, events, servers)
    _check_times(run_dir, manifest, events, packets, servers)
    return RunRecords(manifest, packets, servers, events, tuple(lacking))


def _packets(run_dir: Path, manifest: Json) -> pd.DataFrame | None:
    path = run_dir / PACKETS
    if not path.exists():
        if manifest.get("complete") or not any((run_dir / "raw").glob("schedule-*.npy")):
            return None
        packet_records.write(packet_records.collect(run_dir), path)
    return packet_records.read(path)


def _check_whole(run_dir: Path, manifest: Json, events: Sequence[Json], there: bool) -> None:
    """The last lines of a log that lost its end are not missed otherwise."""
    ended = any(event["event"] == "run-end" for event in events)
    if there and manifest.get("complete") and not ended:
        expected = "an event run-end, which every complete run has"
        raise RawFormatError(str(run_dir / EVENTS), f"{len(events)} events", expected)


def _check_nodes(
    run_dir: Path, manifest: Json, events: Sequence[Json], servers: pd.DataFrame
) -> None:
    nodes = len(manifest.get("topology", {}).get("nodes", ()))
    if not nodes:
        return
    for event in events:
        if any(node >= nodes for node in _nodes_of(event)):
            where = f"{run_dir / EVENTS}: event {event['event']} at {event['t_ns']} ns"
            raise RawFormatError(where, list(_nodes_of(event)), f"nodes below {nodes}")
    strangers = sorted(set(servers["node"][~servers["node"].between(0, nodes - 1)]))
    if strangers:
        expected = f"nodes below {nodes}"
        raise RawFormatError(f"{run_dir / SERVERS}: node", strangers[:3], expected)


def _check_times(
    run_dir: Path,
    manifest: Json,
    events: Sequence[Json],
    packets: pd.DataFrame,
    servers: pd.DataFrame,
) -> None:
    """Nothing is of another day than the run: a single such time would stretch every plot."""
    duration_ns = manifest.get("duration_ns") or 0
    for frame, name, column in ((packets, PACKETS, "scheduled_ns"), (servers, SERVERS, "t_ns")):
        last_ns = int(frame[column].max()) if len(frame) else 0
        if last_ns > duration_ns + DAY_NS:
            expected = f"times up to the run's {duration_ns} ns"
            raise RawFormatError(f"{run_dir / name}: {column}", last_ns, expected)
    origin_ns = manifest.get("origin_ns")
    for event in events if origin_ns else ():
        if not -DAY_NS < event["t_ns"] - origin_ns < duration_ns + DAY_NS:
            where = f"{run_dir / EVENTS}: t_ns of {event['event']}"
            raise RawFormatError(where, event["t_ns"], f"a time near the origin, {origin_ns}")


def _nodes_of(event: Json) -> Iterator[int]:
    if event["event"] == "decision":
        yield from (node for nodes in event.get("placements") or () for node in nodes)
    elif event["event"] in ("fault", "new-backup", "moved", "overload-begin", "overload-end"):
        yield event["node"]
