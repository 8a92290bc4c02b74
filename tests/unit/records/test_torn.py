"""Whatever is done to one file of a results folder, all sound runs are reported and it is named."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

from testbed.lab.comparison import write_results
from testbed.records import packets as packet_records
from testbed.records import server_usage as server_records
from testbed.records.raw import RawFormatError
from testbed.records.run_records import read_records
from tests.support.results_support import MS, event, packets, schedule

POLICIES, SEEDS, NODES = ("deft", "greedy-delay"), (1,), 3
RUN_FILES = ("manifest.json", "packets.parquet", "servers.parquet", "events.jsonl")
ORIGIN_MS = 1_000
DURATION_MS = 50


def small_results(folder: Path) -> Path:
    """Two policies, whose runs are complete and hold a few packets."""
    folder.mkdir()
    manifest = {
        "format": 1,
        "scenario": "small",
        "complete": True,
        "baseline": "deft",
        "policies": list(POLICIES),
        "seeds": list(SEEDS),
        "phases": {"report_s": 1.0},
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    (folder / "scenario.yaml").write_text("name: small\n")
    for policy in POLICIES:
        for seed in SEEDS:
            small_run(folder / policy / f"seed-{seed}", policy, seed)
    return folder


def small_run(folder: Path, policy: str, seed: int) -> None:
    folder.mkdir(parents=True)
    nodes = [
        {"name": f"n{i}", "longitude_deg": 1.0 * i, "latitude_deg": 40.0} for i in range(NODES)
    ]
    manifest = {
        "format": 1,
        "policy": policy,
        "seed": seed,
        "complete": True,
        "valid": True,
        "reasons": [],
        "origin_ns": ORIGIN_MS * MS,
        "duration_ns": DURATION_MS * MS,
        "plan_digest": "d" * 64,
        "topology": {
            "nodes": nodes,
            "links": [{"a": 0, "b": 1, "delay_ns": MS}, {"a": 1, "b": 2, "delay_ns": MS}],
        },
        "servers": [{"node": node, "cpu_cores": 1.0} for node in range(NODES)],
        "requests": [{"id": 0, "chain": "voip", "l3_bytes": 100, "source": 0}],
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    arrived = [(0, 0, number, (number + 4) * MS) for number in range(36)]
    packet_records.write(packets([schedule(40)], arrived), folder / "packets.parquet")
    samples = [
        {**dict.fromkeys(server_records.SCHEMA.names, 1), "t_ns": at * MS, "node": node}
        for at in (20, 40)
        for node in range(NODES)
    ]
    server_records.write(samples, folder / "servers.parquet")
    lines = "".join(json.dumps(each) + "\n" for each in timeline())
    (folder / "events.jsonl").write_text(lines)


def timeline() -> list[dict[str, Any]]:
    return [
        event(ORIGIN_MS, "run-start"),
        event(ORIGIN_MS, "request", request=0, chain="voip", due_ns=0),
        event(ORIGIN_MS, "decision", request=0, accepted=True, placements=[[0, 1], [2, 1]]),
        event(ORIGIN_MS + 1, "chain-ready", request=0),
        event(ORIGIN_MS + 10, "load-step", factor=2.0),
        event(ORIGIN_MS + 15, "overload-begin", node=1),
        event(ORIGIN_MS + 20, "fault", kind="server-down", node=0),
        event(ORIGIN_MS + 22, "failure-detected", instance="r0-h0-m0", group="r0-h0"),
        event(ORIGIN_MS + 23, "reconfigured", group="r0-h0", primary=1, cause="failed"),
        event(ORIGIN_MS + 25, "first-release", group="r0-h0"),
        event(ORIGIN_MS + DURATION_MS, "run-end"),
    ]


def mutate(path: Path, rng: random.Random) -> str:
    """Do something to a file that a disk, a kill or an editor may have done; what it was."""
    content = path.read_bytes()
    kinds = ("cut", "empty", "missing", "folder", "flip", "zeros", "line", "noise")
    kind = rng.choice(kinds)
    at = rng.randrange(len(content))
    if kind in ("missing", "folder"):
        path.unlink()
        if kind == "folder":
            path.mkdir()
        return kind
    if kind == "line":
        lines = content.split(b"\n")
        strange = [b"{}", b"null", b'{"event": "fault"}', b"\xff\xfe", b"[1]", b'{"t_ns": "now"}']
        lines.insert(rng.randrange(len(lines)), rng.choice(strange))
    changed = {
        "cut": content[:at],
        "empty": b"",
        "flip": content[:at] + bytes([content[at] ^ 1 << rng.randrange(8)]) + content[at + 1 :],
        "zeros": content[:at] + bytes(len(content) - at),
        "noise": content[:at] + rng.randbytes(16) + content[at + 16 :],
        "line": b"\n".join(lines) if kind == "line" else b"",
    }
    path.write_bytes(changed[kind])
    return f"{kind} at {at}"


def is_sound(run_dir: Path) -> bool:
    """Whether the readers take the records of a run as they are."""
    try:
        return read_records(run_dir).lacking == ()
    except RawFormatError:
        return False


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_results(tmp_path_factory.mktemp("sound") / "results")


def test_a_sound_folder_is_reported(sound: Path) -> None:
    summary = write_results(sound)
    assert summary["reasons"] == []
    assert {name: len(each["runs"]) for name, each in summary["policies"].items()} == {
        "deft": 1,
        "greedy-delay": 1,
    }


@pytest.mark.parametrize("numbers", [range(30), pytest.param(range(300), marks=pytest.mark.slow)])
def test_mutated_folders_are_reported_and_what_is_torn_is_named(
    numbers: range, sound: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # All is computed and drawn; only the pictures' text, which takes seconds, is not made.
    monkeypatch.setattr(Figure, "savefig", lambda _, file, **__: file.write("<svg></svg>"))
    files = [Path("manifest.json"), Path("scenario.yaml")]
    runs = [(policy, seed) for policy in POLICIES for seed in SEEDS]
    files += [Path(p) / f"seed-{s}" / name for p, s in runs for name in RUN_FILES]
    torn = 0
    for number in numbers:
        rng = random.Random(number)
        folder = tmp_path / "results"
        shutil.copytree(sound, folder)
        file = rng.choice(files)
        done = f"mutation {number}: {file}, {mutate(folder / file, rng)}"
        summary = write_results(folder)
        assert (folder / "report.html").is_file(), done
        hit = next(((p, s) for p, s in runs if file.parent == Path(p) / f"seed-{s}"), None)
        found = {
            p: {run["seed"] for run in each["runs"]} for p, each in summary["policies"].items()
        }
        assert all(seed in found[policy] for policy, seed in runs if (policy, seed) != hit), done
        if hit is not None and not is_sound(folder / file.parent):
            torn += 1
            page = (folder / "report.html").read_text(encoding="utf-8")
            assert f"{hit[0]}, seed {hit[1]}: " in page and file.name in page, done
        shutil.rmtree(folder)
    assert torn > len(numbers) / 3
