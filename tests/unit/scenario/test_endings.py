"""Whatever ends a block: all of its clean-up is done, and the first error is what is told."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator

import pytest

from testbed.scenario.endings import Endings, carry_out, uninterrupted
from testbed.scenario.errors import RunError


def fails(words: str) -> None:
    raise RunError(words)


def test_every_step_is_done_and_the_first_error_is_raised_with_the_later_ones_noted() -> None:
    done: list[str] = []
    with pytest.raises(RunError) as caught, Endings() as endings:
        endings.add(done.append, "last")
        endings.add(fails, "the bridge stays")
        endings.add(done.append, "middle")
        endings.add(fails, "the folder stays")
        raise RunError("the run failed")
    assert done == ["middle", "last"]
    assert str(caught.value) == "the run failed"
    assert caught.value.__notes__ == ["and then: the folder stays", "and then: the bridge stays"]


def test_an_interruption_stays_one_though_cleaning_up_fails() -> None:
    with pytest.raises(KeyboardInterrupt) as caught, Endings() as endings:
        endings.add(fails, "the bridge stays")
        raise KeyboardInterrupt
    assert caught.value.__notes__ == ["and then: the bridge stays"]


def test_without_an_error_of_the_block_the_first_step_that_fails_is_it() -> None:
    done: list[str] = []
    with pytest.raises(RunError, match="first") as caught:
        carry_out(lambda: fails("first"), lambda: fails("second"), lambda: done.append("third"))
    assert done == ["third"]
    assert caught.value.__notes__ == ["and then: second"]


def test_notes_of_a_later_error_are_told_too() -> None:
    with pytest.raises(RunError) as caught, Endings() as endings:
        endings.add(carry_out, lambda: fails("b"), lambda: fails("c"))
        raise RunError("a")
    assert caught.value.__notes__ == ["and then: b", "and then: c"]


def test_context_managers_are_left_in_reverse_and_see_the_error() -> None:
    seen: list[str] = []

    @contextlib.contextmanager
    def room(name: str) -> Iterator[str]:
        try:
            yield name
        except RunError as error:
            seen.append(f"{name}: {error}")
            raise
        finally:
            seen.append(name)

    with pytest.raises(RunError), Endings() as endings:
        assert [endings.enter(room(name)) for name in "ab"] == ["a", "b"]
        raise RunError("x")
    assert seen == ["b: x", "b", "a: x", "a"]


@pytest.fixture
def terminating() -> Iterator[None]:
    """SIGTERM and Ctrl-C end what is under way, as in the command; also in a job without Ctrl-C."""

    def handler(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = {each: signal.signal(each, handler) for each in (signal.SIGINT, signal.SIGTERM)}
    yield
    for each, former in before.items():
        signal.signal(each, former)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_waits_until_the_block_is_done(terminating: None, number: int) -> None:
    done = False
    with pytest.raises(KeyboardInterrupt), uninterrupted():
        signal.raise_signal(number)
        signal.raise_signal(number)
        done = True
    assert done
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(number)  # its handler is what it was


def test_the_error_of_a_block_that_was_signalled_is_told(terminating: None) -> None:
    with pytest.raises(RunError, match="full") as caught, uninterrupted():
        signal.raise_signal(signal.SIGTERM)
        raise RunError("the disk is full")
    assert caught.value.__notes__ == ["and then: interrupted"]
