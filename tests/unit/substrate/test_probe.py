"""Which back ends follow from what a host can do, and the doctor's report."""

from __future__ import annotations

import dataclasses
import io
import json

import pytest
from rich.console import Console

from testbed.cli.screens.doctor_screen import print_report
from testbed.substrate.doctor import report
from testbed.substrate.host_facts import Facts, facts
from testbed.substrate.probe import Backends, Capabilities, Capability, CapabilityError, choose

YES = Capability(True, "it is there")
NO = Capability(False, "it is missing because of this")
FULL = Capabilities(
    root=YES, open_vswitch=YES, kernel_datapath=YES, netem=YES, realtime=YES, tun=YES, mnexec=YES,
    cgroup="v2", cgroup_mounts={"unified": "/sys/fs/cgroup"}, cores=4, memory_bytes=8 << 30,
)  # fmt: skip


def test_the_kernels_back_ends_are_preferred() -> None:
    assert choose(FULL) == Backends("kernel", "netem", "v2")


def test_what_the_kernel_lacks_is_replaced() -> None:
    bare = dataclasses.replace(FULL, kernel_datapath=NO, netem=NO, realtime=NO, cgroup="v1")
    assert choose(bare) == Backends("netdev", "userspace", "v1")


@pytest.mark.parametrize("name", ["root", "open_vswitch", "tun", "mnexec"])
def test_what_nothing_replaces_is_an_error_with_its_reason(name: str) -> None:
    values = {field.name: getattr(FULL, field.name) for field in dataclasses.fields(FULL)}
    with pytest.raises(CapabilityError, match=f"{name}: it is missing because of this"):
        choose(Capabilities(**{**values, name: NO}))


def test_all_that_is_missing_is_named_at_once() -> None:
    with pytest.raises(CapabilityError) as caught:
        choose(dataclasses.replace(FULL, tun=NO, mnexec=NO, cgroup=None))
    assert all(name in str(caught.value) for name in ("tun:", "mnexec:", "cgroup:"))


FOUND = Facts(
    kernel="6.1 x86_64", cpu="a CPU", clock_source="tsc",
    versions={"Python": "3.11", "dumpcap": "4.0", "iperf3": None},
    qdiscs={"netem": True, "fq": False}, datapaths=("netdev", "system"),
    privileges={"CAP_NET_ADMIN": True}, offloads=YES,
)  # fmt: skip


def test_the_report_is_json_and_says_what_a_run_would_use() -> None:
    found = json.loads(json.dumps(report(FULL, FOUND)))
    assert found["able"] and found["backends"]["link"] == "netem"
    names = {row["name"] for row in found["capabilities"]}
    assert names >= {"netem", "cgroup", "realtime", "offloads", "clock", "captures"}
    found = report(dataclasses.replace(FULL, open_vswitch=NO), FOUND)
    assert not found["able"] and "open_vswitch" in found["verdict"]


def test_every_capability_says_what_follows_and_every_lack_what_to_do() -> None:
    bare = dataclasses.replace(
        FULL, root=NO, open_vswitch=NO, kernel_datapath=NO, netem=NO, realtime=NO, tun=NO,
        mnexec=NO, cgroup=None, cgroup_mounts={},
    )  # fmt: skip
    poor = dataclasses.replace(FOUND, clock_source="hpet", versions={}, offloads=NO)
    for row in report(FULL, dataclasses.replace(FOUND, versions={"dumpcap": "4", "iperf3": "3"}))[
        "capabilities"
    ]:
        assert row["available"] and row["leads_to"] and row["remedy"] is None
    for row in report(bare, poor)["capabilities"]:
        assert not row["available"] and row["leads_to"] and row["remedy"]


def test_the_screen_shows_back_ends_and_remedies() -> None:
    console = Console(file=io.StringIO(), width=120)
    print_report(report(dataclasses.replace(FULL, netem=NO), FOUND), console)
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert "links by the line" in shown and "sch_netem" in shown and "netdev, system" in shown
    assert "no fq" in shown and "A run would use the kernel datapath" in shown


def test_the_facts_of_this_host_are_found() -> None:
    found = facts()
    assert found.kernel and found.versions["Python"] and found.clock_source != ""
    json.dumps(dataclasses.asdict(found))
