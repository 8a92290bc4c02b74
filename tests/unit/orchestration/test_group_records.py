"""The FDU's record of groups: same commands, same record; refusals say why and change nothing."""

from __future__ import annotations

from typing import Any

import pytest

from testbed.orchestration.detection.group_records import KEPT_ANSWERS, Change, Records


def info(name: str) -> dict[str, Any]:
    return {"name": name, "control_socket": f"{name}.sock", "address": "10.0.0.1", "port": 9}


def create(group: str = "g", members: int = 2) -> dict[str, Any]:
    names = {str(number): info(f"{group}-m{number}") for number in range(members)}
    backups = list(range(1, members))
    return {"op": "create-group", "group": group, "members": names, "primary": 0} | {
        "backups": backups
    }


def vote(epoch: int, member: int, voter: int, confirmed: bool = False) -> dict[str, Any]:
    about = {"group": "g", "epoch": epoch, "member": member}
    return {"op": "vote", **about, "voter": voter, "confirmed": confirmed, "majority": 2}


def records_of(*commands: dict[str, Any]) -> Records:
    records = Records()
    for command in commands:
        answer = records.apply(command).answer
        assert answer["ok"], answer
    return records


def changed(records: Records, command: dict[str, Any]) -> Change:
    change = records.apply(command).change
    assert change is not None
    return change


def test_a_group_says_who_is_in_it() -> None:
    records = records_of(create())
    assert records.groups["g"].configuration() == {
        "group": "g",
        "epoch": 1,
        "primary": 0,
        "backups": [1],
        "learners": [],
        "members": {"0": info("g-m0"), "1": info("g-m1")},
        "confirmed": True,
    }
    assert records.find("g-m1") == (records.groups["g"], 1)
    assert records.find("stranger") is None


@pytest.mark.parametrize(
    ("members", "orders"), [(2, ["promote", "group-lost"]), (3, ["promote", "promote"])]
)
def test_each_failed_primary_is_followed_by_a_backup_while_there_is_one(
    members: int, orders: list[str]
) -> None:
    records = records_of(create(members=members))
    for number, order in enumerate(orders):
        change = changed(records, vote(1 + number, number, 0, confirmed=True))
        assert (change.failed, change.failed_role) == (f"g-m{number}", "primary")
        assert change.order == order
        assert change.left == (info(f"g-m{number}"),)


def test_two_of_three_votes_remove_a_member_that_may_live() -> None:
    records = records_of(create(), vote(1, 0, 2))
    assert records.groups["g"].votes() == {"0": 0b100}
    change = changed(records, vote(1, 0, 1))
    assert change.order == "promote"
    assert not change.group.configuration()["confirmed"]
    assert change.group.former == {"g-m0": info("g-m0")}


def test_an_order_based_on_another_epoch_is_refused_with_the_group_s() -> None:
    records = records_of(create())
    about = {"group": "g", "epoch": 7}
    for command in (
        {"op": "join", **about, "member": 2, "info": info("g-m2")},
        {"op": "admit", **about, "member": 1},
        {"op": "leave", **about, "member": 1},
        {"op": "hand-over", **about, "to": 1, "confirmed": True},
    ):
        outcome = records.apply(command)
        assert outcome.change is None
        assert outcome.answer["error"] == "stale epoch 7: group g is in epoch 1"
        assert outcome.answer["epoch"] == 1
    assert records.groups["g"].epoch == 1


@pytest.mark.parametrize(
    "command",
    [
        {"op": "nonsense"},
        {},
        {"op": "join", "group": "g"},
        {"op": "join", "group": "g", "epoch": "one", "member": 2, "info": info("x")},
        {"op": "join", "group": "g", "epoch": 1, "member": 2, "info": info("g-m0")},
        {"op": "join", "group": "g", "epoch": 1, "member": 2, "info": None},
        {"op": "join", "group": "g", "epoch": 1, "member": 1 << 70, "info": info("x")},
        {"op": "admit", "group": "none", "epoch": 1, "member": 1},
        {"op": "vote", "group": "g", "epoch": None, "member": None, "voter": 0},
        create(),
        create("h") | {"backups": [1, 1]},
        create("h") | {"primary": 2},
        create("h") | {"members": {"0": info("g-m0"), "1": info("h-m1")}},
        create("h") | {"members": {"0": info("h"), "1": info("h")}},
        create("h", members=9),
    ],
)
def test_a_command_that_makes_no_sense_is_refused(command: dict[str, Any]) -> None:
    records = records_of(create())
    outcome = records.apply(command)
    assert (outcome.answer["ok"], outcome.change) == (False, None)
    assert list(records.groups) == ["g"]
    assert records.groups["g"].epoch == 1
    assert set(records.group_of) == {"g-m0", "g-m1"}


def test_a_command_with_a_token_is_carried_out_once() -> None:
    records = records_of(create())
    command = {"op": "leave", "group": "g", "epoch": 1, "member": 1, "token": "t"}
    first = records.apply(command)
    again = records.apply(command)
    assert first.change is not None
    assert again.change is None
    assert again.answer == first.answer
    for number in range(KEPT_ANSWERS):
        records.apply({"op": "remove-group", "group": "none", "token": str(number)})
    assert not records.apply(command).answer["ok"]


def test_a_removed_group_leaves_no_name_behind() -> None:
    records = records_of(create(), vote(1, 0, 0, confirmed=True))
    change = changed(records, {"op": "remove-group", "group": "g"})
    assert change.left == (info("g-m1"),)
    assert (records.groups, records.group_of) == ({}, {})


def test_a_server_is_a_group_of_its_own() -> None:
    records = records_of({"op": "watch-server", "server": "server-1"})
    command = {**vote(1, 0, 0), "group": "server-1", "confirmed": True}
    change = changed(records, command)
    assert (change.group.name, change.failed, change.order) == (
        "server-1",
        "server-1",
        "group-lost",
    )
    assert records.apply({"op": "forget-server", "server": "server-1"}).answer["ok"]
    assert records.groups == {}
