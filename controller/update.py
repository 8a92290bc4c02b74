"""Computes the ordered messages that turn the present rules of a switch into the wanted. Pure.

An update is four rounds over all switches; each begins when every switch has confirmed the one
before. The first two add, until every rule sends where the old or the new one did: all old targets
are served, whatever switch acts first. The other two take away: all new targets are served.

Two rounds each, because a switch may go on for a moment with the actions that it cached for its
last frames. So a rule is there before the first frame that it is for (else the switch caches that
such frames are dropped), and it goes when no switch sends to it any more.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass

from controller.rules import Match, Rule

Outputs = tuple[int, ...]
Rules = Mapping[Match, Outputs]


@dataclass(frozen=True, slots=True)
class AddGroup:
    """Make group `group_id` of type ALL: a copy of the frame to each port."""

    group_id: int
    outputs: Outputs


@dataclass(frozen=True, slots=True)
class SetFlow:
    """Add a flow, or replace the flow of the same match at once; to a port or to a group."""

    match: Match
    port: int | None
    group_id: int | None


@dataclass(frozen=True, slots=True)
class DeleteFlow:
    """Delete the flow of just this match."""

    match: Match


@dataclass(frozen=True, slots=True)
class DeleteGroup:
    """Delete a group that no flow uses any more."""

    group_id: int


@dataclass(frozen=True, slots=True)
class Barrier:
    """What comes before is done before anything after is begun."""


Message = AddGroup | SetFlow | DeleteFlow | DeleteGroup | Barrier


@dataclass(frozen=True, slots=True)
class Table:
    """What a switch has: outputs by match, and the group for each set of several outputs.

    A group never changes: a rule that shall send elsewhere is pointed at another group, so that
    all its copies change at once.
    """

    rules: Rules
    groups: Mapping[Outputs, int]


EMPTY = Table({}, {})


def make_rounds(
    old: Rules, new: Rules, entrances: Container[tuple[str, int | None]]
) -> tuple[Rules, Rules, Rules, Rules]:
    """All rules after each round: inner rules added, joined, narrowed, swept.

    `entrances` are the ports, as (switch, port), where hosts send frames into the network.
    """
    inner, joined = dict(old), dict(old)
    for match, outputs in new.items():
        if match not in old and (match.switch, match.in_port) not in entrances:
            inner[match] = outputs
        joined[match] = tuple(sorted({*old.get(match, ()), *outputs}))
    return inner, joined, {**old, **new}, new


def by_match(rules: Iterable[Rule]) -> dict[Match, Outputs]:
    """Rules by what they match."""
    return {rule.match: rule.outputs for rule in rules}


def change(table: Table, rules: Rules) -> tuple[Table, list[Message]]:
    """The table with `rules` in place of its own, and the messages that make it so.

    A group's number is the lowest that is free, given out in the order of the outputs: the same
    changes in the same order give the same numbers. No message is needed where nothing changes.
    """
    wanted = {outputs for outputs in rules.values() if len(outputs) > 1}
    groups = dict(table.groups)
    added: list[Message] = []
    for outputs in sorted(wanted - table.groups.keys()):
        groups[outputs] = _free(groups.values())
        added.append(AddGroup(groups[outputs], outputs))
    flows: list[Message] = [
        set_flow(match, outputs, groups)
        for match, outputs in rules.items()
        if table.rules.get(match) != outputs
    ]
    stale: list[Message] = [DeleteFlow(match) for match in table.rules if match not in rules]
    unused = [outputs for outputs in table.groups if outputs not in wanted]
    gone: list[Message] = [DeleteGroup(groups.pop(outputs)) for outputs in unused]
    messages: list[Message] = []
    for part in (added, [*flows, *stale], gone):
        if part:
            messages += [*part, Barrier()]
    return Table(dict(rules), groups), messages


def whole(table: Table) -> list[Message]:
    """The messages that fill an empty switch with the table, without barriers."""
    return [
        *(AddGroup(group_id, outputs) for outputs, group_id in table.groups.items()),
        *(set_flow(match, outputs, table.groups) for match, outputs in table.rules.items()),
    ]


def set_flow(match: Match, outputs: Outputs, groups: Mapping[Outputs, int]) -> SetFlow:
    """The flow of a rule: straight to a port, or to the group of its ports."""
    if len(outputs) == 1:
        return SetFlow(match, outputs[0], None)
    return SetFlow(match, None, groups[outputs])


def _free(used: Iterable[int]) -> int:
    taken = set(used)
    return next(number for number in range(1, len(taken) + 2) if number not in taken)
