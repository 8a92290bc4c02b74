"""The command `deftbed faults`: a campaign of faults under load."""

from __future__ import annotations

from typing import Annotated

import typer

from agents.problems import problem
from testbed.cli.options import (
    EXIT_FAILED,
    AsJson,
    Results,
    ScenarioPath,
    console,
    listed,
    need_root,
)
from testbed.decisions.policy import Policy
from testbed.results.folder import check_new
from testbed.scenario.load import load_checked


def faults(
    scenario: ScenarioPath,
    count: Annotated[int, typer.Option(help="how many faults", min=1)] = 12,
    seed: Annotated[int, typer.Option(help="which faults, when and where", min=0)] = 1,
    kinds: Annotated[
        str, typer.Option(help="which kinds, with commas between [all that the scenario allows]")
    ] = "",
    results: Results = None,
    as_json: AsJson = False,
) -> None:
    """Break things under load, one after another, and check that every promise was kept."""
    from testbed.cli.screens.campaign_screen import CampaignScreen
    from testbed.lab.faults.campaign import prepare, run_campaign

    loaded = load_checked(scenario)
    check_new(results)
    need_root("run an emulation")
    chosen = listed(kinds)
    make_policy = problem("placement").make_policy

    def random_policy(drawn: int) -> Policy:
        return make_policy("random", drawn, None)

    spec = prepare(loaded, random_policy, count, seed, chosen, results, scenario)
    screen = CampaignScreen(console, as_json)
    totals = run_campaign(spec, screen.progress, screen.row)
    screen.end(totals, spec.folder)
    if totals["violations"] or totals["lost_undeclared"]:
        raise typer.Exit(EXIT_FAILED)
