"""Wirings for the controller's tests: by hand, and random for Hypothesis."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import strategies as st

from controller.wiring import Cable, HostEnd, SwitchEnd, Wiring

HOSTS_PER_SWITCH = 2


def make_wiring(size: int, links: Sequence[tuple[int, int, int]]) -> Wiring:
    """Switches s0.. with hosts server-i (port 1), user-i (port 2); links are (a, b, delay_ns)."""
    ports = [HOSTS_PER_SWITCH] * size
    cables = []
    for a, b, delay_ns in links:
        ports[a] += 1
        ports[b] += 1
        cables.append(Cable(f"s{a}", ports[a], f"s{b}", ports[b], delay_ns))
    hosts = []
    for node in range(size):
        hosts.append(HostEnd(f"server-{node}", f"s{node}", 1, f"0a:00:00:00:{node:02x}:01"))
        hosts.append(HostEnd(f"user-{node}", f"s{node}", 2, f"0a:00:00:00:{node:02x}:02"))
    return Wiring(
        tuple(SwitchEnd(f"s{node}", node + 1) for node in range(size)),
        tuple(cables),
        tuple(hosts),
    )


@st.composite
def wirings(draw: st.DrawFn) -> Wiring:
    """Connected graphs of up to 8 switches: a spanning tree and more links, parallel ones too."""
    size = draw(st.integers(1, 8))
    # Few values, so that equal paths and delays of 0 are common.
    delay_ns = st.sampled_from([0, 1, 1, 2, 5])
    links = [(draw(st.integers(0, node - 1)), node, draw(delay_ns)) for node in range(1, size)]
    if size > 1:
        pair = st.tuples(st.integers(0, size - 1), st.integers(0, size - 1), delay_ns)
        links += [link for link in draw(st.lists(pair, max_size=10)) if link[0] != link[1]]
    return make_wiring(size, links)
