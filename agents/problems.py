"""The decision problems by name; a problem is imported when it is asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from testbed.decisions.problem import Problem
from testbed.scenario.errors import InputError


def _placement() -> Problem:
    from agents.placement.problem import PLACEMENT

    return PLACEMENT


def _provisioning() -> Problem:
    from agents.placement.policies import make_policy_of_provisioning
    from agents.provisioning.problem import provisioning

    return provisioning(make_policy_of_provisioning)


PROBLEMS: Mapping[str, Callable[[], Problem]] = {
    "placement": _placement,
    "provisioning": _provisioning,
}


def problem(name: str) -> Problem:
    """The problem called `name`; InputError that names `--problem` if there is none."""
    if name not in PROBLEMS:
        raise InputError("--problem", name, f"one of {', '.join(PROBLEMS)}")
    return PROBLEMS[name]()
