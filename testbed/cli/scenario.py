"""The command about scenario files: `deftbed check`."""

from __future__ import annotations

import json
from collections.abc import Iterable

from testbed.cli.options import AsJson, ScenarioPath, console
from testbed.cli.screens.left_out import print_left_out
from testbed.scenario.errors import InputError
from testbed.scenario.link_plan import SURELY_CARRIED_BPS, fastest_bps
from testbed.scenario.load import load_scenario
from testbed.scenario.model import Scenario
from testbed.scenario.modelled import left_out
from testbed.scenario.plan import make_plan
from testbed.scenario.remarks import remarks
from testbed.scenario.types import RunPlan


def check(scenario: ScenarioPath, as_json: AsJson = False) -> None:
    """Validate a scenario and say what its runs would be; nothing that it builds stays.

    Where links are faster than 100 Mb/s, root also measures what links this host carries.
    """
    loaded = load_scenario(scenario)
    plans = {seed: make_plan(loaded, seed) for seed in loaded.seeds}
    first = next(iter(plans.values()))
    said = list(remarks(loaded, plans.values()))
    twin = left_out(loaded)
    facts = {
        "scenario": loaded.name,
        "valid": True,
        "nodes": len(first.topology.nodes),
        "links": len(first.topology.links),
        "policies": list(loaded.problem.policies),
        "seeds": {str(seed): len(plan.requests) for seed, plan in plans.items()},
        "links_note": links_note(loaded, plans.values()),
        "remarks": said,
        "twin": {
            "left_out": [str(each) for each in twin if not each.refused],
            "refused": [str(each) for each in twin if each.refused],
        },
    }
    if as_json:
        print(json.dumps(facts))
        return
    requests = ", ".join(f"{len(plan.requests)} (seed {seed})" for seed, plan in plans.items())
    console.print(
        f"{scenario}: valid. {facts['nodes']} nodes, {facts['links']} links, policies "
        f"{', '.join(loaded.problem.policies)}, requests {requests}."
    )
    for remark in said:
        console.print(f"Note: {remark}.", style="yellow", markup=False, soft_wrap=True)
    if facts["links_note"] is not None:
        console.print(facts["links_note"], style="yellow", markup=False, soft_wrap=True)
    print_left_out(console, [loaded])


def links_note(scenario: Scenario, plans: Iterable[RunPlan]) -> str | None:
    """That links are faster than this host carries, or who can tell; None if all is well."""
    wanted_bps = fastest_bps(plans)
    if wanted_bps <= SURELY_CARRIED_BPS:
        return None
    from testbed.substrate.backend_choice import able_host
    from testbed.substrate.greatest_rate import rate_note

    try:
        _, backends = able_host(scenario)
    except InputError:  # this user, or this host, cannot carry links at all
        return f"links of {wanted_bps / 1e6:,.0f} Mb/s: as root, check measures what links carry"
    return rate_note(wanted_bps, backends, scenario.tolerances)
