"""Prints the report of `deftbed doctor`."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from testbed.cli.screens.tables import FittedTable, names, words


def print_report(report: dict[str, Any], console: Console | None = None) -> None:
    """The host, its capabilities with what follows, what to do, and the verdict."""
    out = console or Console(highlight=False)
    host = report["host"]
    out.print("This host", style="bold")
    out.print(_facts(report, host))
    out.print("What it can do, and what follows", style="bold")
    signs = {True: Text("yes", "green"), False: Text("no", "yellow")}
    rows = [
        (signs[row["available"]], row["name"].replace("_", " "), row["reason"], row["leads_to"])
        for row in report["capabilities"]
    ]
    columns = (names(""), names("capability"), words("found"), words("so a run has"))
    out.print(FittedTable(columns, tuple(rows), keys=2))
    missing = [row for row in report["capabilities"] if row["remedy"]]
    if missing:
        out.print("To have what is missing", style="bold")
        for row in missing:
            out.print(f"  {row['name']}: {row['remedy']}", markup=False, soft_wrap=True)
        out.print()
    style = "bold green" if report["able"] else "bold red"
    out.print(report["verdict"], style=style, markup=False, soft_wrap=True)


def _facts(report: dict[str, Any], host: dict[str, Any]) -> Table:
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    gib = report["memory_bytes"] / (1 << 30)
    table.add_row("kernel", host["kernel"])
    table.add_row("cpu", f"{report['cores']} cores of {host['cpu']}, {gib:.1f} GiB of memory")
    table.add_row("clock source", host["clock_source"])
    table.add_row("queueing", _listed(host["qdiscs"]) or "only root can try")
    table.add_row("datapaths", ", ".join(host["datapaths"]) or "Open vSwitch does not answer")
    table.add_row("links", _plain("; ".join(report["greatest_rates"])) or "only root can measure")
    table.add_row("privileges", _listed(host["privileges"]))
    for name, version in host["versions"].items():
        table.add_row(name, _plain(version or "not installed"))
    return table


def _listed(having: dict[str, bool]) -> str:
    return ", ".join(name if there else f"[dim]no {name}[/]" for name, there in having.items())


def _plain(text: str) -> str:
    return text.replace("[", "\\[")
