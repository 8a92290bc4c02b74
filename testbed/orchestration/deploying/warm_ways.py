"""Sends probes along the ways of a chain before its packets: see `testbed.vnf.process.probes`."""

from __future__ import annotations

import contextlib
import json
import socket
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from testbed.orchestration.deploying.site import Site
from testbed.orchestration.detection.fdu_client import is_there
from testbed.orchestration.messages.control_client import ControlError
from testbed.scenario.names import probing_process
from testbed.scenario.steering import Segment
from testbed.scenario.types import NS_PER_S

ANSWER_S = 0.5
WAIT_S = 0.1
"""How long a probe may take beyond the propagation on its way; twice as long each time again."""
TRIES = 3
POLL_S = 0.001
NUMBERS = 1 << 32
"""Probes carry a number below."""
KEEP_NS = 3 * NS_PER_S
"""From one probe to the next of ways that are kept. Open vSwitch forgets what it decided for a way
on which nothing came for ten seconds (its setting `max-idle`), as on a backup's."""


class Way(NamedTuple):
    """What a probe shows to be forwarded: frames for `mac` from one host to another."""

    source: str
    mac: str
    target: str


def ways_of(segments: Iterable[Segment]) -> set[Way]:
    """One for each end of each segment."""
    return {Way(s.source, s.mac, target) for s in segments for target in s.targets}


def warm(site: Site, ways: Iterable[Way], path_ns: int) -> set[Way]:
    """Send probes along the ways until one came to each end; those of which that is not known.

    An end whose process is gone is not waited for. What a link loses is sent again, `TRIES` times
    in all. `path_ns` is the propagation on the longest way.
    """
    # Milliseconds tell these probes from those that went the same way before.
    number = time.monotonic_ns() // 1_000_000 % NUMBERS
    cold = {
        way
        for way in ways
        if is_there(_socket(site, way.source)) and is_there(_socket(site, way.target))
    }
    for attempt in range(TRIES):
        if not cold:
            break
        _send(site, cold, number)
        deadline = time.monotonic() + path_ns / NS_PER_S + WAIT_S * 2**attempt
        while cold and time.monotonic() < deadline:
            time.sleep(POLL_S)  # frames are on their way: ask until they came, or the deadline
            cold -= _heard(site, cold, number)
    return cold


def _send(site: Site, ways: set[Way], number: int) -> None:
    for source in sorted({way.source for way in ways}):
        macs = sorted({way.mac for way in ways if way.source == source})
        with contextlib.suppress(ControlError):
            site.control.call(_socket(site, source), "probe", ANSWER_S, number=number, ways=macs)


def _heard(site: Site, ways: set[Way], number: int) -> set[Way]:
    found: set[Way] = set()
    for target in sorted({way.target for way in ways}):
        try:
            answer = site.control.call(
                _socket(site, target), "probes-heard", ANSWER_S, number=number
            )
        except ControlError:
            continue
        found |= {way for way in ways if way.target == target and way.mac in answer["ways"]}
    return found


def _socket(site: Site, host: str) -> str:
    """The control socket of the process that sends and hears probes at a host."""
    return site.socket(probing_process(host))


class KeptWarm:
    """Sends a probe along each way now and then, where the kernel forwards.

    No answer is awaited: a process that has died or stopped must not hold up anybody.
    """

    def __init__(self, site: Site) -> None:
        self._site = site
        self._due_ns = 0
        # Not bound: so no answers come, which nobody would take.
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def keep(self, chains: Sequence[Iterable[Way]]) -> None:
        """Send the probes of these chains if it is time."""
        now_ns = time.monotonic_ns()
        if self._site.datapath != "kernel" or now_ns < self._due_ns:
            return
        self._due_ns = now_ns + KEEP_NS
        for source, macs in _by_source(chains).items():
            order = {"id": 0, "op": "probe", "number": 0, "ways": macs}
            with contextlib.suppress(OSError):
                self._socket.sendto(json.dumps(order).encode(), _socket(self._site, source))


def _by_source(chains: Sequence[Iterable[Way]]) -> Mapping[str, list[str]]:
    macs: dict[str, set[str]] = {}
    for ways in chains:
        for way in ways:
            macs.setdefault(way.source, set()).add(way.mac)
    return {source: sorted(each) for source, each in macs.items()}
