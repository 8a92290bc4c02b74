"""The multi-pattern automaton, against a plain search and against pyahocorasick."""

from __future__ import annotations

import ahocorasick
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from testbed.scenario.errors import InputError
from testbed.vnf.functions import automaton
from testbed.vnf.functions.automaton import (
    ROOT,
    build,
    first_rule_state,
    is_state,
    next_rule_state,
    rule_at,
    walk,
)
from testbed.vnf.state.arrays import Words

AT = 5
"""Words before the automaton, to see that none is taken from a fixed place."""


def words_of(patterns: list[bytes]) -> Words:
    return np.concatenate([np.full(AT, -1, np.int64), build(patterns, "patterns")])


def matches(
    words: Words, text: bytes, begin: int = 0, state: int = ROOT
) -> tuple[set[tuple[int, int]], int]:
    """({(place behind the match, rule)}, state at the end)."""
    packet = np.frombuffer(text, np.uint8).copy()
    found = set()
    place, more = begin, 1
    while more:
        state, place, more = walk(packet, place, len(text), state, words, AT)
        number = first_rule_state(words, AT, state) if more else 0
        while number:
            found.add((place, rule_at(words, AT, number)))
            number = next_rule_state(words, AT, number)
    assert place == len(text) and is_state(words, AT, state)
    return found, state


def expected(patterns: list[bytes], text: bytes, begin: int = 0) -> set[tuple[int, int]]:
    return {
        (at, rule)
        for rule, pattern in enumerate(patterns)
        for at in range(begin + len(pattern), len(text) + 1)
        if text[at - len(pattern) : at] == pattern
    }


def by_pyahocorasick(patterns: list[bytes], text: bytes) -> set[tuple[int, int]]:
    peer = ahocorasick.Automaton()
    for rule, pattern in enumerate(patterns):
        peer.add_word(pattern.decode("latin-1"), rule)
    peer.make_automaton()
    return {(at + 1, rule) for at, rule in peer.iter(text.decode("latin-1"))}


few_letters = st.binary(min_size=1, max_size=6).map(lambda raw: bytes(b % 3 + 97 for b in raw))
patterns_of_few_letters = st.lists(few_letters, min_size=1, max_size=12, unique=True)


@settings(max_examples=300, deadline=None)
@given(patterns=patterns_of_few_letters, raw=st.binary(max_size=60), begin=st.integers(0, 3))
def test_finds_what_a_plain_search_finds(patterns: list[bytes], raw: bytes, begin: int) -> None:
    text = bytes(b % 4 + 97 for b in raw)
    begin = min(begin, len(text))
    words = words_of(patterns)
    assert matches(words, text, begin)[0] == expected(patterns, text, begin)
    assert matches(words, text)[0] == by_pyahocorasick(patterns, text)


@settings(max_examples=200, deadline=None)
@given(
    patterns=st.lists(st.binary(min_size=1, max_size=5), min_size=1, max_size=20, unique=True),
    text=st.binary(max_size=80),
)
def test_any_bytes(patterns: list[bytes], text: bytes) -> None:
    text = text + b"".join(patterns)
    assert matches(words_of(patterns), text)[0] == by_pyahocorasick(patterns, text)


@settings(max_examples=200, deadline=None)
@given(patterns=patterns_of_few_letters, raw=st.binary(max_size=40), cut=st.integers(0, 40))
def test_goes_on_where_it_stopped(patterns: list[bytes], raw: bytes, cut: int) -> None:
    text = bytes(b % 4 + 97 for b in raw)
    cut = min(cut, len(text))
    words = words_of(patterns)
    before, state = matches(words, text[:cut])
    after, end = matches(words, text[cut:], 0, state)
    together = before | {(place + cut, rule) for place, rule in after}
    assert (together, end) == matches(words, text)


def test_nothing_to_search_for() -> None:
    assert matches(words_of([]), b"anything") == (set(), ROOT)


def test_what_is_no_state_is_known() -> None:
    words = words_of([b"abc", b"bd"])
    states, classes = 6, 5
    legal = {state for state in range(-10, 100) if is_state(words, AT, state)}
    assert legal == {classes * number for number in range(states)}


def test_an_automaton_that_is_too_large_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(automaton, "MAX_TRANSITIONS", 19)
    assert len(build([b"abc"], "patterns"))  # 4 states of 4 classes
    with pytest.raises(InputError) as caught:
        build([b"abcd"], "idps.patterns")
    assert caught.value.field == "idps.patterns"


def test_many_patterns() -> None:
    patterns = [b"%d-" % (number * 7919 % 1_000_003) for number in range(20_000)]
    words = words_of(patterns)
    text = b"..".join(patterns[::1000])
    found = {rule for _, rule in matches(words, text)[0]}
    assert found >= set(range(0, 20_000, 1000))
    assert matches(words, text)[0] == by_pyahocorasick(patterns, text)
