"""Many byte patterns searched at once (Aho and Corasick, 1975), as a flat array of words.

The array is meant to be a part of a function's configuration, from `at` on:

    HEADER_WORDS   states, classes, rules
    256            the class of each byte; bytes that no pattern has are of class 0
    256            the root's transition for each byte, so that plain payload takes one look a byte
    states         the rule that ends in a state, plus 1; 0 if none does
    states         the next state on the way of failures in which a rule ends, or 0
    states x classes
                   transitions of the complete automaton: twice (the next state x classes), plus 1
                   if some rule ends there

A state is passed on as its number x classes, its place in the transitions. 0 is the root.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import numpy as np

from testbed.compiled import compiled
from testbed.scenario.errors import InputError
from testbed.vnf.state.arrays import Bytes, Words

ROOT = 0
HEADER_WORDS = 3
MAX_TRANSITIONS = 1 << 24
"""Of one automaton: 128 MiB."""

_STATES, _CLASSES = 0, 1
_CLASS_OF = HEADER_WORDS
_ROOT_OF = HEADER_WORDS + 256
_RULE_OF = HEADER_WORDS + 512


def build(patterns: Sequence[bytes], field: str) -> Words:
    """The automaton of different patterns, of which none is empty; rule n is `patterns[n]`.

    Raises InputError for `field` if the transitions would exceed `MAX_TRANSITIONS`.
    """
    used = sorted(set().union(*patterns))
    class_of = np.zeros(256, np.int64)
    class_of[used] = range(1, len(used) + 1)
    classes = len(used) + 1
    children, rule_of = _trie(patterns)
    states = len(children)
    if states * classes > MAX_TRANSITIONS:
        raise InputError(
            field,
            f"{states} states of {classes} byte classes",
            f"shorter or fewer patterns: at most {MAX_TRANSITIONS} transitions",
        )
    next_rule, transitions = _complete(children, rule_of, class_of, classes)
    ends = (rule_of > 0) | (next_rule > 0)
    cells = transitions * classes * 2 + ends[transitions]
    header = np.array([states, classes, len(patterns)], np.int64)
    root_of = cells[ROOT, class_of]
    return np.concatenate([header, class_of, root_of, rule_of, next_rule, cells.ravel()])


def _trie(patterns: Sequence[bytes]) -> tuple[list[dict[int, int]], Words]:
    """(children of each state, the rule that ends in each state plus 1)."""
    children: list[dict[int, int]] = [{}]
    ends: dict[int, int] = {}
    for number, pattern in enumerate(patterns):
        state = 0
        for byte in pattern:
            following = children[state].setdefault(byte, len(children))
            if following == len(children):
                children.append({})
            state = following
        ends[state] = number + 1
    rule_of = np.zeros(len(children), np.int64)
    rule_of[list(ends)] = list(ends.values())
    return children, rule_of


def _complete(
    children: list[dict[int, int]], rule_of: Words, class_of: Words, classes: int
) -> tuple[Words, Words]:
    """(next state with a rule on the way of failures, next state [states, classes])."""
    states = len(children)
    transitions = np.zeros((states, classes), np.int64)
    next_rule = np.zeros(states, np.int64)
    failure = np.zeros(states, np.int64)
    ahead = deque([ROOT])
    while ahead:
        state = ahead.popleft()
        # What the failure state, which is shorter and so complete, does with every byte.
        fallback = transitions[failure[state]].copy()
        transitions[state] = fallback
        for byte, child in children[state].items():
            failed = int(fallback[class_of[byte]]) if state != ROOT else ROOT
            failure[child] = failed
            next_rule[child] = failed if rule_of[failed] else next_rule[failed]
            transitions[state, class_of[byte]] = child
            ahead.append(child)
    return next_rule, transitions


@compiled
def walk(
    packet: Bytes, begin: int, end: int, state: int, automaton: Words, at: int
) -> tuple[int, int, int]:
    """Go over `packet[begin:end]` until a rule ends: (state, place, whether one does).

    `place` is behind the byte at which it ends; go on from there with the state for the next one.
    The automaton begins at word `at`.
    """
    transitions = at + _RULE_OF + 2 * automaton[at + _STATES]
    class_of = at + _CLASS_OF
    root_of = at + _ROOT_OF
    place = begin
    while place < end:
        if state == ROOT:
            while place < end and automaton[root_of + np.int64(packet[place])] == 0:
                place += 1
            if place == end:
                break
        cell = automaton[transitions + state + automaton[class_of + np.int64(packet[place])]]
        state = cell >> 1
        place += 1
        if cell & 1:
            return state, place, 1
    return state, place, 0


@compiled
def is_state(automaton: Words, at: int, state: int) -> bool:
    """Whether a number is a state as `walk` takes it."""
    classes = automaton[at + _CLASSES]
    return 0 <= state < automaton[at + _STATES] * classes and state % classes == 0


@compiled
def first_rule_state(automaton: Words, at: int, state: int) -> int:
    """The number of the first state in which a rule ends, from a state on, by failures; or 0."""
    number = state // automaton[at + _CLASSES]
    if automaton[at + _RULE_OF + number]:
        return number
    return next_rule_state(automaton, at, number)


@compiled
def next_rule_state(automaton: Words, at: int, number: int) -> int:
    """The number of the next state in which a rule ends, by failures; 0 after the last."""
    return int(automaton[at + _RULE_OF + automaton[at + _STATES] + number])


@compiled
def rule_at(automaton: Words, at: int, number: int) -> int:
    """The rule that ends in the state of this number, or -1."""
    return int(automaton[at + _RULE_OF + number]) - 1
