"""Names, ports, addresses, wiring and netem settings computed from a topology."""

from __future__ import annotations

import pytest

from testbed.scenario.errors import InputError
from testbed.scenario.types import Link, Node, Topology
from testbed.substrate.layout import host_mac, make_layout, wiring
from testbed.substrate.links.link_error import LinkError
from testbed.substrate.links.netem import check_netem, netem_limit


def ring(nodes: int) -> Topology:
    return Topology(
        nodes=tuple(Node(i, f"n{i}", 0.0, 0.0) for i in range(nodes)),
        links=tuple(Link(i, (i + 1) % nodes, 5_000_000, 10**8, 250_000) for i in range(nodes)),
        demand=(),
    )


def test_names_are_short_distinct_and_begin_with_the_run() -> None:
    layout = make_layout(ring(200), "a1b2c3")
    names = [*layout.bridges, *layout.switch_interfaces]
    names += [host.interface for host in layout.hosts]
    names += [end for link in layout.links for end in (link.line_a, link.line_b)]
    assert len(set(names)) == len(names) == 200 + 2 * 400 + 4 * 200
    assert all(name.startswith("a1b2c3") and len(name) <= 15 for name in names)


@pytest.mark.parametrize("run_id", ["", "abc", "ABCDEF", "abcdeg", "abcdef0", "../etc"])
def test_a_bad_run_id_is_refused(run_id: str) -> None:
    with pytest.raises(ValueError, match="run id"):
        make_layout(ring(3), run_id)


def test_too_many_nodes_are_refused() -> None:
    with pytest.raises(InputError, match="at most 200 nodes"):
        make_layout(ring(201), "a1b2c3")


def test_addresses_are_distinct_and_never_virtual() -> None:
    layout = make_layout(ring(200), "a1b2c3")
    macs = [host.mac for host in layout.hosts]
    assert len(set(macs)) == 400
    assert all(mac.startswith("06:") for mac in macs)
    assert host_mac("server", 3) == "06:00:00:01:00:03"
    assert {h.address for h in layout.hosts if h.role == "user"} == {None}
    assert [h.address for h in layout.hosts if h.role == "server"][:2] == ["10.78.0.1", "10.78.0.2"]


def test_no_port_of_a_switch_is_used_twice() -> None:
    found = wiring(make_layout(ring(5), "a1b2c3"))
    ports = [(host["switch"], host["port"]) for host in found["hosts"]]
    for link in found["links"]:
        ports += [(link["a"], link["a_port"]), (link["b"], link["b_port"])]
    assert len(set(ports)) == len(ports) == 20
    assert found["switches"][0] == {"name": "s0", "dpid": 1}
    assert found["links"][4] == {
        "a": "s4", "a_port": 4, "b": "s0", "b_port": 4, "delay_ns": 5_000_000,
    }  # fmt: skip


LINK = Link(0, 1, 100_000_000, 100_000_000, 250_000)
# What iproute2 6.1 prints for `tc -j qdisc show`: the delay in seconds, the rate in bytes.
OPTIONS: dict[str, object] = {
    "limit": 1001,
    "delay": {"delay": 0.1, "jitter": 0, "correlation": 0},
    "rate": {"rate": 12_500_000, "packetoverhead": 0},
}
NETEM = {"kind": "netem", "dev": "x", "options": OPTIONS}


def test_the_netem_limit_holds_the_queue_and_what_is_in_flight() -> None:
    # 100 Mb/s for 100 ms are 1.25 MB in flight; with 250 kB waiting, 1000 frames of 1500 bytes.
    assert netem_limit(LINK, 1500) == 1001


def test_netem_as_asked_is_accepted() -> None:
    check_netem("x", NETEM, LINK, 1500)


@pytest.mark.parametrize(
    "options",
    [
        {"limit": 1000},
        {"delay": {"delay": 0.09}},
        {"delay": {}},
        {"rate": {"rate": 125_000_000}},
        {"rate": {}},
    ],
)
def test_netem_that_differs_is_refused(options: dict[str, object]) -> None:
    with pytest.raises(LinkError, match="x: tc shows"):
        check_netem("x", {**NETEM, "options": {**OPTIONS, **options}}, LINK, 1500)


@pytest.mark.parametrize("found", [{}, {"kind": "noqueue", "options": {}}])
def test_a_missing_netem_is_refused(found: dict[str, object]) -> None:
    with pytest.raises(LinkError):
        check_netem("x", found, LINK, 1500)
