"""Prints the parts of a scenario that the twin does not model, and its calibration."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console

from testbed.scenario.model import Scenario
from testbed.scenario.modelled import left_out


def print_left_out(console: Console, scenarios: Iterable[Scenario]) -> None:
    """A line for each key that the twin leaves out or refuses; none if it models all."""
    found = dict.fromkeys(each for scenario in scenarios for each in left_out(scenario))
    verbs = {True: "refuses", False: "leaves out"}
    print_lines(console, (f"the twin {verbs[bool(each.refused)]} {each}" for each in found))


def print_lines(console: Console, lines: Iterable[str]) -> None:
    """Facts about the twin that a command works with, a line each."""
    for line in lines:
        console.print(line, style="yellow", markup=False, soft_wrap=True)
