"""Tells on the screen what the twin has no model of, and how it is calibrated."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console

from testbed.scenario.model import Scenario
from testbed.scenario.modelled import left_out


def print_left_out(console: Console, scenarios: Iterable[Scenario]) -> None:
    """A line for each key that the twin leaves out or refuses; none if it models all."""
    found = dict.fromkeys(each for scenario in scenarios for each in left_out(scenario))
    for each in found:
        what = "refuses" if each.refused else "leaves out"
        console.print(f"the twin {what} {each}", style="yellow", markup=False, soft_wrap=True)


def print_lines(console: Console, lines: Iterable[str]) -> None:
    """Facts about the twin that a command works with, a line each."""
    for line in lines:
        console.print(line, style="yellow", markup=False, soft_wrap=True)
