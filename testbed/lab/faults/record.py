"""Reads the folder of an episode: all that the judgement may look at."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pandas as pd

from testbed.records import packets as packet_records
from testbed.records.events import read_events
from testbed.records.raw import instance_dumps
from testbed.scenario.names import group_names, member_name
from testbed.scenario.types import NS_PER_S

Json = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Window:
    """An injected fault, and the time until the next one: [begin_ns, end_ns) on CLOCK_MONOTONIC."""

    number: int
    begin_ns: int
    end_ns: int
    event: Json

    @property
    def kind(self) -> str:
        """The kind of the fault."""
        return str(self.event["kind"])


@dataclass(frozen=True, slots=True)
class Violation:
    """A promise that was not kept: which, what is wrong, and when if that is known."""

    what: str
    detail: str
    t_ns: int | None = None


@dataclass(frozen=True, slots=True)
class EpisodeRecord:
    """An episode as its folder holds it.

    `packets` has the columns of `testbed.records.packets`; `dumps` what each instance wrote at its
    end, by name (see `Instance.dump`); `events` keep their time on CLOCK_MONOTONIC.
    """

    manifest: Json
    packets: pd.DataFrame
    events: tuple[Json, ...]
    dumps: Mapping[str, Json]

    @property
    def origin_ns(self) -> int:
        """The origin of the times in `packets`, on CLOCK_MONOTONIC."""
        return int(self.manifest["origin_ns"])

    @property
    def spacing_ns(self) -> dict[int, int]:
        """By chain: nanoseconds from a packet of a flow to the next, on average."""
        return {
            int(request["id"]): round(NS_PER_S * request["flows"] / request["rate_pps"])
            for request in self.manifest["requests"]
        }

    def named(self, *events: str) -> list[Json]:
        """The events of these names, in the order of time."""
        return [each for each in self.events if each["event"] in events]

    def functions(self, chain: int) -> list[str]:
        """The functions of a chain."""
        (found,) = (each for each in self.manifest["requests"] if each["id"] == chain)
        return list(found["functions"])

    def windows(self) -> list[Window]:
        """The injected faults in the order of time."""
        found = self.named("injected")
        if not found:
            return []
        ends = [each["t_ns"] for each in found[1:]]
        ends.append(max((each["t_ns"] for each in self.events), default=0) + 1)
        return [
            Window(int(each["fault"]), int(each["t_ns"]), int(end), each)
            for each, end in zip(found, ends, strict=True)
        ]

    def final_groups(self) -> dict[str, Json]:
        """By group: {"primary": number, "members": [...]} at the end; empty without an end."""
        found = self.named("quiescent", "not-quiescent")
        return dict(found[-1]["groups"]) if found else {}

    def groups(self, chain: int, hop: int) -> list[str]:
        """The names of the groups of a function of a chain, by shard."""
        (found,) = (each for each in self.manifest["requests"] if each["id"] == chain)
        return group_names(chain, hop, found.get("shards", 1))

    def final_primary(self, group: str) -> Json | None:
        """The dump of the primary that a group ended with; None if there is none."""
        found = self.final_groups().get(group)
        return None if found is None else self.dumps.get(member_name(group, found["primary"]))

    def final_primaries(self, chain: int, hop: int) -> list[Json]:
        """The dumps of the primaries of a function of a chain, of those shards that have one."""
        found = (self.final_primary(group) for group in self.groups(chain, hop))
        return [dump for dump in found if dump is not None]

    def cuts(self) -> Iterator[tuple[int, int]]:
        """(begin, end) of the times in which some link or server was cut off."""
        for begin, end in pairwise(self.named("cut-begin", "cut-end")):
            if begin["event"] == "cut-begin":
                yield int(begin["t_ns"]), int(end["t_ns"])


def read_episode(folder: Path) -> EpisodeRecord:
    """Read an episode's folder; raises OSError, ValueError or RawFormatError for what is torn."""
    dumps = {}
    for path in instance_dumps(folder / "raw"):
        dumps[path.stem] = json.loads(path.read_text(encoding="utf-8"))
    return EpisodeRecord(
        manifest=json.loads((folder / "manifest.json").read_text(encoding="utf-8")),
        packets=packet_records.read(folder / "packets.parquet"),
        events=tuple(read_events(folder / "events.jsonl")),
        dumps=dumps,
    )
