"""How long a chain is cut off when the process of a primary is killed under load.

Cases: `kill-primary` with one backup under each rule for a group that has lost its last one (in
`safety` the gap includes the start of a new backup) and with two; and `none`, full load without a
fault, in which nobody may be taken for failed. `deftbed bench recovery` runs it; kills are spread
over episodes, on placements that are drawn.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from agents.placement.baselines import RandomPolicy
from testbed.cli.screens.tables import Column, FittedTable, names
from testbed.lab.faults.campaign import (
    CampaignSpec,
    Row,
    prepare,
    run_and_judge,
    run_campaign,
    valid_rows,
    with_replication,
)
from testbed.lab.faults.episode import EpisodeSpec
from testbed.lab.faults.record import read_episode
from testbed.scenario.load import load_scenario
from testbed.scenario.model import Scenario

SCENARIO = Path(__file__).parents[1] / "scenarios" / "faults.yaml"
RATE_PPS = 500.0
"""Of the one chain whose primaries are killed, in one flow: gaps are known to 2 ms."""
FULL_LOAD_PPS = 400.0
"""Of each of the chains in the case without a fault."""
FIGURES = ("detection", "promotion", "replay", "gap")


@dataclass(frozen=True, slots=True)
class RecoverySpec:
    """What is measured: kills of each rule, and the time without a fault."""

    kills: int = 50
    idle_s: float = 60.0
    seed: int = 1
    folder: Path | None = None


def cases(spec: RecoverySpec, progress: Callable[[str], None]) -> Iterator[dict[str, Any]]:
    """The result of each case, as soon as it is known. Raises InputError, RunError."""
    for rule, backups in (("availability", 1), ("safety", 2), ("safety", 1)):
        if spec.kills:
            yield _kills(spec, rule, backups, progress)
    if spec.idle_s:
        yield _without_fault(spec, progress)


def _kills(
    spec: RecoverySpec, rule: str, backups: int, progress: Callable[[str], None]
) -> dict[str, Any]:
    name = f"{rule}-{backups}"
    campaign = _prepared(spec, one_chain(load_scenario(SCENARIO), rule, backups), name)
    rows: list[Row] = []
    run_campaign(campaign, lambda text: progress(f"{name}: {text}"), rows.append)
    all_rows, rows = rows, valid_rows(rows)
    return {
        "bench": "recovery",
        "case": {
            "fault": "kill-primary",
            "without_backup": rule,
            "backups": backups,
            "load_pps": RATE_PPS,
        },
        **summary(rows),
        "runs": len(rows),
        "discarded": len(all_rows) - len(rows),
        "host": host_of(rows),
        "results": str(campaign.folder),
    }


def _prepared(spec: RecoverySpec, scenario: Scenario, name: str) -> CampaignSpec:
    folder = None if spec.folder is None else spec.folder / name
    return prepare(scenario, RandomPolicy, spec.kills, spec.seed, ["kill-primary"], folder)


def one_chain(scenario: Scenario, rule: str, backups: int) -> Scenario:
    """The scenario with its first chain alone, asked for once, in one flow of `RATE_PPS`."""
    chosen = scenario.chains[0].model_copy(update={"rate_pps": RATE_PPS, "flows": 1})
    traffic = scenario.traffic.model_copy(update={"initial_requests": 1, "duration_s": 180.0})
    name = f"recovery-{rule}-{backups}"
    alone = scenario.model_copy(update={"name": name, "chains": [chosen], "traffic": traffic})
    return with_replication(alone, without_backup=rule, backups=backups)


def full_load(scenario: Scenario, idle_s: float) -> Scenario:
    """The scenario with its chains at `FULL_LOAD_PPS` each, for as long as is asked."""
    chains = [each.model_copy(update={"rate_pps": FULL_LOAD_PPS}) for each in scenario.chains]
    traffic = scenario.traffic.model_copy(update={"duration_s": idle_s + 30.0})
    update = {"name": "recovery-none", "chains": chains, "traffic": traffic}
    return scenario.model_copy(update=update)


def summary(rows: Sequence[Row]) -> dict[str, Any]:
    """Figures and spread of a number of kills."""
    figures: dict[str, Any] = {}
    spread: dict[str, Any] = {}
    for name in FIGURES:
        values = [row[f"{name}_ms"] for row in rows if row[f"{name}_ms"] is not None]
        if values:
            figures[f"{name}_p50_ms"] = round(float(np.percentile(values, 50)), 3)
            spread[f"{name}_p50_ms"] = [min(values), max(values)]
    gaps = [row["gap_ms"] for row in rows if row["gap_ms"] is not None]
    if gaps:
        figures["gap_p99_ms"] = round(float(np.percentile(gaps, 99)), 3)
    figures["lost_undeclared"] = sum(row["lost_undeclared"] for row in rows)
    figures["declared"] = sum(row["declared"] for row in rows)
    figures["violations"] = sum(len(row["violations"]) for row in rows)
    return {"figures": figures, "spread": spread}


def host_of(rows: Sequence[Row]) -> dict[str, float]:
    """How much of the host was idle meanwhile, over the episodes."""
    idle = [row["host_idle_percent"] for row in rows if row["host_idle_percent"] is not None]
    return {"idle_percent_min": min(idle), "idle_percent_max": max(idle)} if idle else {}


def _without_fault(spec: RecoverySpec, progress: Callable[[str], None]) -> dict[str, Any]:
    scenario = full_load(load_scenario(SCENARIO), spec.idle_s)
    campaign = _prepared(spec, scenario, "none")
    episode = EpisodeSpec(
        scenario=scenario,
        policy=RandomPolicy(spec.seed),
        seed=spec.seed,
        kinds=("none",),
        folder=campaign.folder / "episode-000",
        backends=campaign.backends,
        capabilities=campaign.capabilities,
        idle_s=spec.idle_s,
    )
    rows = run_and_judge(episode, lambda text: progress(f"none: {text}"))
    record = read_episode(episode.folder)
    detected = record.named("failure-detected")
    received = int(record.packets["received_ns"].notna().sum())
    return {
        "bench": "recovery",
        "case": {"fault": "none", "load_pps": len(scenario.chains) * FULL_LOAD_PPS},
        "figures": {
            "false_promotions": sum(e["order"] in ("promote", "group-lost") for e in detected),
            "false_detections": len(detected),
            "duration_s": spec.idle_s,
            "received": received,
            "lost_undeclared": sum(row["lost_undeclared"] for row in rows),
            "violations": sum(len(row["violations"]) for row in rows),
        },
        "spread": {},
        "runs": len(valid_rows(rows)),
        "host": dict(record.manifest["host"]),
        "results": str(campaign.folder),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a line for each case, or a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    parser.add_argument("--kills", type=int, default=50, help="of primaries, for each rule [50]")
    parser.add_argument("--idle-s", type=float, default=60.0, help="time without a fault [60]")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--results", type=Path, help="the folder to make [results/...]")
    options = parser.parse_args(arguments)
    spec = RecoverySpec(options.kills, options.idle_s, options.seed, options.results)
    said = Console(stderr=True, highlight=False)
    lines = []
    for line in cases(spec, lambda text: said.print(text, markup=False, style="dim")):
        lines.append(line)
        if options.json:
            print(json.dumps(line), flush=True)
    if not options.json:
        Console(highlight=False).print(_table(lines))


def _table(lines: Sequence[dict[str, Any]]) -> FittedTable:
    """A line a figure, a column a case."""
    columns = [names("")]
    for line in lines:
        case = line["case"]
        parts = [case["fault"], case.get("without_backup", ""), case.get("backups", "")]
        columns.append(Column(" ".join(map(str, parts))))
    rows = []
    for name in dict.fromkeys(name for line in lines for name in (*line["figures"], "runs")):
        values = [{**line["figures"], "runs": line["runs"]}.get(name) for line in lines]
        rows.append((name, *["" if value is None else str(value) for value in values]))
    return FittedTable(tuple(columns), tuple(rows))


if __name__ == "__main__":
    main()
