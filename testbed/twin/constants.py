"""The twin's constants: what the emulation measures and the scenario does not say."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import NamedTuple

from testbed.scenario.model import Scenario
from testbed.scenario.topology import make_topology
from testbed.scenario.types import NS_PER_S
from testbed.twin.calibration import COMMIT_ROUND_TRIPS, Calibration, switch_ports

DEFAULT_SLOT_NS = 100_000_000.0


@dataclass(frozen=True, slots=True)
class TwinConstants:
    """What a packet costs beside path delay and service, and how servers and groups behave.

    hop_overhead_ns         frame handling from one chain hop to the next (edge or instance)
    commit_overhead_ns      handling of a log entry and its acknowledgement, beside path delay
    commit_round_trips      round trips between primary and backup before a packet is released
    queue_ns                a packet that would wait longer for the CPU is dropped
    detection_ns            from a server's death until its backups serve
    repair_ns               from that on until a new backup has caught up, where one is wanted; the
                            same for a primary that moves
    replaces                a group that lost a member gets a new backup
    holds                   outputs wait while a group has no backup (safety); else they go on
    drain_ns                a request's instances stay this long after its last packet
    slot_ns                 length of a time slot
    overload_utilisation    a server counts as overloaded from this demand on (1 = its capacity)
    edge_overhead_ns        a packet at its two edges, beside the hops
    link_overhead_ns        the switch at the end of each link that a frame crosses, on average
    link_jitter_ns          standard deviation of that
    service_overhead_ns     what a packet occupies a server beyond its service time
    move_above              a server above this for `move_hold_ns` makes the policy be asked what of
                            it moves where; never, by default
    move_hold_ns, move_cool_ns   see `OverloadSpec`

    Without a calibration, `hop_overhead_ns` and `commit_overhead_ns` are what chains at light load
    took beyond path delays and service times on one host with Open vSwitch's userspace datapath,
    and the terms from `edge_overhead_ns` on are within them.
    """

    hop_overhead_ns: float = 400_000.0
    commit_overhead_ns: float = 1_500_000.0
    commit_round_trips: float = 1.0
    queue_ns: float = 100_000_000.0
    detection_ns: float = 150_000_000.0
    repair_ns: float = 200_000_000.0
    replaces: bool = True
    holds: bool = False
    drain_ns: float = 1_000_000_000.0
    slot_ns: float = DEFAULT_SLOT_NS
    overload_utilisation: float = 0.95
    edge_overhead_ns: float = 0.0
    link_overhead_ns: float = 0.0
    link_jitter_ns: float = 0.0
    service_overhead_ns: float = 0.0
    move_above: float = math.inf
    move_hold_ns: float = 0.0
    move_cool_ns: float = 0.0


@dataclass(frozen=True, slots=True)
class CostWeights:
    """What the twin's cost, and so the reward of learning, is made of.

    Each packet costs its mean latency beyond the shortest path plus `deviation` standard
    deviations of it, half in units of the request's delay bound and half in units of
    `reference_s`, but no more than `loss`, which is what a lost packet or one of a rejected request
    costs: nothing is gained by losing a packet that would be late. A server whose
    demand is above `headroom_from` of its capacity costs `headroom` a second and unit of demand
    above it, and one in overload (`TwinConstants.overload_utilisation`) costs `overload` a second
    beside that. The sum is divided by `packets`, so that a request costs about one.
    """

    reference_s: float = 0.03
    deviation: float = 1.0
    loss: float = 10.0
    headroom: float = 200.0
    headroom_from: float = 0.7
    overload: float = 100.0
    packets: float = 500.0


class Rates(NamedTuple):
    """Constants and weights as plain numbers in seconds, for the compiled kernels."""

    hop_overhead_s: float
    commit_overhead_s: float
    commit_round_trips: float
    queue_s: float
    detection_ns: int
    repair_ns: int
    replaces: bool
    holds: bool
    drain_ns: int
    slot_s: float
    overload_utilisation: float
    reference_s: float
    deviation: float
    loss: float
    headroom: float
    headroom_from: float
    overload: float
    packets: float
    edge_overhead_s: float
    link_overhead_s: float
    link_jitter_s: float
    service_overhead_s: float
    move_above: float
    move_hold_ns: float
    move_cool_ns: int


def make_rates(constants: TwinConstants, weights: CostWeights) -> Rates:
    """Constants and weights together, times in seconds."""
    return Rates(
        hop_overhead_s=float(constants.hop_overhead_ns) / NS_PER_S,
        commit_overhead_s=float(constants.commit_overhead_ns) / NS_PER_S,
        commit_round_trips=float(constants.commit_round_trips),
        queue_s=float(constants.queue_ns) / NS_PER_S,
        detection_ns=round(constants.detection_ns),
        repair_ns=round(constants.repair_ns),
        replaces=constants.replaces,
        holds=constants.holds,
        drain_ns=round(constants.drain_ns),
        slot_s=float(constants.slot_ns) / NS_PER_S,
        overload_utilisation=float(constants.overload_utilisation),
        reference_s=float(weights.reference_s),
        deviation=float(weights.deviation),
        loss=float(weights.loss),
        headroom=float(weights.headroom),
        headroom_from=float(weights.headroom_from),
        overload=float(weights.overload),
        packets=float(weights.packets),
        edge_overhead_s=float(constants.edge_overhead_ns) / NS_PER_S,
        link_overhead_s=float(constants.link_overhead_ns) / NS_PER_S,
        link_jitter_s=float(constants.link_jitter_ns) / NS_PER_S,
        service_overhead_s=float(constants.service_overhead_ns) / NS_PER_S,
        move_above=float(constants.move_above),
        move_hold_ns=float(constants.move_hold_ns),
        move_cool_ns=round(constants.move_cool_ns),
    )


def constants_for(
    scenario: Scenario,
    calibration: Calibration | None = None,
    slot_ns: float = DEFAULT_SLOT_NS,
) -> TwinConstants:
    """The constants for a scenario: what it says of queues, commits and detection, and the host's.

    Without a calibration the host's are the defaults of `TwinConstants`. Raises InputError for an
    unknown topology.
    """
    replication, overload = scenario.replication, scenario.overload
    stated = TwinConstants(
        slot_ns=slot_ns,
        commit_round_trips=COMMIT_ROUND_TRIPS[replication.mode],
        queue_ns=scenario.servers.queue_s * NS_PER_S,
        detection_ns=replication.failure_timeout_s * NS_PER_S,
        replaces=replication.replace_backups and replication.backups_wanted > 0,
        holds=replication.mode != "none" and replication.without_backup == "safety",
        drain_ns=float(round(scenario.traffic.drain_s * NS_PER_S)),
    )
    if overload is not None:
        stated = replace(
            stated,
            move_above=overload.high,
            move_hold_ns=overload.hold_s * NS_PER_S,
            move_cool_ns=overload.cool_s * NS_PER_S,
        )
    if calibration is None:
        return stated
    value = calibration.value
    ports = switch_ports(make_topology(scenario))
    switch_ns = value("switch_ns") + value("port_ns") * ports
    detection_ns = stated.detection_ns + value("detection_ns")
    commit_ns = value(f"commit_{replication.mode}_ns")
    return replace(
        stated,
        hop_overhead_ns=value("hop_ns"),
        commit_overhead_ns=commit_ns,
        detection_ns=max(0.0, detection_ns),
        edge_overhead_ns=value("edge_ns"),
        link_overhead_ns=switch_ns,
        link_jitter_ns=value("jitter_ratio") * switch_ns,
        service_overhead_ns=value("service_ns"),
        repair_ns=value("backup_start_ns"),
    )
