"""Makes and records all packets of a request before the run: due times, flows, sizes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path as FilePath

import numpy as np
from numpy.typing import NDArray

from testbed.records.payload import IP_UDP_BYTES
from testbed.records.raw import (
    SCHEDULE_DTYPE,
    Records,
    contents_path,
    flow_numbers_path,
    payloads_path,
    schedule_path,
    sizes_path,
)
from testbed.scenario.modulation import Path, draw_path, points, product, shifted
from testbed.scenario.shapes import Flows, Mmpp, OnOff, Process, Replay
from testbed.scenario.sizes import flow_sizes
from testbed.scenario.types import NS_PER_S, Request, RunPlan
from traffic.schedule import packet_schedule
from traffic.trace_replay import replay

_PROCESS_DOMAIN, _SIZE_DOMAIN = 6, 8
"""Set these draws apart from others of the same seed."""


@dataclass(frozen=True, slots=True)
class Workload:
    """The packets of a request, in the order of `schedule` (array of SCHEDULE_DTYPE).

    l3_bytes       size of each, None if all have the request's
    flow_numbers   number of the flow of each, None if the schedule's flows are all there are
    contents       CONTENT_DTYPE: what of `payloads` each carries, None if it is filler
    """

    schedule: Records
    l3_bytes: NDArray[np.uint16] | None
    flow_numbers: NDArray[np.uint32] | None
    contents: Records | None = None
    payloads: bytes = b""


def make_workload(plan: RunPlan, request: Request, process: Process) -> Workload:
    """The packets of `request`; the plan's seed and the request's id alone decide the draws."""
    numbers = None
    if isinstance(process, Replay):
        return _replay(plan, request, process)
    if isinstance(process, Flows):
        schedule, numbers = _flows(plan, request, process)
    elif isinstance(process, OnOff | Mmpp):
        schedule = _modulated(plan, request, process)
    else:
        schedule = packet_schedule(plan, request, process)
    return Workload(schedule, _sizes(plan, request, len(schedule)), numbers)


def write_workload(raw: FilePath, plan: RunPlan, request: Request, process: Process) -> FilePath:
    """Record the packets of `request` in the folder `raw`; the path of the schedule."""
    workload = make_workload(plan, request, process)
    np.save(schedule_path(raw, request.id), workload.schedule)
    if workload.l3_bytes is not None:
        np.save(sizes_path(raw, request.id), workload.l3_bytes)
    if workload.flow_numbers is not None:
        np.save(flow_numbers_path(raw, request.id), workload.flow_numbers)
    if workload.contents is not None:
        np.save(contents_path(raw, request.id), workload.contents)
        np.save(payloads_path(raw), np.frombuffer(workload.payloads, np.uint8))
    return schedule_path(raw, request.id)


def _modulated(plan: RunPlan, request: Request, shape: OnOff | Mmpp) -> Records:
    """Poisson packets whose rate follows one path of `shape`, common to the request's flows."""
    rng = _generator(plan, request)
    life_s = _life_s(request)
    if life_s <= 0:
        return np.empty(0, SCHEDULE_DTYPE)
    path = product([_load(plan, request), draw_path(shape, life_s, rng)])
    rate = request.rate_pps / request.flows
    times = [points(path, rate, life_s, False, rng) for _ in range(request.flows)]
    flows = np.repeat(np.arange(request.flows), [len(each) for each in times])
    return _schedule(request, np.concatenate(times), flows)[0]


def _flows(plan: RunPlan, request: Request, spec: Flows) -> tuple[Records, NDArray[np.uint32]]:
    """Flows of drawn sizes, and the number of each packet's flow.

    What a flow would send after the request's end is cut off.
    """
    rng = _generator(plan, request)
    sizes, payload_bytes = flow_sizes(spec.sizes), request.l3_bytes - IP_UDP_BYTES
    life_s = _life_s(request)
    rate = request.rate_pps / sizes.mean_packets(spec.scale, payload_bytes)
    begins = points(_load(plan, request), rate, life_s, False, rng)
    drawn = sizes.quantile_bytes(rng.random(len(begins))) * spec.scale
    packets = np.maximum(1, np.ceil(drawn / payload_bytes)).astype(np.int64)
    left = np.ceil(np.maximum(0.0, life_s - begins) * spec.flow_pps).astype(np.int64)
    packets = np.minimum(packets, left)
    numbers = np.repeat(np.arange(len(begins)), packets)
    place = np.arange(len(numbers)) - np.repeat(np.cumsum(packets) - packets, packets)
    times = begins[numbers] + place / spec.flow_pps
    schedule, order = _schedule(request, times, numbers % request.flows)
    return schedule, numbers[order].astype(np.uint32)


def _replay(plan: RunPlan, request: Request, spec: Replay) -> Workload:
    if plan.recording is None:
        raise ValueError("a plan without the recording that its requests replay")
    load = _load(plan, request)
    made = replay(plan.recording, spec, request.rate_pps, _life_s(request), load)
    ports = made.flows % plan.recording.flows % request.flows
    schedule, order = _schedule(request, made.times_s, ports)
    return Workload(
        schedule=schedule,
        l3_bytes=made.l3_bytes[order],
        flow_numbers=made.flows[order].astype(np.uint32),
        contents=None if made.contents is None else made.contents[order],
        payloads=made.payloads,
    )


def _schedule(
    request: Request, times_s: NDArray[np.float64], ports: NDArray[np.int64]
) -> tuple[Records, NDArray[np.int64]]:
    """Packets by time, numbered in each port's flow, and which of the given each is."""
    due_ns = request.start_ns + (times_s * NS_PER_S).astype(np.int64)
    due_ns = np.minimum(due_ns, request.end_ns - 1)
    order = np.argsort(due_ns, kind="stable")
    schedule = np.empty(len(order), SCHEDULE_DTYPE)
    schedule["flow"] = ports[order]
    schedule["scheduled_ns"] = due_ns[order]
    for port in range(request.flows):
        rows = schedule["flow"] == port
        schedule["seq"][rows] = np.arange(int(rows.sum()))
    return schedule, order


def _sizes(plan: RunPlan, request: Request, packets: int) -> NDArray[np.uint16] | None:
    if not request.l3_sizes:
        return None
    rng = np.random.default_rng([plan.seed, _SIZE_DOMAIN, request.id])
    values, shares = zip(*request.l3_sizes, strict=True)
    return rng.choice(np.array(values, np.uint16), packets, p=shares)


def _generator(plan: RunPlan, request: Request) -> np.random.Generator:
    return np.random.default_rng([plan.seed, _PROCESS_DOMAIN, request.id])


def _life_s(request: Request) -> float:
    return (request.end_ns - request.start_ns) / NS_PER_S


def _load(plan: RunPlan, request: Request) -> Path:
    """The factor of the load steps, from the request's start on."""
    steps = [(0, 1.0), *plan.load_steps]
    path = Path(
        np.array([at_ns / NS_PER_S for at_ns, _ in steps]),
        np.array([factor for _, factor in steps]),
    )
    return shifted(path, request.start_ns / NS_PER_S)
