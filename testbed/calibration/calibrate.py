"""`deftbed calibrate`: runs the calibration scenarios, fits the constants, writes them to a file.

Every command whose twin can have a calibration looks for it in one way (`choose_calibration`), says
which one it is and how its host differs from this one, and notes that among its results.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from testbed.calibration.recorded import RecordedRun, read_results
from testbed.calibration.runs import POLICY, CalibrationRun, Purpose, calibration_runs
from testbed.records.files import write_json, write_text
from testbed.results.folder import RESULTS, hand_back, make_folder, results_folder
from testbed.scenario.endings import Endings
from testbed.scenario.errors import InputError
from testbed.scenario.model import Scenario
from testbed.twin.calibration import CONSTANTS, Calibration, Estimate, parse_calibration

DEFAULT_FILE = Path(RESULTS) / "calibration.json"
NONE = Path("none")
ATTEMPTS = 3
RUN_OVERHEAD_S = 9.0
"""First guess of what a run takes beside its traffic."""

Progress = Callable[[str, float], None]
"""What is being done, and which share of all is done."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """The calibration that a command's twin has, where it is from, and what is to be said of it.

    Without one (`calibration` None) the twin has its defaults. `doubts` says how the host on which
    it was made differs from that on which it is used, and why its runs were not valid.
    """

    calibration: Calibration | None = None
    file: str | None = None
    doubts: tuple[str, ...] = ()

    def identity(self) -> dict[str, Any] | None:
        """What a manifest or a report says of it; None for the defaults."""
        if self.calibration is None:
            return None
        facts = self.calibration.identity()
        return {**facts, "file": self.file, "doubts": list(self.doubts)}

    def lines(self) -> list[str]:
        """What a person is told of it."""
        if self.calibration is None:
            return ["the twin has its default constants: no calibration"]
        made = self.calibration.source.get("date", "at an unknown time")
        doubts = [f"the calibration is in doubt: {doubt}" for doubt in self.doubts]
        return [f"the twin is calibrated by {self.file}, made {made}", *doubts]


DEFAULTS = Chosen()
"""The twin's own constants."""


def choose_calibration(option: Path | None, backends: Mapping[str, Any] | None = None) -> Chosen:
    """The calibration of a command by its `--calibration`: the one rule of all commands.

    That file; `none`: the twin's defaults; not given: the default file if there is one, else the
    defaults. `backends` are those that the command has chosen, if it emulates. Raises InputError
    for a file that cannot be read or is no calibration.
    """
    if option == NONE or (option is None and not DEFAULT_FILE.is_file()):
        return DEFAULTS
    file = option or DEFAULT_FILE
    found = read_calibration(file)
    here = host_facts(backends or {})
    if backends is None:
        del here["backends"]
    return Chosen(found, str(file), doubts(found, here))


def read_calibration(file: Path) -> Calibration:
    """The calibration in a file; raises InputError if it cannot be read or is none."""
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        expected = f"a file written by `deftbed calibrate`, or none ({error})"
        raise InputError("--calibration", str(file), expected) from error
    return parse_calibration(data)


def calibrate(
    out: Path, results: Path | None, repetitions: int, progress: Progress
) -> tuple[Calibration, Path]:
    """Run, fit and write; the calibration and the folder of its runs.

    Raises InputError before anything is built, RunError if a run fails.
    """
    folder = results_folder(results, "calibration")
    with Endings() as endings:
        endings.add(hand_back, folder)
        carry_out(folder, calibration_runs(repetitions), progress)
        return refit(folder, out), folder


def refit(folder: Path, out: Path) -> Calibration:
    """Fit the runs of a folder that `calibrate` made and write the file; raises InputError."""
    calibration = fit_folder(folder)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_json(out, calibration.to_json())
    hand_back(out)
    return calibration


def carry_out(folder: Path, runs: Sequence[CalibrationRun], progress: Progress) -> None:
    """Carry out each run into a results folder of its own below `folder`; raises RunError."""
    shares = [run.scenario.traffic.duration_s + RUN_OVERHEAD_S for run in runs]
    for number, run in enumerate(runs):
        done, whole = sum(shares[:number]), shares[number]

        def tell(what: str, share: float, done: float = done, whole: float = whole) -> None:
            progress(what, (done + share * whole) / sum(shares))

        run_policies(folder / f"{run.purpose}-{number:02d}", run.scenario, (POLICY,), tell)
    progress("fitting", 1.0)


def run_policies(
    folder: Path, scenario: Scenario, policies: Sequence[str], progress: Progress
) -> None:
    """Run policies x the scenario's seeds into a results folder with a scenario.yaml.

    A run that is not valid, on a host that was busy with something else for example, is put aside
    and made again, `ATTEMPTS` times in all; the last one counts. Raises InputError if the host
    cannot, RunError if a run fails.
    """
    from testbed.lab.run import RunSpec, run_one
    from testbed.substrate.choice import able_host

    capabilities, backends = able_host(scenario)
    make_folder(folder)
    text = yaml.safe_dump(scenario.model_dump(exclude_none=True), sort_keys=False)
    write_text(folder / "scenario.yaml", text)
    whole = len(scenario.seeds) * len(policies)
    for number, seed in enumerate(scenario.seeds):
        for place, policy in enumerate(policies):
            done = number * len(policies) + place
            progress(f"{scenario.name}: {policy}, seed {seed}", done / whole)
            where = folder / policy / f"seed-{seed}"
            spec = RunSpec(scenario, policy, seed, where, None, backends, capabilities)
            for attempt in range(1, ATTEMPTS + 1):
                if run_one(spec, lambda _: None)["valid"] or attempt == ATTEMPTS:
                    break
                where.rename(where.with_name(f"not-valid-{seed}-{attempt}"))


def fit_folder(folder: Path) -> Calibration:
    """The calibration that the valid runs of a folder give; raises InputError.

    If they do not determine every constant, all runs are fitted to, and `source` says "valid":
    false with the reasons.
    """
    from testbed.calibration.samples import fit

    runs, torn = _read(folder)
    if not runs:
        found = "; ".join(torn) or str(folder)
        raise InputError("results", found, "a folder made by `deftbed calibrate`")
    chosen = [(purpose, run) for purpose, run in runs if run.manifest["valid"]]
    try:
        constants = fit(chosen)
        if not set(CONSTANTS) <= set(constants):
            raise ValueError(f"no valid run shows {set(CONSTANTS) - set(constants)}")
        invalid = []
    except ValueError:
        # Better than nothing, and said so: too few runs kept their tolerances.
        constants = _fit_all(folder, runs)
        chosen, invalid = runs, _reasons(runs)
    first = runs[0][1].manifest
    source = {
        "date": first.get("started"),
        "git_revision": first.get("git_revision"),
        "runs": len(chosen),
        "runs_left_out": len(runs) + len(torn) - len(chosen),
        "valid": not invalid,
        "reasons": [*torn, *invalid],
    }
    return Calibration(constants, host_facts(first.get("backends") or {}), source)


def _fit_all(folder: Path, runs: Sequence[tuple[Purpose, RecordedRun]]) -> dict[str, Estimate]:
    from testbed.calibration.samples import fit

    try:
        return fit(runs)
    except ValueError as error:
        expected = f"runs that determine the constants ({error})"
        raise InputError("results", str(folder), expected) from error


def _reasons(runs: Sequence[tuple[Purpose, RecordedRun]]) -> list[str]:
    return [
        f"{run.manifest['scenario']}, seed {run.manifest['seed']}: {reason}"
        for _, run in runs
        for reason in run.manifest["reasons"]
    ]


def _read(folder: Path) -> tuple[list[tuple[Purpose, RecordedRun]], list[str]]:
    """The runs with their purpose, and in words those whose records are torn."""
    purposes: dict[str, Purpose] = {"latency": "latency", "load": "load", "fault": "fault"}
    runs: list[tuple[Purpose, RecordedRun]] = []
    torn: list[str] = []
    for path in sorted(folder.glob("*-*/scenario.yaml")):
        purpose = purposes.get(path.parent.name.split("-")[0])
        if purpose is not None:
            found = read_results(path.parent)
            runs += [(purpose, run) for run in found.runs]
            torn += [f"{path.parent.name}: {why}" for why in found.torn]
    return runs, torn


def host_facts(backends: Mapping[str, Any]) -> dict[str, Any]:
    """What the constants depend on: processor, cores, kernel and back ends."""
    return {
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "backends": dict(backends),
    }


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    found = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(found, platform.processor())


def doubts(calibration: Calibration, here: Mapping[str, Any]) -> tuple[str, ...]:
    """Why a calibration may not be of the host with the facts `here`, in words.

    `here` holds some of what `host_facts` gives; what either side does not know is not compared.
    """
    found = []
    for name in ("cpu", "cores", "kernel", "backends"):
        there = calibration.host.get(name)
        if there is not None and name in here and there != here[name]:
            found.append(f"{name}: made with {_words(there)}, used with {_words(here[name])}")
    reasons = calibration.source.get("reasons", ())
    return (*found, *(f"a run of it was not valid: {reason}" for reason in reasons))


def _words(fact: Any) -> str:
    if isinstance(fact, Mapping):
        return ", ".join(f"{name} {value}" for name, value in sorted(fact.items()))
    return str(fact)
