"""What this host can do, found by trying, and which back ends follow from it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

from testbed.scenario.errors import DeftbedError
from testbed.scenario.links import LinkChoice
from testbed.substrate import cgroups
from testbed.substrate.commands import CommandError, run

_OVS_WAIT_S = 5
_HOLD_S = 30


class CapabilityError(DeftbedError):
    """The host lacks what every run needs: says what, why, and what to do. Nothing was built."""

    exit_status = 2


@dataclass(frozen=True, slots=True)
class Capability:
    """Whether the host has something, and how that was found or what is missing."""

    available: bool
    reason: str


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What this host can do. `cgroup` is the version that can account CPU time, if any."""

    root: Capability
    open_vswitch: Capability
    kernel_datapath: Capability
    netem: Capability
    realtime: Capability
    tun: Capability
    mnexec: Capability
    cgroup: Literal["v1", "v2"] | None
    cgroup_mounts: dict[str, str]
    cores: int
    memory_bytes: int

    def to_json(self) -> dict[str, Any]:
        """As an object for the manifest."""
        return asdict(self)

    def items(self) -> list[tuple[str, Capability]]:
        """The yes-or-no capabilities by name."""
        values = ((field.name, getattr(self, field.name)) for field in fields(self))
        return [(name, value) for name, value in values if isinstance(value, Capability)]


@dataclass(frozen=True, slots=True)
class Backends:
    """How the substrate is emulated; recorded in the manifest."""

    datapath: Literal["kernel", "netdev"]
    link: Literal["netem", "userspace", "none"]
    cgroup: Literal["v1", "v2"]


def probe() -> Capabilities:
    """Look at the host; changes nothing that outlives the call."""
    root = _root()
    version, where = _cgroup()
    return Capabilities(
        root=root,
        open_vswitch=_open_vswitch(),
        kernel_datapath=_kernel_datapath(),
        netem=_netem() if root.available else Capability(False, "only root can try it"),
        realtime=_realtime(),
        tun=_tun(),
        mnexec=_tools(),
        cgroup=version,
        cgroup_mounts=where,
        cores=len(os.sched_getaffinity(0)),
        memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
    )


def choose(
    capabilities: Capabilities, link: LinkChoice = "auto", beyond_netem: str | None = None
) -> Backends:
    """The back ends for this host; CapabilityError, naming all that is missing, if it cannot run.

    The kernel's datapath and netem are preferred; without them the userspace datapath and the
    line do their work, and the manifest says so. `beyond_netem` is what the links ask for that
    netem cannot do, if there is something (see `netem.lacking`).
    """
    needed = ("root", "open_vswitch", "tun", "mnexec")
    missing = [
        f"{name}: {capability.reason}"
        for name, capability in capabilities.items()
        if name in needed and not capability.available
    ]
    if capabilities.cgroup is None:
        missing.append("cgroup: neither a v2 tree nor the cpu and cpuacct trees of v1 are mounted")
    if link == "netem" and not capabilities.netem.available:
        missing.append(f"netem, which the scenario asks for: {capabilities.netem.reason}")
    if link == "netem" and beyond_netem is not None:
        missing.append(f"netem cannot do what the links ask for: {beyond_netem}")
    if missing or capabilities.cgroup is None:
        raise CapabilityError("this host cannot run an emulation: " + "; ".join(missing))
    netem = capabilities.netem.available and beyond_netem is None
    automatic: Literal["netem", "userspace"] = "netem" if netem else "userspace"
    return Backends(
        datapath="kernel" if capabilities.kernel_datapath.available else "netdev",
        link=link if link != "auto" else automatic,
        cgroup=capabilities.cgroup,
    )


def _root() -> Capability:
    if os.geteuid() == 0:
        return Capability(True, "effective user is root")
    return Capability(False, f"effective user is {os.geteuid()}; start it with sudo")


def _open_vswitch() -> Capability:
    try:
        wait = f"--timeout={_OVS_WAIT_S}"
        version = run(["ovs-vsctl", wait, "get", "Open_vSwitch", ".", "ovs_version"])
        run(["ovs-appctl", wait, "-t", "ovs-vswitchd", "version"])
    except CommandError as error:
        return Capability(False, f"{error}; start it with: ovs-ctl start")
    return Capability(True, f"running, version {version.strip().strip(chr(34))}")


def _kernel_datapath() -> Capability:
    if Path("/sys/module/openvswitch").is_dir():
        return Capability(True, "module openvswitch is loaded")
    try:
        run(["modprobe", "-n", "openvswitch"])
    except CommandError as error:
        return Capability(False, f"no module openvswitch ({error}); the userspace datapath serves")
    return Capability(True, "module openvswitch can be loaded")


def _netem() -> Capability:
    try:
        with namespace() as inside:
            run([*inside, "ip", "link", "add", "probe0", "type", "veth", "peer", "name", "probe1"])
            asked = ["delay", "5ms", "rate", "10mbit", "limit", "100"]
            run([*inside, "tc", "qdisc", "add", "dev", "probe0", "root", "netem", *asked])
            shown = run([*inside, "tc", "qdisc", "show", "dev", "probe0"])
    except CommandError as error:
        return Capability(False, f"tc refuses netem ({error}); the userspace line serves")
    if "netem" not in shown:
        return Capability(
            False, f"tc took netem but shows {shown.strip()!r}; the userspace line serves"
        )
    return Capability(True, "tc sets and shows it")


@contextmanager
def namespace() -> Iterator[list[str]]:
    """A namespace that goes with its process; the words that start a command in it."""
    # The child says its number when it is in its namespace, and ends with its input.
    code = "import os, sys; print(os.getpid(), flush=True); sys.stdin.read()"
    words = ["timeout", str(_HOLD_S), "unshare", "--net", sys.executable, "-c", code]
    try:
        holder = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    except OSError as error:
        raise CommandError(f"unshare: {error}") from error
    with holder:
        inside = b"" if holder.stdout is None else holder.stdout.readline()
        if not inside.endswith(b"\n"):
            raise CommandError("unshare --net: refused")
        yield ["nsenter", "--net", "--target", inside.decode().strip()]
        if holder.stdin is not None:
            holder.stdin.close()


def _realtime() -> Capability:
    """Tried in a child, so that the caller's own class stays as it is."""
    child = os.fork()
    if child == 0:
        try:
            os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
        except OSError:
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if status == 0:
        return Capability(True, "SCHED_FIFO is granted")
    return Capability(False, "SCHED_FIFO is refused; expect longer tails of delay")


def _tun() -> Capability:
    try:
        os.close(os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        return Capability(False, f"/dev/net/tun: {error.strerror}; load it with: modprobe tun")
    return Capability(True, "/dev/net/tun opens")


def _tools() -> Capability:
    """Mininet's helper and the tools that Mininet and the substrate call."""
    needed = ("mnexec", "ifconfig", "ip", "tc", "unshare", "nsenter")
    missing = [name for name in needed if shutil.which(name) is None]
    if missing:
        return Capability(
            False, f"not found: {', '.join(missing)}; install mininet, net-tools, iproute2"
        )
    if os.geteuid() == 0:
        # Mininet would wait for ever for a host whose mnexec has failed (in a chroot that is no
        # mount point, for one).
        try:
            run(["mnexec", "-n", "true"])
        except CommandError as error:
            return Capability(False, f"mnexec makes no namespace here ({error})")
    return Capability(True, "mnexec makes namespaces; ifconfig, ip and tc are installed")


def _cgroup() -> tuple[Literal["v1", "v2"] | None, dict[str, str]]:
    """The version in use. A v2 tree without the cpu controller stands beside a v1 tree."""
    unified = cgroups.mounts("v2")
    if unified:
        controllers = (unified["unified"] / "cgroup.controllers").read_text().split()
        if "cpu" in controllers:
            return "v2", {name: str(path) for name, path in unified.items()}
    old = cgroups.mounts("v1")
    if {"cpu", "cpuacct"} <= old.keys():
        return "v1", {name: str(path) for name, path in old.items()}
    return None, {}
