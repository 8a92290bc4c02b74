"""The report of `deftbed doctor`: capabilities, the back ends that follow, and a verdict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from testbed.scenario.errors import DeftbedError
from testbed.scenario.links import LinkChoice
from testbed.scenario.model import ToleranceSpec
from testbed.substrate.greatest_rate import GreatestRate, measure_greatest_rate
from testbed.substrate.host_facts import Facts, facts
from testbed.substrate.probe import Capabilities, CapabilityError, choose, probe

LINKS: tuple[LinkChoice, ...] = ("netem", "userspace")
"""Back ends whose links have a rate."""
LEADS_TO = {
    "root": ("runs", "nothing: every run needs it"),
    "open_vswitch": ("runs", "nothing: every run needs it"),
    "kernel_datapath": ("datapath kernel", "datapath netdev, in user space"),
    "netem": ("links by netem", "links by the line, a process of ours"),
    "realtime": ("real-time priorities", "usual priorities: longer tails of delay"),
    "tun": ("runs", "nothing: every run needs it"),
    "mnexec": ("runs", "nothing: every run needs it"),
    "cgroup": ("CPU accounting", "nothing: every run needs it"),
    "offloads": ("packets as they were sent", "nothing: every run switches them off"),
    "clock": ("stamps that cost little", "stamps that cost a system call each"),
    "captures": ("captures by dumpcap", "no captures"),
    "iperf3": ("the tests compare with it", "those tests are skipped"),
}
"""What follows from each capability: with it, and without it."""
REMEDIES = {
    "root": "start it with sudo",
    "open_vswitch": "sudo scripts/openvswitch.sh; if it is not installed: sudo make setup",
    "kernel_datapath": "install a kernel with the module openvswitch, then: modprobe openvswitch",
    "netem": "install a kernel with the module sch_netem (Debian: linux-image-amd64)",
    "realtime": "grant CAP_SYS_NICE, and let the cgroup have real-time time",
    "tun": "modprobe tun; in a container pass --device /dev/net/tun",
    "mnexec": "sudo make setup (Debian's packages mininet, net-tools, iproute2)",
    "cgroup": "mount the v2 tree with the cpu controller, or cpu and cpuacct of v1",
    "offloads": "install ethtool; use a kernel whose veth has ETHTOOL ioctls",
    "clock": "boot with clocksource=tsc, or let the hypervisor expose an invariant TSC",
    "captures": "sudo make setup (Debian's package tshark)",
    "iperf3": "sudo make setup (Debian's package iperf3)",
}
FAST_CLOCKS = ("tsc", "kvm-clock", "arch_sys_counter", "hyperv_clocksource_tsc_page")
"""Clock sources that are read without a system call."""


def diagnose() -> dict[str, Any]:
    """Probe the host, measure what its links carry, and report (see `report`)."""
    capabilities = probe()
    try:
        rates = [_rate(capabilities, link) for link in LINKS if _there(capabilities, link)]
    except CapabilityError:
        rates = []  # the verdict says why
    return report(capabilities, facts(), rates)


def _there(capabilities: Capabilities, link: LinkChoice) -> bool:
    return link != "netem" or capabilities.netem.available


def _rate(capabilities: Capabilities, link: LinkChoice) -> GreatestRate | str:
    """What links of a back end carry here, or why that was not measured."""
    backends = choose(capabilities, link)
    try:
        found = measure_greatest_rate(backends, ToleranceSpec())
    except (DeftbedError, OSError) as error:
        return f"{link}: not measured ({error})"
    return found if found is not None else f"{link}: no rate"


def report(
    capabilities: Capabilities, found: Facts, rates: Sequence[GreatestRate | str] = ()
) -> dict[str, Any]:
    """A JSON-able report.

    "capabilities": [{"name", "available", "reason", "leads_to", "remedy"}, ...], the remedy only
    for what is missing; "cores", "memory_bytes"; "host", further facts (see `host.Facts`);
    "greatest_rates", in words, what links of each back end carry here;
    "able", whether a run is possible; "backends", what it would use, or None; "verdict".
    """
    rows = [{"name": name, **asdict(each)} for name, each in capabilities.items()]
    rows += [_cgroup(capabilities), *_of_host(found)]
    for row in rows:
        row["leads_to"] = LEADS_TO[row["name"]][not row["available"]]
        row["remedy"] = None if row["available"] else REMEDIES[row["name"]]
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
        "host": asdict(found),
        "greatest_rates": [str(rate) for rate in rates],
        "able": able,
        "backends": chosen,
        "verdict": verdict,
    }


def _cgroup(capabilities: Capabilities) -> dict[str, Any]:
    mounts = ", ".join(f"{name} at {path}" for name, path in capabilities.cgroup_mounts.items())
    reason = f"{capabilities.cgroup}: {mounts}" if mounts else "no usable tree mounted"
    return {"name": "cgroup", "available": capabilities.cgroup is not None, "reason": reason}


def _of_host(found: Facts) -> list[dict[str, Any]]:
    dumpcap, iperf3 = found.versions.get("dumpcap"), found.versions.get("iperf3")
    fast = found.clock_source in FAST_CLOCKS
    return [
        {"name": "offloads", **asdict(found.offloads)},
        {"name": "clock", "available": fast, "reason": f"clock source {found.clock_source}"},
        {"name": "captures", "available": bool(dumpcap), "reason": dumpcap or "no dumpcap"},
        {"name": "iperf3", "available": bool(iperf3), "reason": iperf3 or "not installed"},
    ]
