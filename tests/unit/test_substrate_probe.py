"""Which back ends follow from what a host can do, and the doctor's report."""

from __future__ import annotations

import dataclasses
import json

import pytest

from testbed.substrate.doctor import report
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


def test_the_report_is_json_and_says_what_a_run_would_use() -> None:
    found = json.loads(json.dumps(report(FULL)))
    assert found["able"] and found["backends"]["link"] == "netem"
    assert {row["name"] for row in found["capabilities"]} >= {"netem", "cgroup", "realtime"}
    found = report(dataclasses.replace(FULL, open_vswitch=NO))
    assert not found["able"] and "open_vswitch" in found["verdict"]
