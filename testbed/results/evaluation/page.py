"""evaluation.html: one file, no network, every figure from summary.json."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from testbed.decisions.contest import Contest
from testbed.records.files import write_text
from testbed.results.evaluation import plots
from testbed.results.evaluation.verdict import Verdict, sentence, streams_needed, verdict
from testbed.results.report.plot_style import slot
from testbed.statistics.jackknife import LEAST_PAIRS

TEMPLATES = Path(__file__).parents[1] / "templates"

Json = Mapping[str, Any]


def write_page(folder: Path, contest: Contest) -> Path:
    """Write evaluation.html into the folder of an evaluation, from its summary and manifest."""
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    text = environment.get_template("evaluation.html.j2").render(
        _content(summary, manifest, contest)
    )
    path = folder / "evaluation.html"
    write_text(path, text)
    return path


def _content(summary: Json, manifest: Json, contest: Contest) -> dict[str, Any]:
    policies, cells = summary["policies"], summary["cells"]
    topologies = list(dict.fromkeys(cell["topology"] for cell in cells))
    overall = _comparison(summary["overall"], contest)
    return {
        "css": Markup((TEMPLATES / "report.css").read_text(encoding="utf-8")),
        "scenario": summary["scenario"],
        "manifest": manifest,
        "summary": summary,
        "headline": _headline(summary, topologies, contest),
        "sentences": [
            _sentence(pair, row, contest) for pair, row in overall if _is_told(pair, manifest)
        ],
        "policies": policies,
        "slots": {policy: slot(policies, policy) for policy in policies},
        "contest": contest,
        "figures": contest.figures,
        "compared": contest.told,
        "notes": _notes(summary),
        "overall": overall,
        "cells": [_cell(cell, policies, contest) for cell in cells],
        "curves": [
            (
                name,
                Markup(
                    plots.over_load(
                        [cell for cell in cells if cell["topology"] == name], policies, contest
                    )
                ),
            )
            for name in topologies
        ],
        "heat": _heat(summary, contest) if len(cells) > 1 else None,
        "loads": list(dict.fromkeys(cell["load"] for cell in cells)),
        "facts": _facts(manifest),
    }


def _headline(summary: Json, topologies: Sequence[str], contest: Contest) -> str:
    loads = len({cell["load"] for cell in summary["cells"]})
    count = len(summary["policies"])
    where = topologies[0] if len(topologies) == 1 else f"{len(topologies)} {contest.places}"
    return (
        f"{count} polic{'y' if count == 1 else 'ies'}, {loads} load{'' if loads == 1 else 's'}, "
        f"{where}: {summary['streams']} request streams, the same for all"
    )


def _notes(summary: Json) -> list[str]:
    """What the number of streams and of training runs can and cannot show."""
    streams, notes = summary["streams"], []
    if streams < LEAST_PAIRS:
        return [
            f"{streams} stream{'' if streams == 1 else 's'} in each cell: below {LEAST_PAIRS} "
            "chance alone makes such differences. They are shown without an interval, the curves "
            "with a dot for each stream, and nothing is claimed."
        ]
    cells = {str(number): each["comparison"] for number, each in enumerate(summary["cells"])}
    every = {f"{at} {pair}": row for at, rows in cells.items() for pair, row in rows.items()}
    if summary["overall"] and (needed := streams_needed(summary["overall"])) > streams:
        notes.append(f"{streams} streams can show no difference at all, {needed} can.")
    elif every and (needed := streams_needed(every)) > streams:
        notes.append(f"{streams} streams can show no difference in a single cell, {needed} can.")
    for policy, runs in summary["models"].items():
        if policy in summary["learned"]:
            notes.append(
                f"{policy}: {runs} training runs, whose luck is in the intervals."
                if runs > 1
                else f"{policy} is one training run: what is shown is true of that model, and says "
                "little of another training."
            )
    return notes


def _is_told(pair: str, manifest: Json) -> bool:
    """Learned policies are what an evaluation is about; without one, the heuristics are."""
    treated = pair.partition(" vs ")[0]
    about = manifest["learned"] or manifest["heuristics"]
    return treated in about


def _sentence(pair: str, row: Mapping[str, Verdict], contest: Contest) -> str:
    return sentence(pair, {contest.figure(key).label: row[key] for key in contest.headline})


def _comparison(entries: Json, contest: Contest) -> list[tuple[str, dict[str, Verdict]]]:
    return [
        (pair, {each.key: verdict(each, entry[each.key]) for each in contest.compared})
        for pair, entry in entries.items()
    ]


def _cell(cell: Json, policies: Sequence[str], contest: Contest) -> dict[str, Any]:
    rows = []
    for policy in policies:
        texts = {}
        for figure in contest.figures:
            entry = cell["figures"][policy][figure.key]
            interval = f"{figure.text(entry['low'])} – {figure.text(entry['high'])}"
            texts[figure.key] = (
                figure.text(entry["value"]), interval if entry["low"] is not None else ""
            )  # fmt: skip
        rows.append((policy, texts))
    return {**cell, "rows": rows, "pairs": _comparison(cell["comparison"], contest)}


def _heat(summary: Json, contest: Contest) -> list[dict[str, Any]]:
    """For each cell `contest.best` of every policy in units of the baseline's."""
    baseline, best, rows = summary["baseline"], contest.figure(contest.best), []
    for cell in summary["cells"]:
        shades = {}
        for policy in summary["policies"]:
            entry = cell["comparison"].get(f"{policy} vs {baseline}", {}).get(best.key)
            if entry is not None and entry["ratio"] is not None:
                found = verdict(best, entry)
                strength = min(abs(1.0 - entry["ratio"]), 1.0)
                shades[policy] = (found, round(100 * strength))
        rows.append({"topology": cell["topology"], "load": cell["load"], "shades": shades,
                     "best": cell["best"]})  # fmt: skip
    return rows


def _facts(manifest: Json) -> list[tuple[str, str]]:
    names = (
        "started", "git_revision", "streams", "seeds", "models", "constants", "weights", "machine",
        "python", "wall_s",
    )  # fmt: skip
    facts = []
    for name in names:
        value = manifest.get(name)
        if isinstance(value, Mapping):
            value = ", ".join(f"{key} {each:g}" for key, each in value.items())
        elif isinstance(value, list):
            value = ", ".join(map(str, value))
        if value not in (None, ""):
            facts.append((name.replace("_", " "), str(value)))
    return facts
