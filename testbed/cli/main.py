"""The command `deftbed`.

Exit status: 0 done; 1 a run failed, or refused an order; 2 bad input, or a host that cannot do
what was asked (nothing was built); 130 interrupted (what was measured is kept).
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from types import FrameType
from typing import Any

import typer
from typer.core import TyperGroup
from typer.exceptions import TyperException

from testbed.cli import (
    bench,
    evaluate,
    faults,
    host,
    orders,
    packet_trace,
    runs,
    scenario,
    throughput,
    training,
    twin_fitting,
)
from testbed.cli.options import EXIT_FAILED, EXIT_INPUT, console
from testbed.scenario.errors import DeftbedError, Interrupted

INTERRUPT_AGAIN_S = 0.01
COMMANDS: tuple[Callable[..., None], ...] = (
    scenario.check,
    host.doctor,
    runs.run,
    runs.compare,
    runs.report,
    training.train,
    training.tune,
    training.export,
    evaluate.evaluate,
    twin_fitting.calibrate,
    twin_fitting.validate,
    faults.faults,
    throughput.throughput,
    packet_trace.trace,
    orders.move,
    orders.scale,
    bench.bench,
    host.clean,
)
"""Every command, in the order in which help lists them; a command is named as its function."""
CONTEXTS: Mapping[str, dict[str, Any]] = {"bench": bench.OWN_OPTIONS}


class _Commands(TyperGroup):
    """The commands; an interrupt keeps what was noted on it, which typer would throw away."""

    def invoke(self, ctx: Any) -> Any:
        """As typer does it."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as interrupt:
            raise Interrupted(interrupt) from interrupt


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="A testbed for stateful network functions: emulate, place, break, measure.",
)
for _command in COMMANDS:
    app.command(context_settings=CONTEXTS.get(_command.__name__))(_command)


def _on_signal(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _on_ignored(ignored: sys.UnraisableHookArgs) -> None:
    """Send an interrupt again that came inside a destructor, where Python ignores errors."""
    if ignored.exc_type is KeyboardInterrupt:
        again = threading.Timer(INTERRUPT_AGAIN_S, os.kill, (os.getpid(), signal.SIGTERM))
        again.daemon = True
        again.start()
    else:
        sys.__unraisablehook__(ignored)


def main(arguments: list[str] | None = None) -> None:
    """Entry point of the command `deftbed`."""
    # A closed terminal or a SIGTERM ends a run like Ctrl-C: in order, and cleaned up.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _on_signal)
    sys.unraisablehook = _on_ignored
    sys.exit(_status(lambda: app(args=arguments, standalone_mode=False)))


def _tell(words: str, error: BaseException) -> None:
    """Say what happened on standard error, and below it what was noted on the error."""
    for line in (f"deftbed: {words}", *getattr(error, "__notes__", ())):
        console.print(line, style="red", markup=False, soft_wrap=True)


def _status(command: Callable[[], Any]) -> int:
    try:
        code = command()
        return code if isinstance(code, int) else 0
    except DeftbedError as error:
        _tell(str(error), error)
        return error.exit_status
    except OSError as error:  # a disk that is full, a folder that may not be written
        _tell(str(error), error)
        return EXIT_FAILED
    except typer.Exit as end:
        return end.exit_code
    except TyperException as error:
        console.print(error.format_message(), markup=False)
        return EXIT_INPUT
    except (KeyboardInterrupt, typer.Abort) as error:  # before a command began
        ended = Interrupted(error)
        _tell(str(ended), ended)
        return ended.exit_status
