"""Orders from the command line to a run that is under way on this host."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from testbed.orchestration.detection.fdu_client import is_there
from testbed.orchestration.messages.control_client import (
    ControlClient,
    ControlError,
    NoAnswer,
    OrderRefused,
)
from testbed.scenario.errors import InputError, RunError
from testbed.scenario.types import NS_PER_S
from testbed.substrate.ownership import live_runs, state_folder

ORDER_S = 300.0
"""How long a run may take to carry out an order: several moves, behind what it does already."""
LOOK_S = 1.0
"""Until it is looked whether the run is still there."""
FIELDS = ("request", "function", "instances", "moves", "failed", "duration_ns")


def find_run(asked: str | None) -> str:
    """The id of the run under way that is meant: by its id, its folder or one above it.

    None means the only one. Raises InputError.
    """
    runs = live_runs()
    if asked in runs:
        return asked
    found = list(runs)
    if asked is not None:
        path = Path(asked).resolve()
        found = [run_id for run_id in runs if runs[run_id].resolve().is_relative_to(path)]
    if len(found) != 1:
        listed = ", ".join(f"{run_id} ({folder})" for run_id, folder in runs.items())
        expected = (
            f"one of the runs under way: {listed}" if runs else "a run, but none is under way"
        )
        raise InputError("RUN", asked, expected)
    return found[0]


def give_order(run_id: str, op: str, order: Mapping[str, Any]) -> dict[str, Any]:
    """Let a run carry out an order; its report, see
    `testbed.orchestration.deploying.elastic.Report`.

    Raises InputError for a run that takes no orders yet, RunError if it refuses or does not answer.
    """
    folder = state_folder(run_id)
    socket = folder / "run.sock"
    if not socket.exists():
        raise InputError("RUN", run_id, "a run whose chains are being deployed or are in place")
    try:
        with ControlClient(folder / f"order-{os.getpid()}.sock") as client:
            answer = _call(client, str(socket), op, order)
    except OrderRefused as error:
        raise RunError(str(error.reply.get("error"))) from error
    except (ControlError, OSError) as error:
        raise RunError(f"run {run_id}: {error}") from error
    return {"run": run_id, **{name: answer[name] for name in FIELDS}}


def _call(client: ControlClient, socket: str, op: str, order: Mapping[str, Any]) -> dict[str, Any]:
    """Wait for the answer as long as the run is there."""
    deadline = time.monotonic() + ORDER_S
    number = client.post(socket, op, time.monotonic() + LOOK_S, **order)
    while True:
        try:
            return client.answer(socket, op, number, time.monotonic() + LOOK_S)
        except NoAnswer:
            if not is_there(socket):
                raise ControlError(f"it ended before it had answered to {op}") from None
            if time.monotonic() > deadline:
                raise


def describe(report: Mapping[str, Any]) -> Iterator[str]:
    """The report in words, line by line."""
    for each in report["moves"]:
        held_ms, took_s = 1e3 * each["held_ns"] / NS_PER_S, each["duration_ns"] / NS_PER_S
        way = f"{each['group']}: {each['from']} to {each['to']}"
        yield f"{way}, inputs held for {held_ms:.1f} ms, {took_s:.2f} s in all"
    for each in report["failed"]:
        yield f"shard {each['shard']} stays where it is: {each['error']}"
    took_s = report["duration_ns"] / NS_PER_S
    name = f"request {report['request']}, function {report['function']}"
    servers = "server" if report["instances"] == 1 else "servers"
    yield f"{name}: at {report['instances']} {servers} now, after {took_s:.2f} s"
