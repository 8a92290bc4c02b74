"""From a scenario and a seed to the requests of a run: when each comes, of which chain, from where.

What would be too much is refused before it is drawn.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from testbed.scenario.errors import InputError
from testbed.scenario.limits import MAX_PACKETS, MAX_STEPS, MAX_UNITS
from testbed.scenario.model import Scenario
from testbed.scenario.modulation import Path, draw_path, mass, points
from testbed.scenario.node_names import node_index
from testbed.scenario.paths import delay_matrix_ns
from testbed.scenario.recording import Recording
from testbed.scenario.shapes import Diurnal, FlashCrowd, Flows, Mmpp, OnOff, Replay, Shape
from testbed.scenario.sizes import imix
from testbed.scenario.traffic import ChainSpec, TrafficSpec
from testbed.scenario.types import NS_PER_S, FloatArray, Request, Topology

_ARRIVAL_DOMAIN = 4
"""Sets these draws apart from others of the same seed."""
PATH_SHARE_OF_BOUND = 0.5
"""A request's shortest path may take this share of its delay bound at most."""
_TOO_MANY = 4 * MAX_UNITS
"""So many requests expected, and no draw would be of as few as there may be."""
_SHOWN = 5
"""Pairs that an error shows."""


def check_shapes(traffic: TrafficSpec) -> None:
    """InputError for a rate that changes in more steps than a run has room for."""
    for key, shape in (
        ("arrivals", traffic.arrivals), ("load", traffic.load), ("process", traffic.process),
    ):  # fmt: skip
        if not isinstance(shape, OnOff | Mmpp | Diurnal | FlashCrowd):
            continue
        field, step_s = _step(shape)
        steps = traffic.duration_s / step_s
        if steps > MAX_STEPS:
            expected = (
                f"at least {traffic.duration_s / MAX_STEPS:g} seconds on average: a run of "
                f"{traffic.duration_s:g} s would have {steps:.0f} steps, {MAX_STEPS} at most"
            )
            raise InputError(f"traffic.{key}.{field}", step_s, expected)


def _step(shape: Shape) -> tuple[str, float]:
    """The key that says how long a step of a shape takes, and how long it takes on average."""
    if isinstance(shape, OnOff):
        return "on_s", (shape.on_s + shape.off_s) / 2
    if isinstance(shape, Mmpp):
        return "mean_s", sum(shape.mean_s) / len(shape.mean_s)
    return "step_s", shape.step_s


def make_requests(
    scenario: Scenario, topology: Topology, seed: int, recording: Recording | None
) -> tuple[Request, ...]:
    """The requests of a run by their arrival; raises InputError for what cannot be."""
    rng = np.random.default_rng(np.random.SeedSequence([seed, 1]))
    traffic = scenario.traffic
    delays, demand = delay_matrix_ns(topology), _demand(scenario, topology)
    pairs = {
        chain.name: _pair_weights(scenario, topology, number, demand, delays)
        for number, chain in enumerate(scenario.chains)
    }
    weights = np.array([chain.weight for chain in scenario.chains])
    requests: list[Request] = []
    units = 0
    for number, arrival_s in enumerate(_arrivals(scenario, seed, rng)):
        chain = scenario.chains[int(rng.choice(len(weights), p=weights / weights.sum()))]
        weight = pairs[chain.name]
        pair = int(rng.choice(weight.size, p=weight.ravel() / weight.sum()))
        source, destination = divmod(pair, len(topology.nodes))
        start_s = arrival_s + traffic.setup_s
        end_s = min(start_s + rng.exponential(traffic.mean_lifetime_s), traffic.duration_s)
        rate_pps, sizes = _rate_and_sizes(scenario, chain, recording)
        requests.append(
            Request(
                id=number,
                chain=chain.name,
                functions=tuple(chain.functions),
                source=source,
                destination=destination,
                arrival_ns=_ns(arrival_s),
                start_ns=_ns(start_s),
                end_ns=_ns(end_s),
                rate_pps=rate_pps,
                l3_bytes=round(sum(size * share for size, share in sizes)),
                delay_bound_ns=_ns(chain.delay_bound_s),
                flows=chain.flows,
                shards=chain.shards,
                first_unit=units,
                l3_sizes=sizes if len(sizes) > 1 else (),
            )
        )
        units += chain.shards
    if not requests:
        raise InputError("traffic", "no request", "initial_requests or arrivals_per_s above 0")
    if units > MAX_UNITS:
        expected = f"at most {MAX_UNITS}: fewer requests, or fewer shards (chains)"
        raise InputError("traffic", f"{units} shards of all requests", expected)
    return tuple(requests)


def _ns(seconds: float) -> int:
    return round(seconds * NS_PER_S)


def _rate_and_sizes(
    scenario: Scenario, chain: ChainSpec, recording: Recording | None
) -> tuple[float, tuple[tuple[int, float], ...]]:
    """Packets per second of a request, and (L3 bytes, share); of a recording the mean alone."""
    process, rate_pps = scenario.traffic.process, chain.rate_pps
    if recording is not None and isinstance(process, Replay):
        if process.speed is not None:
            rate_pps = process.speed * recording.mean_pps
        return rate_pps, ((round(recording.mean_l3_bytes), 1.0),)
    return rate_pps, imix() if chain.l3_bytes == "imix" else ((chain.l3_bytes, 1.0),)


def _arrivals(scenario: Scenario, seed: int, rng: np.random.Generator) -> list[float]:
    """When requests arrive, in seconds. Only Poisson arrivals draw from `rng`."""
    traffic = scenario.traffic
    last_s = traffic.duration_s - traffic.setup_s
    if last_s <= 0:
        raise InputError("traffic.setup_s", traffic.setup_s, "less than traffic.duration_s")
    own = np.random.default_rng(np.random.SeedSequence([seed, _ARRIVAL_DOMAIN]))
    path = (
        Path(np.zeros(1), np.ones(1))
        if isinstance(traffic.arrivals, str)
        else draw_path(traffic.arrivals, last_s, own)
    )
    _check_number(traffic, traffic.initial_requests + mass(path, traffic.arrivals_per_s, last_s))
    times = [0.0] * traffic.initial_requests
    if traffic.arrivals != "poisson":
        even = traffic.arrivals == "constant"
        times += points(path, traffic.arrivals_per_s, last_s, even, own).tolist()
    elif traffic.arrivals_per_s > 0:
        now = 0.0
        while (now := now + float(rng.exponential(1 / traffic.arrivals_per_s))) < last_s:
            times.append(now)
    return times


def _check_number(traffic: TrafficSpec, requests: float) -> None:
    if requests > _TOO_MANY:
        expected = f"some {requests:.0f} requests less: a run has {MAX_UNITS} at most"
        raise InputError("traffic.arrivals_per_s", traffic.arrivals_per_s, expected)


def _demand(scenario: Scenario, topology: Topology) -> FloatArray:
    """Weights [source, destination], those of the topology or the pairs of the file."""
    if scenario.traffic.pairs is None:
        demand = np.array(topology.demand)
    else:
        demand = np.zeros((len(topology.nodes), len(topology.nodes)))
        for number, pair in enumerate(scenario.traffic.pairs):
            ends = [node_index(topology, name, f"traffic.pairs.{number}") for name in pair]
            demand[ends[0], ends[1]] += 1.0
        if np.trace(demand) == demand.sum():
            same = _listed([f"{name} to {name}" for name, _ in scenario.traffic.pairs])
            expected = f"a pair of two nodes; no pair is left, since each has but one node: {same}"
            raise InputError("traffic.pairs", f"{len(scenario.traffic.pairs)} pairs", expected)
    np.fill_diagonal(demand, 0.0)
    return demand


def _pair_weights(
    scenario: Scenario, topology: Topology, number: int, demand: FloatArray, delays: FloatArray
) -> FloatArray:
    """Weights [source, destination]: the demands of pairs near enough for the delay bound."""
    chain = scenario.chains[number]
    near = delays <= PATH_SHARE_OF_BOUND * _ns(chain.delay_bound_s)
    weights = np.where(near, demand, 0.0)
    if weights.sum() > 0:
        return weights
    order = sorted(np.argwhere(demand > 0).tolist(), key=lambda pair: float(delays[tuple(pair)]))
    names = [node.name for node in topology.nodes]
    far = _listed([f"{names[a]} to {names[b]}, {delays[a, b] / NS_PER_S:g} s" for a, b in order])
    expected = (
        f"a bound that some pair of nodes can meet: the chain {chain.name} cannot be placed, "
        f"since the shortest path may take {PATH_SHARE_OF_BOUND:.0%} of it, and no pair is left "
        f"({far})"
    )
    raise InputError(f"chains.{number}.delay_bound_s", chain.delay_bound_s, expected)


def _listed(entries: Sequence[str]) -> str:
    more = len(entries) - _SHOWN
    return "; ".join(entries[:_SHOWN]) + (f"; and {more} more" if more > 0 else "")


def check_packets(
    scenario: Scenario, requests: Sequence[Request], load: Path, recording: Recording | None
) -> None:
    """InputError if the requests send more packets than a run may have, `load` being all rates'.

    So many are expected; what is drawn is about as many.
    """
    process = scenario.traffic.process
    lives = np.array([[request.start_ns, request.end_ns] for request in requests]) / NS_PER_S
    rates = np.array([request.rate_pps for request in requests])
    edges = np.append(load.times_s, max(float(load.times_s[-1]), float(lives.max())))
    passed = np.concatenate(([0.0], np.cumsum(np.diff(edges) * load.factors)))
    packets = rates * np.diff(np.interp(lives, edges, passed), axis=1)[:, 0]
    if recording is not None and isinstance(process, Replay) and not process.repeat:
        packets = np.minimum(packets, recording.packets)
    most = "lower rates, a shorter run or fewer requests"
    _check_packets("traffic", float(packets.sum()), most)
    life_s = float(np.diff(lives, axis=1).max())
    if isinstance(process, Flows):
        most = "a lower flow_pps, or shorter lives"
        _check_packets("traffic.process.flow_pps", process.flow_pps * life_s, f"of a flow: {most}")
    elif isinstance(process, OnOff):
        burst = float(rates.max()) * (process.on_s + process.off_s)
        _check_packets("traffic.process", burst, "in a burst: shorter ones, or a lower rate_pps")
    elif isinstance(process, Mmpp):
        stays, factors = np.array(process.mean_s), np.array(process.factors)
        mean = float(factors @ stays / stays.sum())
        burst = float(rates.max()) * float((factors * stays).max()) / mean
        _check_packets("traffic.process", burst, "in a state: shorter ones, or a lower rate_pps")


def _check_packets(field: str, packets: float, how: str) -> None:
    if packets > MAX_PACKETS:
        raise InputError(field, f"{packets:.0f} packets", f"at most {MAX_PACKETS}; {how}")
