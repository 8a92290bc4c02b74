"""The report of `deftbed doctor`: capabilities, the back ends that follow, and a verdict."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from testbed.substrate.probe import Capabilities, CapabilityError, choose, probe


def diagnose() -> dict[str, Any]:
    """Probe the host and report (see `report`)."""
    return report(probe())


def report(capabilities: Capabilities) -> dict[str, Any]:
    """A JSON-able report.

    "capabilities": [{"name", "available", "reason"}, ...]; "cores", "memory_bytes"; "able",
    whether a run is possible; "backends", what it would use, or None; "verdict", a sentence.
    """
    rows: list[dict[str, Any]] = [
        {"name": name, **asdict(capability)} for name, capability in capabilities.items()
    ]
    mounts = ", ".join(f"{name} at {path}" for name, path in capabilities.cgroup_mounts.items())
    rows.append(
        {
            "name": "cgroup",
            "available": capabilities.cgroup is not None,
            "reason": f"{capabilities.cgroup}: {mounts}" if mounts else "no usable tree mounted",
        }
    )
    try:
        backends = choose(capabilities)
    except CapabilityError as error:
        able, chosen, verdict = False, None, str(error)
    else:
        able, chosen = True, asdict(backends)
        verdict = (
            f"A run would use the {backends.datapath} datapath, links by {backends.link} and "
            f"cgroup {backends.cgroup}."
        )
    return {
        "capabilities": rows,
        "cores": capabilities.cores,
        "memory_bytes": capabilities.memory_bytes,
        "able": able,
        "backends": chosen,
        "verdict": verdict,
    }
