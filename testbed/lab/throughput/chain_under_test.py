"""One chain of a scenario on the emulated network, and trials of packets and of TCP through it."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil

from testbed.lab.lab import Lab
from testbed.lab.throughput.search import Trial
from testbed.lab.throughput.tcp import IperfError
from testbed.orchestration.deploying import chain, deploy, users
from testbed.orchestration.deploying.chain import destination_port, user_address
from testbed.records.packets import Scheduled, build_packets
from testbed.records.raw import (
    SCHEDULE_DTYPE,
    Records,
    read_array,
    read_arrivals,
    schedule_path,
    sent_path,
)
from testbed.results.metrics import measure, of_packets
from testbed.scenario.names import instance_name, sender_name, user_name
from testbed.scenario.types import NS_PER_S, Placement, Request
from testbed.statistics.quantiles import nearest_rank

SETTLE_S = 2.0
"""How long packets that are still on their way are waited for (RFC 2544 section 23)."""
LEAD_S = 0.2
ANSWER_S = 10.0
LISTEN_S = 10.0
_POLL_S = 0.05


def even_schedule(rate_pps: float, seconds: float, flows: int, begin_ns: int) -> Records:
    """`rate_pps` x `seconds` packets, evenly spaced from `begin_ns` on, round the flows."""
    count = max(1, round(rate_pps * seconds))
    schedule = np.empty(count, SCHEDULE_DTYPE)
    schedule["flow"] = np.arange(count) % flows
    schedule["seq"] = np.arange(count) // flows
    schedule["scheduled_ns"] = begin_ns + (np.arange(count) * (NS_PER_S / rate_pps)).astype(
        np.int64
    )
    return schedule


def read_trial(
    raw: Path, number: int, chain_name: str, l3_bytes: int, destination: int
) -> pd.DataFrame:
    """The packets of a trial from the folder of raw records, with those of `results.packets`.

    Raises RawFormatError.
    """
    schedule = read_array(schedule_path(raw, number), SCHEDULE_DTYPE)
    sent = read_array(sent_path(raw / "sent", number), np.dtype(np.int64))
    arrivals = read_arrivals(raw / f"received-{destination}").records
    planned = Scheduled(number, chain_name, l3_bytes, schedule)
    return build_packets([planned], {number: sent}, arrivals[arrivals["request"] == number])


@dataclass
class ChainUnderTest:
    """A chain that is deployed, with its sender and receiver."""

    lab: Lab
    request: Request
    placements: Sequence[Placement]
    l3_bytes: int
    deployed: deploy.Chain
    origin_ns: int
    trials: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def set_up(
        cls, lab: Lab, request: Request, placements: Sequence[Placement], l3_bytes: int
    ) -> ChainUnderTest:
        """Deploy the chain and start its sender and receiver; raises DeployError."""
        deployed = deploy.deploy(lab.site, request, placements)
        users.start_traffic(lab.site)
        origin_ns = users.begin(lab.site, LEAD_S, lambda _: None)
        return cls(lab, request, placements, l3_bytes, deployed, origin_ns)

    def trial(self, rate_pps: float, seconds: float, pause_s: float) -> Trial:
        """Send at a rate and count what arrives; what was recorded is kept in `trials`."""
        self._restore()
        time.sleep(pause_s)
        number = len(self.trials)
        self._write_schedule(number, rate_pps, seconds)
        psutil.cpu_percent()
        self._send(number)
        idle = 100 - psutil.cpu_percent()
        time.sleep(SETTLE_S)
        raw, chain_name = Path(self.lab.site.raw("")), self.request.chain
        frame = read_trial(raw, number, chain_name, self.l3_bytes, self.request.destination)
        sent = frame[frame["sent_ns"].notna()]
        lag = (sent["sent_ns"] - sent["scheduled_ns"]).to_numpy(dtype=np.int64)
        lag_ns = nearest_rank(lag, 0.99)
        limit_ns = self.lab.site.scenario.tolerances.sender_lag_p99_s * NS_PER_S
        found = measure(of_packets(frame))
        punctual = lag_ns is not None and lag_ns <= limit_ns and len(sent) == len(frame)
        trial = Trial(rate_pps, found["sent"], found["received"], punctual)
        self.trials.append(
            {
                "number": number,
                "rate_pps": rate_pps,
                "seconds": seconds,
                "punctual": punctual,
                "sender_lag_p99_ns": lag_ns,
                "host_idle_percent": round(idle, 1),
                "metrics": found,
            }
        )
        return trial

    def _write_schedule(self, number: int, rate_pps: float, seconds: float) -> None:
        begin_ns = time.monotonic_ns() - self.origin_ns + round(LEAD_S * NS_PER_S)
        schedule = even_schedule(rate_pps, seconds, self.request.flows, begin_ns)
        np.save(self.lab.site.raw(f"schedule-{number}.npy"), schedule)

    def _send(self, number: int) -> None:
        """Let the sender send the schedule of a trial, until it is through."""
        site, request = self.lab.site, self.request
        sender = site.socket(sender_name(request.source))
        stream = {
            "request": number,  # so its packets are told from those of the other trials
            "destination": user_address(request.destination),
            "destination_port": destination_port(request.id),
            "source_port_base": chain.source_port_base(request.id),
            "l3_bytes": self.l3_bytes,
            "schedule": site.raw(f"schedule-{number}.npy"),
        }
        site.control.call(sender, "add-stream", ANSWER_S, stream=stream)
        while site.control.call(sender, "stats", ANSWER_S)["active"]:
            time.sleep(_POLL_S)

    def _restore(self) -> None:
        """Deploy the chain anew if overload cost a group a member: it would hold its outputs."""
        site = self.lab.site
        for key, group in self.deployed.members.items():
            for member in group:
                name = instance_name(self.request, key, member)
                stats = site.control.call(site.socket(name), "stats", ANSWER_S)
                primary = self.deployed.primaries[key] == member
                whole = stats["role"] == ("primary" if primary else "backup")
                if not whole or (primary and len(stats["required"]) != len(group) - 1):
                    site.events.write("chain-restored", request=self.request.id, instance=name)
                    deploy.remove(site, self.deployed)
                    self.deployed = deploy.deploy(site, self.request, self.placements)
                    return

    def tcp(self, seconds: int, rate: str | None = None) -> dict[str, Any]:
        """Send TCP through the chain for a while; the report of iperf3's client.

        `rate` bounds it, e.g. "100K". Raises IperfError.
        """
        self._restore()
        address, port = user_address(self.request.destination), destination_port(self.request.id)
        target = user_name(self.request.destination)
        server = self._inside(target, "iperf3", "-s", "-1", "-p", str(port))
        try:
            self._await_listening(target, port)
            command = ["iperf3", "-c", address, "-p", str(port), "-t", str(seconds), "-J"]
            command += [] if rate is None else ["-b", rate]
            client = self._inside(user_name(self.request.source), *command)
            try:
                printed = client.communicate(timeout=seconds + 60)[0]
            finally:
                client.kill()
                client.wait()
        except subprocess.TimeoutExpired as error:
            raise IperfError(f"no end after {error.timeout:.0f} s") from error
        finally:
            server.kill()
            server.communicate()
        try:
            report: dict[str, Any] = json.loads(printed)
        except ValueError as error:
            raise IperfError(f"no report: {error}") from error
        return report

    def _inside(self, host: str, *command: str) -> subprocess.Popen[str]:
        pid = str(self.lab.site.hosts[host].pid)
        enter = ["nsenter", "--net", "--target", pid, *command]
        return subprocess.Popen(
            enter, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            text=True,
        )  # fmt: skip

    def _await_listening(self, host: str, port: int) -> None:
        deadline = time.monotonic() + LISTEN_S
        while time.monotonic() < deadline:
            shown = self._inside(host, "ss", "-Hltn", f"sport = :{port}").communicate(timeout=10)
            if shown[0].strip():
                return
            time.sleep(_POLL_S)
        raise IperfError(f"its server does not listen on port {port} after {LISTEN_S:.0f} s")
