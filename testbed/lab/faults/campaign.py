"""Runs a campaign: episodes, each judged, until the asked number of faults was injected."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from testbed.decisions.policy import Policy
from testbed.lab.faults.episode import EpisodeSpec, run_episode
from testbed.lab.faults.judge import judge
from testbed.lab.faults.kinds import KINDS, LAST
from testbed.lab.faults.record import EpisodeRecord, read_episode
from testbed.records.files import copy, write_json
from testbed.results.folder import hand_back, results_folder
from testbed.scenario.endings import Endings
from testbed.scenario.errors import InputError, RunError
from testbed.scenario.model import Scenario
from testbed.scenario.types import NS_PER_S
from testbed.statistics.quantiles import quantile_of
from testbed.substrate.backend_choice import able_host
from testbed.substrate.ownership import clean_stale
from testbed.substrate.probe import Backends, Capabilities

FAULTS_PER_EPISODE = 12
MOST_DISCARDED = 5
"""Episodes in a row that may not count before the campaign gives up."""

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class CampaignSpec:
    """What a campaign is to do; `random_policy` makes who places chains at random, by a seed."""

    scenario: Scenario
    random_policy: Callable[[int], Policy]
    count: int
    seed: int
    kinds: tuple[str, ...]
    folder: Path
    backends: Backends
    capabilities: Capabilities


def prepare(
    scenario: Scenario,
    random_policy: Callable[[int], Policy],
    count: int,
    seed: int,
    kinds: Sequence[str],
    results: Path | None,
    source: Path | None = None,
) -> CampaignSpec:
    """Check what is asked for and make the results folder; raises InputError.

    Without `kinds` there are all that the scenario allows.
    """
    chosen = allowed_kinds(scenario, kinds)
    capabilities, backends = able_host(scenario)
    clean_stale()
    folder = results_folder(results, scenario.name)
    if source is not None:
        copy(source, folder / "scenario.yaml")
    return CampaignSpec(
        scenario, random_policy, count, seed, chosen, folder, backends, capabilities
    )


def allowed_kinds(scenario: Scenario, kinds: Sequence[str]) -> tuple[str, ...]:
    """The kinds to inject; raises InputError for one that there is not, or that cannot heal."""
    for kind in kinds:
        if kind not in KINDS:
            raise InputError("--kinds", kind, f"some of {', '.join(KINDS)}")
    unfit = _unfit_kinds(scenario)
    for kind in kinds:
        if kind in unfit:
            raise InputError("--kinds", kind, unfit[kind])
    return tuple(kinds) or tuple(kind for kind in KINDS if kind not in unfit)


def _unfit_kinds(scenario: Scenario) -> dict[str, str]:
    """Kinds after which the groups of a scenario could not heal, and what would let them."""
    replication = scenario.replication
    backups = replication.backups_wanted
    if backups == 0:
        raise InputError("replication.backups", backups, "groups with a backup in a campaign")
    unfit = {}
    # Without a controller no backup is replaced, and in mode safety outputs would wait for one.
    if replication.without_backup == "safety" and backups == 1:
        unfit["primary-and-controller"] = "a scenario with without_backup: availability"
    if backups == 1:
        for kind in ("primary-and-backup", "primary-and-heir"):
            unfit[kind] = "a scenario with replication.backups of 2 or more"
    if any(each.shards == 1 for each in scenario.chains):
        unfit["scale"] = "a scenario whose chains all have several shards"
    return unfit


def plan_episodes(count: int, kinds: Sequence[str], seed: int) -> Iterator[tuple[str, ...]]:
    """The faults of each episode: every kind about equally often, in an order that is drawn.

    Kinds after which nothing is mended come last in an episode, and so at most once in each.
    """
    rng = np.random.default_rng(np.random.SeedSequence([seed, 11]))
    usual = [kind for kind in kinds if kind not in LAST]
    last = [kind for kind in kinds if kind in LAST]
    bag: list[str] = []
    number = 0
    while count > 0:
        size = min(count, FAULTS_PER_EPISODE if usual else 1)
        episode: list[str] = []
        while len(episode) < size - bool(last):
            if not bag:
                bag = [str(kind) for kind in rng.permutation(usual)]
            episode.append(bag.pop())
        if last:
            episode.append(last[number % len(last)])
        yield tuple(episode)
        count -= size
        number += 1


def run_campaign(
    spec: CampaignSpec, progress: Callable[[str], None], done: Callable[[Row], None]
) -> dict[str, Any]:
    """Carry out and judge all episodes; `done` gets the row of each fault, the result is the sum.

    Raises RunError if an episode cannot be carried out.
    """
    rows: list[Row] = []
    with Endings() as endings:
        endings.add(hand_back, spec.folder)
        endings.add(_write, spec.folder, rows)
        number = discarded = 0
        while (left := spec.count - len(valid_rows(rows))) > 0:
            # What an episode that ended early or does not count left out is made up for.
            kinds = next(plan_episodes(left, spec.kinds, spec.seed + number))
            of_episode = _episode(spec, number, kinds, progress, done)
            rows += of_episode
            number += 1
            discarded = 0 if valid_rows(of_episode) else discarded + 1
            if discarded == MOST_DISCARDED:
                raise RunError(f"{discarded} episodes in a row do not count; see {spec.folder}")
    return totals_of(rows)


def _write(folder: Path, rows: Sequence[Row]) -> None:
    write_json(folder / "faults.json", {"faults": list(rows), "totals": totals_of(rows)})


def valid_rows(rows: Sequence[Row]) -> list[Row]:
    """Those of episodes in which the host kept its times."""
    return [row for row in rows if row["invalid"] is None]


def _episode(
    spec: CampaignSpec,
    number: int,
    kinds: tuple[str, ...],
    progress: Callable[[str], None],
    done: Callable[[Row], None],
) -> list[Row]:
    name = f"episode-{number:03d}"
    seed = int(np.random.SeedSequence([spec.seed, number]).generate_state(1)[0])
    episode = EpisodeSpec(
        scenario=spec.scenario,
        policy=spec.random_policy(seed),
        seed=seed,
        kinds=kinds,
        folder=spec.folder / name,
        backends=spec.backends,
        capabilities=spec.capabilities,
    )
    rows = run_and_judge(episode, lambda text: progress(f"{name}: {text}"))
    for row in rows:
        done(row)
    return rows


def run_and_judge(episode: EpisodeSpec, progress: Callable[[str], None]) -> list[Row]:
    """Carry out an episode; the judged rows of its faults, with the episode and the load."""
    progress("building")
    run_episode(episode, progress)
    record = read_episode(episode.folder)
    facts = {
        "episode": episode.folder.name,
        "host_idle_percent": dict(record.manifest["host"]).get("idle_percent"),
        "invalid": too_busy(record, episode.scenario.tolerances.sender_lag_p99_s),
    }
    rows = [{**row, **facts} for row in judge(record)]
    write_json(episode.folder / "faults.json", {"faults": rows})
    if not rows:
        progress("nothing was injected: the groups were not well before the first fault")
    return rows


def too_busy(record: EpisodeRecord, bound_s: float) -> str | None:
    """Why an episode does not count: the host did not even let the senders keep their times.

    They are real-time processes, above all instances: what keeps them from running is no part of
    the run, and a host that stands still for half a second makes failures that nobody injected.
    """
    sent = record.packets[record.packets["sent_ns"].notna()]
    if sent.empty:
        return "no packet was sent"
    lag_ns = (sent["sent_ns"] - sent["scheduled_ns"]).to_numpy(np.int64)
    lag_s = quantile_of(lag_ns, 0.99) / NS_PER_S
    if lag_s <= bound_s:
        return None
    return f"the host was too busy: senders were {lag_s:.3f} s late at p99, bound {bound_s} s"


def totals_of(rows: Sequence[Row]) -> dict[str, Any]:
    """The last line of a campaign: of the episodes that count, and how many faults do not."""
    counted = valid_rows(rows)
    totals = {
        "faults": len(counted),
        "violations": sum(len(row["violations"]) for row in counted),
        "lost_undeclared": sum(row["lost_undeclared"] for row in counted),
    }
    discarded = len(rows) - len(counted)
    return {**totals, "discarded": discarded} if discarded else totals


def with_replication(scenario: Scenario, **changes: Any) -> Scenario:
    """The scenario with some values of its replication section replaced."""
    replication = scenario.replication.model_copy(update=changes)
    return scenario.model_copy(update={"replication": replication})
