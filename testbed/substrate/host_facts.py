"""Facts about the host beside what decides the back ends: they explain a run's figures."""

from __future__ import annotations

import os
import platform
import shutil
from dataclasses import dataclass
from pathlib import Path

from testbed.substrate.commands import CommandError, run
from testbed.substrate.probe import Capability, namespace

QDISCS = ("netem", "htb", "tbf", "fq", "fq_codel", "clsact")
_ASKED = {
    "netem": ["delay", "1ms"],
    "tbf": ["rate", "10mbit", "burst", "10kb", "latency", "10ms"],
}
_TOOLS = {
    "ip": ["ip", "-V"],
    "Mininet": ["mnexec", "-v"],
    "tshark": ["tshark", "--version"],
    "dumpcap": ["dumpcap", "--version"],
    "iperf3": ["iperf3", "--version"],
}
_PRIVILEGES = {"CAP_NET_ADMIN": 12, "CAP_NET_RAW": 13, "CAP_SYS_ADMIN": 21, "CAP_SYS_NICE": 23}


@dataclass(frozen=True, slots=True)
class Facts:
    """kernel, cpu, clock source, versions of tools by name (None: not installed), and more.

    qdiscs          by name, tried in a namespace of their own; empty if only root can try
    datapaths       what Open vSwitch says that it supports
    privileges      capabilities of this process by name
    offloads        whether what merges or leaves unsummed packets can be switched off
    """

    kernel: str
    cpu: str
    clock_source: str
    versions: dict[str, str | None]
    qdiscs: dict[str, bool]
    datapaths: tuple[str, ...]
    privileges: dict[str, bool]
    offloads: Capability


def facts() -> Facts:
    """Look at the host; changes nothing that outlives the call."""
    root = os.geteuid() == 0
    return Facts(
        kernel=f"{platform.release()} {platform.machine()}",
        cpu=_cpu(),
        clock_source=_read("/sys/devices/system/clocksource/clocksource0/current_clocksource"),
        versions={"Python": platform.python_version(), **{n: _version(n) for n in _TOOLS}},
        qdiscs=_qdiscs() if root else {},
        datapaths=_datapaths(),
        privileges=_privileges(),
        offloads=_offloads() if root else Capability(False, "only root can try it"),
    )


def _read(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return "unknown"


def _cpu() -> str:
    for line in _read("/proc/cpuinfo").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or "unknown"


def _version(name: str) -> str | None:
    command = _TOOLS[name]
    if shutil.which(command[0]) is None:
        return None
    try:
        text = run(command).strip()
    except CommandError as error:
        text = str(error)
    first = text.splitlines()[0] if text else "installed"
    return first[:60]


def _datapaths() -> tuple[str, ...]:
    try:
        found = run(["ovs-vsctl", "--timeout=5", "get", "Open_vSwitch", ".", "datapath_types"])
    except CommandError:
        return ()
    return tuple(sorted(found.strip("[]\n ").replace(",", " ").split()))


def _privileges() -> dict[str, bool]:
    for line in _read("/proc/self/status").splitlines():
        if line.startswith("CapEff:"):
            held = int(line.split()[1], 16)
            return {name: bool(held >> bit & 1) for name, bit in _PRIVILEGES.items()}
    return {}


def _qdiscs() -> dict[str, bool]:
    try:
        with namespace() as inside:
            pair = ["probe0", "type", "veth", "peer", "name", "probe1"]
            run([*inside, "ip", "link", "add", *pair])
            return {name: _takes(inside, name) for name in QDISCS}
    except CommandError:
        return {}


def _takes(inside: list[str], name: str) -> bool:
    parent = "clsact" if name == "clsact" else "root"
    words = ["tc", "qdisc", "replace", "dev", "probe0", parent]
    if name != "clsact":
        words += [name, *_ASKED.get(name, [])]
    try:
        run([*inside, *words])
        return name in run([*inside, "tc", "qdisc", "show", "dev", "probe0"])
    except CommandError:
        return False


def _offloads() -> Capability:
    try:
        with namespace() as inside:
            pair = ["probe0", "type", "veth", "peer", "name", "probe1"]
            run([*inside, "ip", "link", "add", *pair])
            switched = ["tso", "off", "gso", "off", "gro", "off", "tx", "off", "rx", "off"]
            run([*inside, "ethtool", "-K", "probe0", *switched])
            shown = run([*inside, "ethtool", "-k", "probe0"])
    except CommandError as error:
        return Capability(False, f"they stay on ({error})")
    names = ("tcp-segmentation-offload", "generic-receive-offload", "tx-checksumming")
    on = [name for name in names if f"{name}: on" in shown]
    if on:
        return Capability(False, f"{', '.join(on)} stay on")
    return Capability(True, "segmentation, merging and checksums can be switched off")
