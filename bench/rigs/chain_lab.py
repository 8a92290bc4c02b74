"""A chain of replica groups in namespaces, between an open-loop sender and a receiver.

    namespace   interfaces
    switch      p0, b0, p1, b1 ...: one to each member; sender and receiver are here too
    p0, p1 ...  the primaries: eth0 to the switch, repl to their backup
    b0, b1 ...  the backups: the same

The kernel duplicates, by tc: what the switch sends to a primary is mirrored to its backup (clsact,
egress), and what primary i sends is redirected to primary i + 1 (clsact, ingress). So a packet
costs one frame of the sender and a clone, in every mode alike: without replication the clone goes
to a namespace where nobody listens. There is no Open vSwitch: its cost is that of `substrate`.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.rigs.loadgen import Intake, Outcome, Received, Sent, outcome
from bench.rigs.stamped import (
    EPOCHS,
    FIRST_HOP,
    NUMBER_AT,
    PATH,
    REVERSE_PATH,
    TIME_AT,
    StampedLoad,
    receive_stamped,
    send_stamped,
)
from bench.rigs.workers import Place, Worker, namespaces, veth
from testbed.orchestration.deploying.spawner import Spawner
from testbed.orchestration.messages.control_client import ControlClient
from testbed.substrate.commands import run
from testbed.substrate.probe import CapabilityError
from testbed.substrate.processes import name_of

RX_FRAMES, TX_FRAMES, RECEIVER_FRAMES = 4096, 1024, 8192
BUFFER_PACKETS = 4096
REPLICATION_MTU = 65_535
ETHERNET_MTU = 1500
LEASE_NS, GAP_NS, RETRANSMIT_NS = 200_000_000, 50_000_000, 20_000_000
QUIET_NS = 400_000_000
LATE_NS = 2_000_000
START_S = 300.0
"""The first start may compile everything."""
BATCH_PACKETS = 80
SENDER, FORWARDER, RECEIVER, BACKUP = 20, 20, 30, 40
"""SCHED_FIFO priorities: whoever shares a core with the sender must not wait for it."""


@dataclass(frozen=True, slots=True)
class Cores:
    """Which core each kind of process runs on."""

    sender: int
    receiver: int
    primary: int
    backup: int


def choose_cores() -> Cores:
    """One for each kind if there are four; with fewer, the primaries alone have one of their own.

    Raises CapabilityError for a host with a single core.
    """
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        raise CapabilityError(f"{len(cores)} cores: expected 2 at least")
    if len(cores) >= 4:
        return Cores(*cores[:4])
    return Cores(sender=cores[0], receiver=cores[0], primary=cores[-1], backup=cores[0])


@dataclass(frozen=True, slots=True)
class Trial:
    """One load through the chain; `cpu_ns` is that of primaries and backups together."""

    sent: Sent
    outcome: Outcome
    cpu_ns: int

    @property
    def punctual(self) -> bool:
        """Whether frames were sent when they were due; else the trial tells nothing."""
        return self.sent.lag_p99_ns < LATE_NS and self.sent.sent == self.sent.count

    @property
    def cpu_us(self) -> float:
        """CPU time for a packet."""
        return self.cpu_ns / 1e3 / self.sent.count


@dataclass
class ChainLab:
    """The laboratory: made by `laboratory`, used by one group of processes after the other."""

    mark: str
    length: int
    cores: Cores
    folder: Path
    sender: Worker
    receiver: Worker
    spawner: Spawner
    control: ControlClient
    holders: dict[str, int]
    running: dict[str, int] = field(default_factory=dict)
    started: int = 0
    epoch: int = 0

    def start(self, name: str, target: str, config: dict[str, Any]) -> float:
        """Start a member ("p0", "b0" ...) and wait until it answers; the seconds that it took.

        It gets its priority only then: a start is more than a packet's work at a time.
        """
        self.started += 1
        unique = f"{name}-{self.started}"
        path = str(self.folder / f"{unique}.sock")
        config = {
            "name": unique,
            "interface": "eth0",
            "control_socket": path,
            "events": str(self.folder / "events.jsonl"),
            "dump": str(self.folder / f"{unique}.json"),
            "core": self.cores.primary if name[0] == "p" else self.cores.backup,
            **config,
        }
        begin = time.monotonic()
        self.running[unique] = self.spawner.start(
            unique,
            target,
            config,
            namespace_pid=self.holders[name],
        )
        self.control.call(path, "ping", START_S)
        took_s = time.monotonic() - begin
        priority = FORWARDER if name[0] == "p" else BACKUP
        os.sched_setscheduler(self.running[unique], os.SCHED_FIFO, os.sched_param(priority))
        return took_s

    def order(self, name: str, op: str, **fields: Any) -> dict[str, Any]:
        """Give the member that was last started as `name` an order; its answer."""
        unique = self.unique(name)
        return self.control.call(str(self.folder / f"{unique}.sock"), op, **fields)

    def unique(self, name: str) -> str:
        """The process that was last started as `name`."""
        return next(unique for unique in reversed(self.running) if unique.startswith(f"{name}-"))

    def end(self) -> None:
        """End all members."""
        self.spawner.end(list(self.running))
        self.running.clear()

    def trial(self, load: StampedLoad, hop: int, attempts: int = 3) -> Trial:
        """Send a load and see what comes out for `hop`; again if the sender was late."""
        for _ in range(attempts - 1):
            trial = self._trial(load, hop)
            if trial.punctual:
                return trial
        return self._trial(load, hop)

    def load(
        self, frame_bytes: int, flows: int, rate_pps: int, seconds: float, nap_ns: int
    ) -> StampedLoad:
        """A load that ends with a full batch, for modes that never send a part of one."""
        count = max(1, round(rate_pps * seconds / BATCH_PACKETS)) * BATCH_PACKETS
        return StampedLoad("p0", frame_bytes, flows, 0, count, rate_pps, nap_ns)

    def _trial(self, load: StampedLoad, hop: int) -> Trial:
        self.epoch = (self.epoch + 1) % EPOCHS
        load = StampedLoad(
            load.interface,
            load.frame_bytes,
            load.flows,
            self.epoch,
            load.count,
            load.rate_pps,
            load.nap_ns,
        )
        intake = Intake(
            f"p{self.length - 1}",
            ((PATH, hop),),
            NUMBER_AT,
            TIME_AT,
            load.count + load.count // 8 + 64,
            quiet_ns=QUIET_NS,
            nap_ns=1_000_000,
            rx_frames=RECEIVER_FRAMES,
        )
        self.receiver.begin(receive_stamped, intake)
        before_ns = self._cpu_ns()
        sent: Sent = self.sender.call(send_stamped, load)
        received: Received = self.receiver.result()
        return Trial(sent, outcome(load, received), self._cpu_ns() - before_ns)

    def _cpu_ns(self) -> int:
        return sum(process_cpu_ns(pid) for pid in self.running.values())


def process_cpu_ns(pid: int) -> int:
    """CPU time of a process so far, to the nanosecond (clock_getcpuclockid)."""
    return time.clock_gettime_ns(~pid << 3 | 2)


@contextlib.contextmanager
def laboratory(length: int) -> Iterator[ChainLab]:
    """Namespaces, interfaces and workers for a chain of `length`, which go with the context."""
    mark = f"dbc{os.getpid()}"
    cores = choose_cores()
    members = [f"{kind}{group}" for group in range(length) for kind in "pb"]
    switch = f"{mark}w"
    with contextlib.ExitStack() as stack:
        stack.enter_context(namespaces(switch, *(f"{mark}{member}" for member in members)))
        for group in range(length):
            _connect(mark, group)
        _steer(switch, length)
        folder = Path(tempfile.mkdtemp(prefix="deftbed-bench-"))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        holders = {member: stack.enter_context(_holder(f"{mark}{member}")) for member in members}
        spawner = stack.enter_context(Spawner(mark, folder))
        control = stack.enter_context(ControlClient(folder / "control"))
        sender = stack.enter_context(Worker(Place(switch, cores.sender, SENDER)))
        receiver = stack.enter_context(Worker(Place(switch, cores.receiver, RECEIVER)))
        yield ChainLab(mark, length, cores, folder, sender, receiver, spawner, control, holders)


def _connect(mark: str, group: int) -> None:
    primary, backup = f"{mark}p{group}", f"{mark}b{group}"
    for kind, space in (("p", primary), ("b", backup)):
        veth((f"{mark}w", f"{kind}{group}"), (space, "eth0"), ETHERNET_MTU)
    veth((primary, "repl"), (backup, "repl"), REPLICATION_MTU)
    for space, address in ((primary, member_address(0)), (backup, member_address(1))):
        run(["ip", "-n", space, "address", "add", f"{address}/30", "dev", "repl"])


def _steer(switch: str, length: int) -> None:
    every = "protocol all u32 match u32 0 0 action mirred egress"
    lines = []
    for group in range(length):
        lines.append(f"qdisc add dev p{group} clsact")
        lines.append(f"filter add dev p{group} egress {every} mirror dev b{group}")
        if group + 1 < length:
            lines.append(f"filter add dev p{group} ingress {every} redirect dev p{group + 1}")
    run(["tc", "-n", switch, "-batch", "-"], "\n".join(lines) + "\n")


@contextlib.contextmanager
def _holder(namespace: str) -> Iterator[int]:
    """A process in the namespace, to find it by; it ends with its standard input."""
    command = ["ip", "netns", "exec", namespace, "cat"]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as process:
        while name_of(process.pid) != "cat":
            if process.poll() is not None:
                raise OSError(f"{' '.join(command)}: ended with {process.returncode}")
            time.sleep(0.002)  # ip is still on its way into the namespace
        try:
            yield process.pid
        finally:
            process.kill()


def member_address(member: int) -> str:
    """The address of a member for replication; each group has the two for itself."""
    return f"10.79.0.{1 + member}"


def instance_config(
    group: int,
    member: int,
    function: str,
    function_config: dict[str, Any],
    mode: str,
    max_flows: int,
    epoch: int = 1,
) -> dict[str, Any]:
    """What `testbed.vnf.process.runtime.main` wants of a member, beside `ChainLab.start`."""
    return {
        "group": f"g{group}",
        "member": member,
        "function": function,
        "function_config": function_config,
        "mac": f"06:00:00:00:{group:02x}:{member:02x}",
        "paths": {
            "forward": {"path": PATH, "hop": FIRST_HOP + group},
            "reverse": {"path": REVERSE_PATH, "hop": FIRST_HOP + group},
        },
        "replication": {
            "mode": mode,
            "batch_packets": BATCH_PACKETS,
            "batch_ns": 0,
            "gap_timeout_ns": GAP_NS,
            "retransmit_ns": RETRANSMIT_NS,
            "lease_ns": LEASE_NS,
            "buffer_packets": BUFFER_PACKETS,
            "max_flows": max_flows,
        },
        "address": member_address(member),
        "port": 7000 + member,
        "cpu": None,
        "fdu": [],
        "heartbeat_ns": 100_000_000,
        "rx_frames": RX_FRAMES,
        "tx_frames": TX_FRAMES,
        "configuration": configuration(epoch, 0, [] if mode == "none" else [1]),
    }


def configuration(epoch: int, primary: int, backups: list[int]) -> dict[str, Any]:
    """What the failure detectors would say of a group."""
    members = {str(m): {"address": member_address(m), "port": 7000 + m} for m in range(2)}
    return {
        "epoch": epoch,
        "primary": primary,
        "backups": backups,
        "learners": [],
        "confirmed": True,
        "members": members,
    }
