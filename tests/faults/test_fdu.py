"""The FDU as real processes: who dies, who takes over, and what a majority is needed for."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from testbed.orchestration.detection.fdu_client import FduError, FduRefused
from tests.support.fdu_lab import HEARTBEAT_NS, TIMEOUT_NS, MembershipLab, wait_for

pytestmark = pytest.mark.slow


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[MembershipLab]:
    with MembershipLab(tmp_path) as lab:
        lab.client.await_ready(20)
        yield lab


def test_the_end_of_a_primary_is_seen_and_its_backup_takes_over(lab: MembershipLab) -> None:
    primary, backup = lab.start_group("r1-h0")
    lab.start_agent("server-1")
    lab.watch_processes("server-1", [primary])
    assert lab.configured(backup, 1)["primary"] == 0
    lab.kill(primary)
    order = lab.configured(backup, 2)
    assert (order["op"], order["group"], order["confirmed"]) == ("configure", "r1-h0", True)
    assert (order["primary"], order["backups"], order["learners"]) == (1, [], [])
    members = {"1": {"name": backup, "control_socket": lab.path(backup)}}
    members["1"] |= {"address": "10.0.0.1", "port": 7}  # type: ignore[dict-item]
    assert order["members"] == members
    news = lab.news(lambda news: news["epoch"] == 2)
    assert (news["failed"], news["order"], news["cause"]) == (primary, "promote", "failed")
    assert (news["primary"], news["left"]) == (1, [primary])


def test_a_change_is_in_the_timeline_once(lab: MembershipLab) -> None:
    primary, backup = lab.start_group("r1-h0")
    lab.kill(primary)
    lab.configured(backup, 2)
    lab.kill(backup)
    lab.news(lambda news: news["order"] == "group-lost")
    lab.client.group("r1-h0")
    failures = [
        {name: event[name] for name in ("group", "instance", "role", "order")}
        for event in lab.events("failure-detected")
    ]
    assert failures == [
        {"group": "r1-h0", "instance": primary, "role": "primary", "order": "promote"},
        {"group": "r1-h0", "instance": backup, "role": "primary", "order": "group-lost"},
    ]
    changes = [
        (event["epoch"], event["primary"], event["backups"], event["cause"])
        for event in lab.events("reconfigured")
    ]
    assert changes == [
        (1, 0, [1], "create-group"),
        (2, 1, [], "failed"),
        (3, None, [], "failed"),
    ]


def test_a_stopped_primary_is_replaced_and_finds_itself_out(lab: MembershipLab) -> None:
    primary, backup = lab.start_group("r1-h0")
    lab.start_agent("server-1")
    lab.watch_processes("server-1", [primary])
    lab.configured(primary, 1)
    stopped_ns = lab.signal(primary, signal.SIGSTOP)
    order = lab.configured(backup, 2)
    assert order["primary"] == 1
    # Nobody knows that it is dead, and it is not: the successor has to wait for its lease.
    assert not order["confirmed"]
    assert order["t_ns"] - stopped_ns > TIMEOUT_NS / 2
    lab.signal(primary, signal.SIGCONT)
    assert "0" not in lab.configured(primary, 2)["members"]


def test_a_failed_backup_and_a_failed_learner_are_let_go(lab: MembershipLab) -> None:
    primary, first, second = lab.start_group("r1-h0", backups=2)
    lab.client.join("r1-h0", 1, 3, lab.start_instance("r1-h0-m3"))
    lab.kill(first)
    assert lab.configured(primary, 3)["backups"] == [2]
    lab.kill("r1-h0-m3")
    assert lab.configured(primary, 4)["learners"] == []
    lab.kill(second)
    assert lab.configured(primary, 5)["backups"] == []
    orders = [(event["role"], event["order"]) for event in lab.events("failure-detected")]
    assert orders == [
        ("backup", "reconfigure"),
        ("learner", "reconfigure"),
        ("backup", "unprotect"),
    ]


def test_a_member_joins_catches_up_and_takes_over_as_planned(lab: MembershipLab) -> None:
    old, _ = lab.start_group("r1-h0")
    joined = lab.client.join("r1-h0", 1, 2, lab.start_instance("r1-h0-m2"))
    assert (joined["epoch"], joined["learners"]) == (2, [2])
    assert lab.configured("r1-h0-m2", 2)["primary"] == 0
    for member in lab.names:
        lab.call(member, "caught-up", group="r1-h0", epoch=2, member=2)
    assert lab.configured(old, 3)["backups"] == [1, 2]
    moved = lab.client.hand_over("r1-h0", 3, 2, confirmed=True)
    assert (moved["primary"], moved["backups"], moved["confirmed"]) == (2, [1], True)
    assert "0" not in lab.configured(old, 4)["members"]
    left = lab.client.leave("r1-h0", 4, 1)
    assert (left["epoch"], left["primary"], left["backups"]) == (5, 2, [])
    lab.client.remove_group("r1-h0")
    with pytest.raises(FduError, match="no group r1-h0"):
        lab.client.group("r1-h0")


def test_an_order_that_was_based_on_another_epoch_is_refused(lab: MembershipLab) -> None:
    lab.start_group("r1-h0")
    lab.client.join("r1-h0", 1, 2, lab.start_instance("r1-h0-m2"))
    before = lab.client.group("r1-h0")
    with pytest.raises(FduRefused, match="stale epoch 1: group r1-h0 is in epoch 2") as caught:
        lab.client.leave("r1-h0", 1, 1)
    assert caught.value.epoch == 2
    with pytest.raises(FduRefused):
        lab.client.hand_over("r1-h0", 2, 2, confirmed=True)
    assert lab.client.group("r1-h0") == before


def test_an_order_given_to_two_members_is_carried_out_once(lab: MembershipLab) -> None:
    lab.start_group("r1-h0")
    info = lab.start_instance("r1-h0-m2")
    fields = {"token": "t1", "group": "r1-h0", "epoch": 1, "member": 2, "info": info}
    answers = [lab.call(name, "join", **fields) for name in lab.names]
    assert [answer["epoch"] for answer in answers] == [2, 2, 2]
    assert lab.client.group("r1-h0")["epoch"] == 2


def test_one_vote_is_no_majority_and_is_withdrawn(lab: MembershipLab) -> None:
    lab.start_instance("r1-h0-m1")
    members = {
        0: lab.start_instance("r1-h0-m0", heard_by=lab.names[:2]),
        1: {"name": "r1-h0-m1", "control_socket": lab.path("r1-h0-m1")},
    }
    lab.client.create_group("r1-h0", members, 0, [1])
    wait_for(
        lambda: lab.client.group("r1-h0")["votes"] == {"0": 1 << 2}, "fdu-2 did not vote, alone"
    )
    assert lab.call("fdu-2", "status")["suspects"] == ["r1-h0-m0"]
    # It dies and is there again, heard by all.
    lab.signal("r1-h0-m0", signal.SIGKILL)
    lab.start_instance("r1-h0-m0")
    wait_for(lambda: lab.client.group("r1-h0")["votes"] == {}, "the vote was not withdrawn")
    assert lab.client.group("r1-h0")["epoch"] == 1


def test_who_missed_a_configuration_gets_it_again(lab: MembershipLab, tmp_path: Path) -> None:
    takes = tmp_path / "takes"
    members = {0: lab.start_instance("r1-h0-m0", takes=takes)}
    lab.client.create_group("r1-h0", members, 0, [])

    def copies() -> int:
        return sum(order["epoch"] == 1 for order in lab.orders("r1-h0-m0"))

    # Each of the three members sent it once; its heartbeats say that it did not take it.
    wait_for(lambda: copies() > 6, "it was not sent again")
    takes.touch()

    def still() -> bool:
        before, beats = copies(), lab.client.group("r1-h0")
        for _ in range(5):
            lab.await_heartbeat()
        return copies() == before and beats["epoch"] == 1

    wait_for(still, "it is sent again though it was taken")


def test_the_death_of_a_server_is_told(lab: MembershipLab) -> None:
    lab.start_agent("server-3")
    lab.client.watch_server("server-3")
    lab.kill("server-3")
    news = lab.news(lambda news: news["failed"] == "server-3")
    assert (news["group"], news["order"]) == ("server-3", "group-lost")
    (event,) = lab.events("failure-detected")
    assert (event["group"], event["instance"], event["role"]) == ("server-3", "server-3", "primary")
    assert lab.events("reconfigured") == []


@pytest.mark.parametrize("which", ["leader", "follower"])
def test_without_one_member_everything_goes_on(lab: MembershipLab, which: str) -> None:
    primary, backup = lab.start_group("r1-h0")
    leader = lab.leader()
    follower = next(name for name in lab.names if name != leader)
    lab.kill(leader if which == "leader" else follower)
    lab.kill(primary)
    assert lab.configured(backup, 2)["primary"] == 1
    lab.start_group("r2-h0")
    assert lab.client.group("r2-h0")["epoch"] == 1
    assert len(lab.events("failure-detected")) == 1


def test_an_order_given_while_there_is_no_leader_waits_for_one(lab: MembershipLab) -> None:
    leader = lab.leader()
    follower = next(name for name in lab.names if name != leader)
    lab.kill(leader)
    assert lab.call(follower, "watch-server", server="server-1")["epoch"] == 1


def test_without_a_majority_nobody_is_promoted_until_there_is_one(lab: MembershipLab) -> None:
    primary, backup = lab.start_group("r1-h0")
    lab.configured(backup, 1)
    dead, alive = lab.names[:2], lab.names[2]
    wait_for(lambda: lab.call(alive, "status")["groups"] == 1, "it does not know the group")
    for name in dead:
        lab.kill(name)
    lab.kill(primary)
    wait_for(
        lambda: lab.call(alive, "status")["suspects"] == [primary], "the survivor does not hear"
    )
    with pytest.raises(FduError, match="is gone"):
        lab.client.join("r1-h0", 1, 2, lab.start_instance("r1-h0-m2"))
    assert lab.client.group("r1-h0")["primary"] == 0
    assert {order["epoch"] for order in lab.orders(backup)} == {1}
    assert not lab.call(alive, "status")["majority"]
    # One that was killed starts again from its journal; then there is a majority.
    lab.start_member(dead[0])
    wait_for(lambda: lab.orders(backup)[-1]["primary"] == 1, "the backup was not promoted")
    assert lab.client.group("r1-h0")["primary"] == 1


def test_a_member_started_again_knows_what_was_decided(lab: MembershipLab) -> None:
    primary, backup = lab.start_group("r1-h0")
    first = lab.leader()
    lab.kill(first)
    lab.kill(primary)
    lab.configured(backup, 2)
    lab.start_member(first)
    wait_for(lambda: lab.call(first, "status")["majority"], "it did not rejoin")
    # The majority is now it and one other.
    lab.kill(lab.leader())
    lab.client.join("r1-h0", 2, 0, lab.start_instance("r1-h0-m9"))
    wait_for(lambda: lab.call(first, "group", group="r1-h0")["epoch"] == 3, "it does not follow")


def test_nobody_is_blamed_for_a_time_in_which_the_fdu_itself_stood_still(
    lab: MembershipLab,
) -> None:
    names = lab.start_group("r1-h0")
    lab.configured(names[1], 1)
    for name in (*names, *lab.names):
        lab.signal(name, signal.SIGSTOP)
    for _ in range(2 * TIMEOUT_NS // HEARTBEAT_NS):
        lab.await_heartbeat()
    for name in (*lab.names, *names):
        lab.signal(name, signal.SIGCONT)
        lab.await_heartbeat()
    assert all(lab.call(name, "status")["suspects"] == [] for name in lab.names)
    assert lab.client.group("r1-h0")["epoch"] == 1
    lab.kill(names[0])
    assert lab.configured(names[1], 2)["primary"] == 1


def test_members_end_when_they_are_asked_to(lab: MembershipLab) -> None:
    lab.start_agent("server-1")
    for name in [*lab.names, "server-1"]:
        lab.signal(name, signal.SIGTERM)
    for name in [*lab.names, "server-1"]:
        lab.processes[name].join(10)
        assert lab.processes[name].exitcode == 0


def test_the_agent_reports_what_ended_before_it_was_watched(lab: MembershipLab) -> None:
    primary, backup = lab.start_group("r1-h0")
    lab.start_agent("server-1")
    pid = lab.processes[primary].pid
    lab.kill(primary)
    lab.call("server-1", "watch-process", name=primary, pid=pid)
    assert lab.configured(backup, 2)["confirmed"]


def test_the_agent_says_nothing_of_a_process_that_it_forgot(lab: MembershipLab) -> None:
    primary, backup = lab.start_group("r1-h0")
    lab.start_agent("server-1")
    lab.watch_processes("server-1", [primary])
    lab.call("server-1", "forget-process", name=primary)
    lab.kill(primary)
    # Only its silence is noticed.
    assert not lab.configured(backup, 2)["confirmed"]
