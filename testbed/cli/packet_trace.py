"""The command `deftbed trace`: the way of one packet of a recorded run."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from testbed.cli.options import AsJson
from testbed.cli.screens.tables import Column, FittedTable, words
from testbed.scenario.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

    from testbed.records.run_records import RunRecords

_WHAT = {
    "entered": "put on the network, stamped",
    "taken": "frame taken",
    "cpu-done": "the server's CPU is done with it",
    "handed": "handed to the protocol",
    "logged": "processed and logged",
    "emitted": "committed, sent on",
    "left": "handed to the kernel",
    "repeated": "a further copy, dropped",
}


def trace(
    run: Annotated[Path, typer.Argument(help="a run's folder, e.g. results/latest/deft/seed-1")],
    packet: Annotated[str, typer.Argument(help="CHAIN/FLOW/SEQ, e.g. 0/1/25")],
    as_json: AsJson = False,
) -> None:
    """Show the way of one packet of a recorded run, hop by hop, and what became of it.

    The hops are known of a run whose scenario has `trace: {}`; else only its ends are.
    """
    found = describe(run, packet)
    if as_json:
        print(json.dumps(found))
    else:
        show(found, Console(highlight=False))


def describe(run_dir: Path, text: str) -> dict[str, Any]:
    """What is known of a packet, as `--json` prints it.

    {"packet": {"chain", "flow", "seq"}, "scheduled_ns", "sent_ns", "received_ns", "copies",
    "traced", "sights": [{"t_ns", "hop", "what", "where", "node", "detail"}, ...],
    "spans": [[hop, part, ns], ...], "fate": {"what", "where", "why"}}; times from the run's origin.
    Raises InputError.
    """
    from testbed.results.journeys import declared_losses, fate, read_traced, spans

    identity = _identity(text)
    records = _records(run_dir)
    manifest, frame = records.manifest, records.packets
    chain, flow, seq = identity
    rows = frame[(frame["chain"] == chain) & (frame["flow"] == flow) & (frame["seq"] == seq)]
    if rows.empty:
        raise InputError("packet", text, f"one of the run's packets; {_range(frame, chain)}")
    row = rows.iloc[0]
    traced = read_traced(run_dir, manifest)
    journey = None if traced is None else traced.journey(identity)
    refused = _refusal(records.events, chain)
    became = fate(row, journey, declared_losses(run_dir / "raw"), refused, traced is not None)
    sent_ns, received_ns = _integer(row["sent_ns"]), _integer(row["received_ns"])
    names = [node["name"] for node in manifest["topology"]["nodes"]]
    return {
        "packet": {"chain": chain, "flow": flow, "seq": seq},
        "scheduled_ns": int(row["scheduled_ns"]),
        "sent_ns": sent_ns,
        "received_ns": received_ns,
        "copies": int(row["copies"]),
        "traced": traced is not None,
        "sights": [] if journey is None else _sights(journey, names),
        "spans": []
        if traced is None or journey is None or sent_ns is None
        else [list(span) for span in spans(traced, journey, sent_ns, received_ns)],
        "fate": {"what": became.what, "where": became.where, "why": became.why},
    }


def _identity(text: str) -> tuple[int, int, int]:
    parts = text.split("/")
    if len(parts) != 3 or not all(part.isdecimal() for part in parts):
        raise InputError("packet", text, "CHAIN/FLOW/SEQ, e.g. 0/1/25")
    return int(parts[0]), int(parts[1]), int(parts[2])


def _records(run_dir: Path) -> RunRecords:
    from testbed.records.run_records import MANIFEST, read_records

    runs = sorted(run_dir.glob("*/seed-*"))
    example = f", e.g. {runs[0]}" if runs else ""
    if not (run_dir / MANIFEST).is_file() or runs:
        expected = f"the folder of one run, with {MANIFEST} and packets.parquet{example}"
        raise InputError("run", str(run_dir), expected)
    records = read_records(run_dir)
    if not records.has_packets or not records.manifest.get("topology"):
        raise InputError("run", str(run_dir), "the folder of a run that has packets")
    return records


def _range(frame: pd.DataFrame, chain: int) -> str:
    of_chain = frame[frame["chain"] == chain]
    if of_chain.empty:
        return f"chains are {', '.join(str(each) for each in sorted(set(frame['chain'])))}"
    last = of_chain.groupby("flow")["seq"].max()
    return "; ".join(f"{chain}/{flow}/0 to {chain}/{flow}/{seq}" for flow, seq in last.items())


def _refusal(events: Sequence[Mapping[str, Any]], chain: int) -> str | None:
    """Why no chain served a request at all; None if one did."""
    for event in events:
        if event.get("request") == chain:
            if event["event"] == "decision" and not event["accepted"]:
                return "the policy refused the request: no chain served it"
            if event["event"] == "deploy-failed":
                return "the request's chain could not be deployed"
    return None


def _integer(value: Any) -> int | None:
    from pandas import isna

    return None if isna(value) else int(value)


def _sights(journey: Any, names: list[str]) -> list[dict[str, Any]]:
    rows = [(0, journey.entered)]
    rows += [(stage.stamped.hop, sight) for stage in journey.stages for sight in stage.sights]
    return [
        {
            "t_ns": sight.t_ns,
            "hop": hop,
            "what": sight.what,
            "where": sight.about["name"],
            "node": names[int(sight.about["node"])],
            "detail": _detail(sight),
        }
        for hop, sight in sorted(rows, key=lambda each: (each[1].t_ns, each[0]))
    ]


def _detail(sight: Any) -> str:
    note, about = sight.note, sight.about
    if sight.what == "taken":
        return f"sent by member {note[0]}"
    if sight.what == "cpu-done":
        return f"{note[0] / 1e6:.3f} ms of service"
    if sight.what == "handed" and note[0]:
        return "refused: no CPU"
    if sight.what == "logged":
        if note[0] >= 0:
            return f"passes on as number {note[0]}"
        if note[1]:
            return f"declared lost: {about['losses'][note[1]]}"
        return f"dropped by the function: {about['reasons'][note[2]]}"
    if sight.what == "emitted":
        return f"as number {note[0]}"
    return ""


def show(found: Mapping[str, Any], console: Console) -> None:
    """What `describe` found, as a table of what was seen of the packet."""
    packet, became = found["packet"], found["fate"]
    name = f"chain {packet['chain']}, flow {packet['flow']}, packet {packet['seq']}"
    console.print(f"{name}: {became['what']}", style="bold", markup=False)
    due_ns = found["scheduled_ns"]
    rows = [(due_ns, "", "", "due")]
    if found["sent_ns"] is not None:
        rows.append((found["sent_ns"], "", "sender", "handed to the kernel"))
    for sight in found["sights"]:
        detail = f": {sight['detail']}" if sight["detail"] else ""
        where = f"{sight['where']} ({sight['node']})"
        rows.append((sight["t_ns"], str(sight["hop"]), where, _WHAT[sight["what"]] + detail))
    if found["received_ns"] is not None:
        rows.append((found["received_ns"], "", "receiver", "arrived"))
    before_ns, lines = due_ns, []
    for t_ns, hop, where, what in sorted(rows, key=lambda row: row[0]):
        passed = f"{(t_ns - before_ns) / 1e6:.3f}"
        lines.append((f"{(t_ns - due_ns) / 1e6:.3f}", passed, hop, where, what))
        before_ns = t_ns
    columns = (*map(Column, ("ms", "+ ms", "hop")), words("where"), words("what"))
    console.print(FittedTable(columns, tuple(lines)))
    if found["spans"]:
        parts = ", ".join(f"{part} {hop}: {ns / 1e6:.3f}" for hop, part, ns in found["spans"])
        console.print(f"its time in ms, part and hop: {parts}", markup=False)
    place = f" at {became['where']}" if became["where"] else ""
    console.print(f"{became['what']}{place}: {became['why']}", markup=False)
    if not found["traced"]:
        console.print("This run was not traced: put `trace: {}` into its scenario.", markup=False)
