"""Commands about this host: `deftbed doctor` and `clean`."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from testbed.cli.options import EXIT_INPUT, AsJson, console, need_root


def doctor(as_json: AsJson = False) -> None:
    """Say what this host can do, and which back ends a run would choose."""
    from testbed.cli.screens.doctor_screen import print_report
    from testbed.substrate.doctor import diagnose

    report = diagnose()
    if as_json:
        print(json.dumps(report))
    else:
        print_report(report)
    if not report["able"]:
        raise typer.Exit(EXIT_INPUT)


def clean(
    dry_run: Annotated[bool, typer.Option(help="only say what would be removed")] = False,
    as_json: AsJson = False,
) -> None:
    """Remove what runs that died have left on this host; nothing else is touched."""
    from testbed.substrate.ownership import clean_stale

    need_root("clean")
    removed = clean_stale(dry_run=dry_run)
    if as_json:
        print(json.dumps({"removed": removed, "dry_run": dry_run}))
        return
    for line in removed:
        console.print(line, markup=False, soft_wrap=True)
    console.print("nothing to remove" if not removed else f"{len(removed)} things")
