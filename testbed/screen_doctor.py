"""What `deftbed doctor` shows on the screen."""

from __future__ import annotations

from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table


def print_report(report: dict[str, Any], console: Console | None = None) -> None:
    """The host, its capabilities with what follows, what to do, and the verdict."""
    out = console or Console(highlight=False)
    host = report["host"]
    out.print("This host", style="bold")
    out.print(_facts(report, host))
    out.print("What it can do, and what follows", style="bold")
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("")
    table.add_column("capability", no_wrap=True)
    table.add_column("found", overflow="fold", ratio=3)
    table.add_column("so a run has", overflow="fold", ratio=2)
    for row in report["capabilities"]:
        sign = "[green]yes[/]" if row["available"] else "[yellow]no[/]"
        table.add_row(sign, row["name"].replace("_", " "), _plain(row["reason"]), row["leads_to"])
    out.print(table)
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
