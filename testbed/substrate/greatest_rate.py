"""The greatest rate of a link on this host, by the fidelity gate's own measure.

A row of switches whose links ask for ascending rates is built, measured as a run's links are, and
removed. The greatest rate is the last one before the first that is not what was asked for.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from testbed.records.fidelity_checks import LinkFigures, rate_reason
from testbed.scenario.errors import DeftbedError
from testbed.scenario.model import ToleranceSpec
from testbed.scenario.types import Link, Node, Topology
from testbed.substrate.bare_network import bare_network
from testbed.substrate.measure_links import measure_links
from testbed.substrate.measure_plan import TRAIN_BYTES
from testbed.substrate.probe import Backends

LADDER_BPS = tuple(round(rate * 1e9) for rate in (0.1, 0.2, 0.5, 1, 2, 5, 10))
_DELAY_NS, _QUEUE_BYTES = 1_000_000, 250_000


@dataclass(frozen=True, slots=True)
class GreatestRate:
    """L2 bits a second that links of a back end carry as asked; 0 if not even the least does.

    `failed_bps` is the next rate that was asked for, and `measured_bps` what came of it; None if
    all were carried.
    """

    backend: str
    carried_bps: int
    failed_bps: int | None
    measured_bps: float | None

    def __str__(self) -> str:
        found = f"up to {_megabits(self.carried_bps)} by {self.backend}"
        if self.failed_bps is None or self.measured_bps is None:
            return f"{found}, the greatest rate tried, in frames of {TRAIN_BYTES} bytes"
        return (
            f"{found}; {_megabits(self.failed_bps)} gave {_megabits(self.measured_bps)}, "
            f"in frames of {TRAIN_BYTES} bytes"
        )


def measure_greatest_rate(backends: Backends, tolerances: ToleranceSpec) -> GreatestRate | None:
    """What links carry here, one at a time; None for bare wires, which have no rate.

    Takes some seconds, and root. Raises CommandError, LinkError or OSError.
    """
    if backends.link == "none":
        return None
    links = tuple(
        Link(number, number + 1, _DELAY_NS, rate_bps, _QUEUE_BYTES)
        for number, rate_bps in enumerate(LADDER_BPS)
    )
    nodes = tuple(Node(number, f"n{number}", 0.0, 0.0) for number in range(len(links) + 1))
    with (
        tempfile.TemporaryDirectory(prefix="deftbed-rate-") as folder,
        bare_network(Topology(nodes, links, ()), backends, Path(folder)) as network,
    ):
        figures = measure_links(network.directions(), tolerances)
    return greatest_of(figures, tolerances, backends.link)


def rate_note(wanted_bps: int, backends: Backends, tolerances: ToleranceSpec) -> str | None:
    """That links of `wanted_bps` are more than this host carries; None if they are not.

    Nothing is measured where a run's own gate would not look.
    """
    if not tolerances.measure_links:
        return None
    wanted = f"links of {_megabits(wanted_bps)}"
    try:
        found = measure_greatest_rate(backends, tolerances)
    except (DeftbedError, OSError) as error:
        return f"{wanted}: what this host carries was not measured ({error})"
    if found is None or found.failed_bps is None or wanted_bps < found.failed_bps:
        return None
    return f"{wanted} are more than this host carries ({found}): runs will not be valid"


def greatest_of(
    figures: Sequence[LinkFigures], tolerances: ToleranceSpec, backend: str
) -> GreatestRate:
    """What measured directions say: a rate is carried if all that ask for it get it."""
    carried_bps = 0
    for asked, same in groupby(sorted(figures, key=_asked_bps), key=_asked_bps):
        found = list(same)
        if any(each.rate_bps is None or rate_reason(each, tolerances) for each in found):
            worst_bps = min(each.rate_bps or 0.0 for each in found)
            return GreatestRate(backend, carried_bps, asked, worst_bps)
        carried_bps = asked
    return GreatestRate(backend, carried_bps, None, None)


def _asked_bps(figures: LinkFigures) -> int:
    return figures.asked_rate_bps


def _megabits(rate_bps: float) -> str:
    return f"{rate_bps / 1e6:,.0f} Mb/s"
