"""What is done at the end, whatever that is: every step, and the first error stays the first."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any, TypeVar

Entered = TypeVar("Entered")
_Exit = Callable[[type[BaseException] | None, BaseException | None, TracebackType | None], object]
HELD = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Endings:
    """Steps for the end of a block: the last one that was added is carried out first.

    All are carried out, though one fails. What is raised then is the first error: the block's, or
    that of the first step that failed. Later ones are noted on it (`add_note`), so that a person
    is told of them below it. A step cannot make an error go away.
    """

    def __init__(self) -> None:
        self._steps: list[_Exit] = []

    def __enter__(self) -> Endings:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        first = error
        while self._steps:
            step = self._steps.pop()
            try:
                step(None if first is None else type(first), first, _trace_of(first))
            except BaseException as later:  # raised below, or noted on what is raised
                if first is None:
                    first = later
                elif later is not first:
                    note(first, later)
        if first is not None and first is not error:
            raise first

    def close(self) -> None:
        """Carry out the steps now; raises the first error."""
        self.__exit__(None, None, None)

    def enter(self, manager: AbstractContextManager[Entered]) -> Entered:
        """Enter a context manager, and leave it at the end; what it gives."""
        value = manager.__enter__()
        self._steps.append(manager.__exit__)
        return value

    def add(self, step: Callable[..., object], *arguments: Any) -> None:
        """Call `step` with `arguments` at the end."""
        self._steps.append(lambda *_: step(*arguments))


def carry_out(*steps: Callable[[], object]) -> None:
    """Call each step in this order, also after one that failed; raises the first error."""
    with Endings() as endings:
        for step in reversed(steps):
            endings.add(step)


def clean_up(error: BaseException, step: Callable[[], object]) -> None:
    """Call `step` because of `error`, which the caller raises: it stays the one that is told."""
    try:
        step()
    except BaseException as later:  # noted on what is raised
        note(error, later)


def note(first: BaseException, later: BaseException) -> None:
    """Note on an error one that came after it, with what was noted on that."""
    words = str(later) or type(later).__name__
    for line in (f"and then: {words}", *getattr(later, "__notes__", ())):
        first.add_note(line)


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Signals that end a command wait until the end of the block, which has to be short.

    If the block fails meanwhile, its error ends the command, and the signal is noted on it. Python
    runs handlers in the main thread alone: in another one nothing has to be held.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    before = {number: signal.signal(number, lambda sent, _: came.append(sent)) for number in HELD}
    try:
        yield
    except BaseException as error:
        if came:
            error.add_note("and then: interrupted")
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if came:
        signal.raise_signal(came[0])


def _trace_of(error: BaseException | None) -> TracebackType | None:
    return None if error is None else error.__traceback__
