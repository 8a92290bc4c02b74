"""`deftbed calibrate`: runs the calibration scenarios, fits the constants, writes a file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import yaml

from testbed.calibration.calibration_runs import POLICY, CalibrationRun, Purpose, calibration_runs
from testbed.calibration.choice import host_facts
from testbed.calibration.recorded import RecordedRun, read_results
from testbed.decisions.problem import MakePolicy
from testbed.records.files import write_json, write_text
from testbed.results.folder import hand_back, make_folder, results_folder
from testbed.scenario.endings import Endings
from testbed.scenario.errors import InputError
from testbed.scenario.model import Scenario
from testbed.twin.calibration import CONSTANTS, Calibration, Estimate

ATTEMPTS = 3
RUN_OVERHEAD_S = 9.0
"""First guess of what a run takes beside its traffic."""

Progress = Callable[[str, float], None]
"""What is being done, and which share of all is done."""


def calibrate(
    out: Path,
    results: Path | None,
    repetitions: int,
    make_policy: MakePolicy,
    progress: Progress,
) -> tuple[Calibration, Path]:
    """Run, fit and write; the calibration and the folder of its runs.

    Raises InputError before anything is built, RunError if a run fails.
    """
    folder = results_folder(results, "calibration")
    with Endings() as endings:
        endings.add(hand_back, folder)
        carry_out(folder, calibration_runs(repetitions), make_policy, progress)
        return refit(folder, out), folder


def refit(folder: Path, out: Path) -> Calibration:
    """Fit the runs of a folder that `calibrate` made and write the file; raises InputError."""
    calibration = fit_folder(folder)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_json(out, calibration.to_json())
    hand_back(out)
    return calibration


def carry_out(
    folder: Path, runs: Sequence[CalibrationRun], make_policy: MakePolicy, progress: Progress
) -> None:
    """Carry out each run into a results folder of its own below `folder`; raises RunError."""
    shares = [run.scenario.traffic.duration_s + RUN_OVERHEAD_S for run in runs]
    for number, run in enumerate(runs):
        done, whole = sum(shares[:number]), shares[number]

        def tell(what: str, share: float, done: float = done, whole: float = whole) -> None:
            progress(what, (done + share * whole) / sum(shares))

        run_policies(
            folder / f"{run.purpose}-{number:02d}", run.scenario, (POLICY,), make_policy, tell
        )
    progress("fitting", 1.0)


def run_policies(
    folder: Path,
    scenario: Scenario,
    policies: Sequence[str],
    make_policy: MakePolicy,
    progress: Progress,
) -> None:
    """Run policies x the scenario's seeds into a results folder with a scenario.yaml.

    A run that is not valid, on a host that was busy with something else for example, is put aside
    and made again, `ATTEMPTS` times in all; the last one counts. Raises InputError if the host
    cannot, RunError if a run fails.
    """
    from testbed.lab.run import RunSpec, run_one
    from testbed.substrate.backend_choice import able_host

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
            spec = RunSpec(scenario, make_policy, policy, seed, where, None, backends, capabilities)
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
