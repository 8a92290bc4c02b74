"""The commands `deftbed move` and `scale`: orders to a live run."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from testbed.cli.options import AsJson, console, need_root

Run = Annotated[
    str | None,
    typer.Argument(help="a run's id or results folder; by default the only run under way"),
]
RequestNumber = Annotated[
    int, typer.Option("--request", help="numbered by their arrival, from 0", min=0)
]
FunctionNumber = Annotated[
    int, typer.Option("--function", help="its place in the chain, from 0", min=0)
]


def move(
    request: RequestNumber,
    function: FunctionNumber,
    to: Annotated[str, typer.Option(help="the name of a node")],
    run: Run = None,
    shard: Annotated[
        int | None,
        typer.Option(help="this one alone; by default all where the first one is", min=0),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Move a function of a run that is under way to another server; nothing is lost."""
    order = {"request": request, "function": function, "to": to, "shard": shard}
    _order(run, "move", order, as_json)


def scale(
    request: RequestNumber,
    function: FunctionNumber,
    instances: Annotated[int, typer.Option(help="how many servers, at most its shards", min=1)],
    run: Run = None,
    as_json: AsJson = False,
) -> None:
    """Spread a function of a run that is under way over more servers, or over fewer."""
    order = {"request": request, "function": function, "instances": instances}
    _order(run, "scale", order, as_json)


def _order(run: str | None, op: str, order: dict[str, Any], as_json: bool) -> None:
    from testbed.lab.live_orders import describe, find_run, give_order

    need_root("give orders to a run")
    report = give_order(find_run(run), op, order)
    if as_json:
        print(json.dumps(report))
        return
    for line in describe(report):
        console.print(line, markup=False, soft_wrap=True)
