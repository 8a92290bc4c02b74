"""The progress of a command on the screen."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


@contextlib.contextmanager
def progress_bar(console: Console) -> Iterator[Callable[[str, float], None]]:
    """A bar; what it gives is told what is being done, and which share of all is done.

    The bar is there from the first time on that something is told. It shows the time left.
    """
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description:<28}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as bar:
        tasks: list[TaskID] = []

        def tell(what: str, share: float) -> None:
            if not tasks:
                tasks.append(bar.add_task("", total=1.0))
            bar.update(tasks[0], description=what, completed=share)

        yield tell
