"""Joins the sights of each traced packet to its way through the run.

A test packet is known by (chain, flow, seq). The edge gives it a stamp, and each function that
passes it on gives its output a new sequence number; the rows of `testbed.records.traces` tell both,
so the way can be followed from hop to hop. Only the ways from source to destination are followed,
not those of answers.
"""

from __future__ import annotations

import json
import struct
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from testbed.records import traces
from testbed.records.files import whole
from testbed.records.payload import parse
from testbed.records.raw import RawFormatError, instance_dumps, read_array
from testbed.records.traces import Trace, read_traces
from testbed.results import hops
from testbed.scenario.names import parse_group
from testbed.scenario.paths import delay_matrix_ns
from testbed.scenario.steering import base_path
from testbed.scenario.types import FloatArray, Link, Node, Topology

NAMES = {
    traces.ENTERED: "entered",
    traces.TAKEN: "taken",
    traces.DONE: "cpu-done",
    traces.HANDED: "handed",
    traces.LOGGED: "logged",
    traces.EMITTED: "emitted",
    traces.LEFT: "left",
    traces.REPEATED: "repeated",
}
_NOTE = struct.Struct(">4q")

Identity = tuple[int, int, int]
"""(chain, flow, seq)"""


class Stamped(NamedTuple):
    """A packet as the processes of a hop know it; `hop` counts functions, then the egress."""

    hop: int
    path: int
    flow: int
    epoch: int
    seq: int


@dataclass(frozen=True, slots=True)
class Sight:
    """A row of a trace: `t_ns` from the run's origin, `what` of `NAMES`, the row's note."""

    t_ns: int
    what: str
    about: Mapping[str, Any]
    note: tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Stage:
    """What was seen of a packet at one hop; `sights` are in the order of time."""

    stamped: Stamped
    sights: tuple[Sight, ...]

    def first(self, what: str, name: str | None = None) -> Sight | None:
        """The first sight of this kind, by the process `name` if it is given."""
        return next(
            (s for s in self.sights if s.what == what and name in (None, s.about["name"])), None
        )

    @property
    def decided(self) -> Sight | None:
        """The entry of the log that says what became of it: the last one, if a failover undid one.

        A loss that a new primary declared does not undo what was emitted before.
        """
        logged = [sight for sight in self.sights if sight.what == "logged"]
        whole = [sight for sight in logged if not sight.note[1]]
        return next(reversed(whole or logged), None)

    @property
    def output(self) -> int | None:
        """The number of what goes on to the next hop; None: nothing, or not yet."""
        emitted = self.first("emitted")
        return None if emitted is None else emitted.note[0]


@dataclass(frozen=True, slots=True)
class Journey:
    """The way of a packet: when an edge put it on the network, then each hop that saw it."""

    entered: Sight
    stamped: Stamped
    """What it was at hop 0."""
    stages: tuple[Stage, ...]

    @property
    def left(self) -> Sight | None:
        """When the edge of its destination handed it to the kernel."""
        return self.stages[-1].first("left") if self.stages else None


@dataclass
class Traced:
    """The traces of a run, ready to be asked for packets."""

    chains: Mapping[int, int]
    """How many functions each chain has."""
    delays_ns: FloatArray
    entered: dict[Identity, tuple[Sight, Stamped]] = field(default_factory=dict)
    sights: dict[Stamped, list[Sight]] = field(default_factory=lambda: defaultdict(list))
    missed: int = 0

    def journey(self, packet: Identity) -> Journey | None:
        """The way of a packet; None if no edge was seen to put it on the network."""
        found = self.entered.get(packet)
        if found is None:
            return None
        entered, first = found
        stamped, stages = first, []
        while stamped in self.sights:
            stage = Stage(stamped, tuple(sorted(self.sights[stamped], key=lambda s: s.t_ns)))
            stages.append(stage)
            if stage.output is None:
                break
            stamped = stamped._replace(hop=stamped.hop + 1, seq=stage.output)
        return Journey(entered, first, tuple(stages))


def read_traced(run_dir: Path, manifest: Mapping[str, Any]) -> Traced | None:
    """The traces of a run; None if it was not traced. Raises RawFormatError."""
    found = read_traces(run_dir / "raw")
    if not found:
        return None
    chains = {int(each["id"]): len(each["functions"]) for each in manifest["requests"]}
    traced = Traced(chains, delay_matrix_ns(_topology(manifest)))
    for trace in found:
        _add(traced, trace, int(manifest["origin_ns"]))
    return traced


def cut_traces(raw: Path) -> None:
    """Cut the trace files of a run that is over to the rows that they hold."""
    for path in raw.glob("trace-*.npy"):
        words = read_array(path, np.dtype(np.int64))
        if int(words[traces.VERSION]) == 0:
            path.unlink()  # its process was killed while it made the file
            continue
        end = traces.HEAD_WORDS + min(int(words[traces.ROWS]) * traces.ROW_WORDS, len(words))
        with whole(path) as beside:
            np.save(beside, words[:end])


def _topology(manifest: Mapping[str, Any]) -> Topology:
    topology = manifest["topology"]
    nodes = tuple(Node(**node) for node in topology["nodes"])
    return Topology(nodes, tuple(Link(**link) for link in topology["links"]), ())


def _add(traced: Traced, trace: Trace, origin_ns: int) -> None:
    about = trace.about
    traced.missed += trace.missed
    for row in trace.rows.tolist():
        t_ns, kind, path, flow, epoch, seq, *note = row
        if path & 1:
            continue  # the way back
        request = _request_of(path)
        sight = Sight(t_ns - origin_ns, NAMES[kind], about, (note[0], note[1], note[2]))
        if kind == traces.ENTERED:
            packet = parse(_NOTE.pack(*note))
            if packet is not None:
                stamped = Stamped(0, path, flow, epoch, seq)
                traced.entered[packet[0], packet[1], packet[2]] = sight, stamped
            continue
        hop = traced.chains.get(request, 0) if about["kind"] == "edge" else _hop_of(about["group"])
        traced.sights[Stamped(hop, path, flow, epoch, seq)].append(sight)


def _request_of(path: int) -> int:
    # `forward_path` of testbed.scenario.steering, the other way round.
    return base_path(path) // 2 - 1


def _hop_of(group: str) -> int:
    parsed = parse_group(group)
    if parsed is None:
        raise RawFormatError("group", group, "the name of one")
    return parsed[1].hop


def spans(
    traced: Traced, journey: Journey, sent_ns: int, received_ns: int | None
) -> list[hops.Span]:
    """Where a packet's time went, as far as it was seen: see `testbed.results.hops`."""
    found: list[hops.Span] = []
    at_ns, node = sent_ns, int(journey.entered.about["node"])

    def upto(hop: int, part: str, t_ns: int) -> None:
        nonlocal at_ns
        # Processes stamp a moment after what they stamp: never let time run backwards.
        t_ns = max(at_ns, t_ns)
        found.append((hop, part, t_ns - at_ns))
        at_ns = t_ns

    upto(0, "source", journey.entered.t_ns)
    for stage in journey.stages:
        hop = stage.stamped.hop
        decided = stage.decided or stage.first("emitted") or stage.first("left")
        name = None if decided is None else str(decided.about["name"])
        arrived = stage.first("taken", name) or stage.first("left")
        if arrived is None:
            break  # declared lost without having come
        there = int(arrived.about["node"])
        way_ns = min(int(traced.delays_ns[node, there]), max(0, arrived.t_ns - at_ns))
        upto(hop, "links", at_ns + way_ns)
        upto(hop, "switches", arrived.t_ns)
        if arrived.what == "left":
            break
        _function_spans(stage, name, hop, upto)
        emitted = stage.first("emitted")
        node = there if emitted is None else int(emitted.about["node"])
    if received_ns is not None and journey.left is not None:
        upto(journey.stages[-1].stamped.hop, "sink", received_ns)
    return found


def _function_spans(stage: Stage, name: str | None, hop: int, upto: Any) -> None:
    done, handed = stage.first("cpu-done", name), stage.first("handed", name)
    if done is not None:
        upto(hop, "queue", done.t_ns - done.note[0])
    elif handed is not None:
        upto(hop, "queue", handed.t_ns)
    decided, emitted = stage.decided, stage.first("emitted")
    if decided is not None:
        upto(hop, "function", decided.t_ns)
    if emitted is not None:
        upto(hop, "commit", emitted.t_ns)


def fill_hops(packets: pd.DataFrame, traced: Traced) -> pd.DataFrame:
    """`packets` with the column `hops` filled in where a packet was traced."""
    texts: list[str | None] = []
    columns = ["chain", "flow", "seq", "sent_ns", "received_ns"]
    for chain, flow, seq, sent_ns, received_ns in _rows(packets[columns]):
        journey = traced.journey((chain, flow, seq))
        known = journey is not None and sent_ns is not None
        texts.append(
            hops.encode(spans(traced, journey, sent_ns, received_ns))
            if journey is not None and known
            else None
        )
    filled = packets.assign(hops=pd.array(texts, dtype="string"))
    filled.attrs = packets.attrs
    return filled


def _rows(frame: pd.DataFrame) -> Iterable[Sequence[Any]]:
    columns = [
        [None if pd.isna(value) else int(value) for value in frame[column]] for column in frame
    ]
    return zip(*columns, strict=True)


@dataclass(frozen=True, slots=True)
class Fate:
    """What became of a packet. `what` is "delivered", "dropped", "lost", "refused" or "unsent".

    `where` names the process that said so, or that saw it last; `why` is a reason in words.
    """

    what: str
    where: str | None
    why: str


def fate(
    packet: pd.Series[Any],
    journey: Journey | None,
    declared: Mapping[Stamped, tuple[str, str]],
    refused: str | None,
    traced: bool,
) -> Fate:
    """What became of a packet, given its row of packets.parquet and its way.

    `declared` has the losses that instances remember: (instance, reason) by stamp. `refused` says
    why nothing served its request; None: a chain did.
    """
    if not pd.isna(packet["received_ns"]):
        return Fate("delivered", None, f"{int(packet['copies'])} arrival(s) at the receiver")
    if pd.isna(packet["sent_ns"]) and journey is None:
        return Fate("unsent", None, "it was due, and the sender did not send it")
    if refused is not None:
        return Fate("refused", None, refused)
    if not traced:
        return Fate("lost", None, "where is not known")
    if journey is None:
        return Fate("lost", None, "no edge was seen to put it on the network")
    if not journey.stages:
        why = _on_the_way(journey.stamped, declared)
        return Fate("lost", str(journey.entered.about["name"]), why)
    stage = journey.stages[-1]
    decided = stage.decided
    if decided is not None and decided.note[0] < 0:
        name, about = str(decided.about["name"]), decided.about
        if decided.note[1]:
            return Fate("lost", name, f"declared lost by it: {about['losses'][decided.note[1]]}")
        reason = about["reasons"][decided.note[2]]
        return Fate("dropped", name, f"by the function {about['function']}: {reason}")
    last = stage.sights[-1]
    where = str(last.about["name"])
    if stage.first("left") is not None:
        return Fate("lost", where, "the edge handed it over, and the receiver did not get it")
    if decided is not None and stage.output is None:
        return Fate("lost", where, "logged, and not seen to be committed and sent on")
    if stage.output is not None:
        stamped = stage.stamped._replace(hop=stage.stamped.hop + 1, seq=stage.output)
        return Fate("lost", where, _on_the_way(stamped, declared))
    if stage.stamped in declared:
        name, reason = declared[stage.stamped]
        return Fate("lost", name, f"declared lost by it: {reason}")
    return Fate("lost", where, f"last {last.what} there, and nothing came of it")


def _on_the_way(stamped: Stamped, declared: Mapping[Stamped, tuple[str, str]]) -> str:
    text = f"last seen there, on its way to hop {stamped.hop}"
    if stamped in declared:
        name, reason = declared[stamped]
        return f"{text}; declared lost by {name}: {reason}"
    return text


def declared_losses(raw: Path) -> dict[Stamped, tuple[str, str]]:
    """(instance, reason) of the losses that the instances of a run remember, by stamp."""
    found = {}
    for path in instance_dumps(raw):
        dump = json.loads(path.read_text(encoding="utf-8"))
        for service_path, flow, epoch, seq, reason in dump["losses"]:
            stamped = Stamped(_hop_of(dump["group"]), service_path, flow, epoch, seq)
            found[stamped] = str(dump["name"]), str(reason)
    return found


def share_traced(packets: pd.DataFrame) -> float:
    """The share of the packets that were sent whose way is known."""
    sent = packets["sent_ns"].notna()
    known = packets.loc[sent, "hops"].notna()
    return float(np.mean(known)) if len(known) else 0.0
