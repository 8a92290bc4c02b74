"""What the adapter writes for a switch: bytes that a table takes, and what the table refuses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from controller.app import SwitchConnection
from controller.rules import CHAIN_PRIORITY, HOST_PRIORITY, IN_PORT, Match
from controller.update import AddGroup, Barrier, DeleteFlow, DeleteGroup, Message, SetFlow
from tests.support.openflow_table import Answer, Flow, SwitchTable, Wire

MAC, OTHER = "06:00:00:02:00:00", "06:00:00:02:00:01"
HOST = Match("s0", HOST_PRIORITY, None, MAC)
CHAIN = Match("s0", CHAIN_PRIORITY, 1, MAC)


class Bench:
    """A table, the adapter's connection to it, and what the table answered to the last call."""

    def __init__(self) -> None:
        self.table = SwitchTable("s0")
        self.answers: list[Answer] = []
        self._connection = SwitchConnection(Wire(self._receive))

    def _receive(self, data: bytes) -> None:
        self.answers = self.table.receive(data)

    def send(self, *messages: Message) -> list[int]:
        return self._connection.send(messages)

    def replace(self, messages: Sequence[Message]) -> list[int]:
        return self._connection.replace(messages)

    def refusals(self) -> list[str]:
        return [answer.refusal for answer in self.answers if answer.refusal]


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_a_barrier_ends_each_call_and_is_answered_by_its_number(bench: Bench) -> None:
    xids = bench.send(SetFlow(HOST, 4, None))
    assert len(xids) == 2 and bench.answers == [Answer(xids[-1], "")]
    xids = bench.send(SetFlow(HOST, 4, None), Barrier(), SetFlow(CHAIN, 4, None), Barrier())
    assert bench.answers == [Answer(xids[1], ""), Answer(xids[3], "")]


def test_the_flow_of_most_priority_counts(bench: Bench) -> None:
    bench.send(SetFlow(HOST, 4, None), AddGroup(7, (2, IN_PORT)), SetFlow(CHAIN, None, 7))
    assert bench.refusals() == []
    assert bench.table.outputs(1, MAC) == [2, 1]  # a copy goes back
    assert bench.table.outputs(2, MAC) == [4]
    assert bench.table.outputs(4, MAC) == []  # not back by the number of the port
    assert bench.table.outputs(1, OTHER) == []
    bench.send(SetFlow(CHAIN, 3, None))
    assert bench.table.outputs(1, MAC) == [3]
    bench.send(DeleteFlow(CHAIN))
    assert bench.table.flows.keys() == {HOST}


def test_the_flows_of_a_deleted_group_go_with_it(bench: Bench) -> None:
    bench.send(SetFlow(HOST, 4, None), AddGroup(1, (2, 3)), SetFlow(CHAIN, None, 1))
    bench.send(DeleteGroup(1))
    assert bench.table.flows.keys() == {HOST} and bench.table.groups == {}


@pytest.mark.parametrize(
    ("messages", "refusal"),
    [
        ([SetFlow(CHAIN, None, 7)], "OFPBAC_BAD_OUT_GROUP"),
        ([AddGroup(7, (2, 3)), AddGroup(7, (2, 4))], "OFPGMFC_GROUP_EXISTS"),
        ([AddGroup(0, (2, 3))], "OFPGMFC_INVALID_GROUP"),
        ([SetFlow(HOST, 4, None), SetFlow(replace(HOST, in_port=2), 4, None)], "OVERLAP"),
        ([SetFlow(CHAIN, 4, None), SetFlow(replace(CHAIN, in_port=None), 3, None)], "OVERLAP"),
        ([SetFlow(HOST, 0, None)], "OFPBAC_BAD_OUT_PORT"),
        ([AddGroup(7, (2, 0))], "OFPBAC_BAD_OUT_PORT"),
    ],
)
def test_what_makes_no_sense_is_refused(
    bench: Bench, messages: list[Message], refusal: str
) -> None:
    *before, last = messages
    bench.send(*before)
    flows, groups = dict(bench.table.flows), dict(bench.table.groups)
    xids = bench.send(last)
    assert [answer.xid for answer in bench.answers] == xids
    assert refusal in bench.answers[0].refusal
    assert (bench.table.flows, bench.table.groups) == (flows, groups)


def test_flows_that_no_frame_matches_together_do_not_overlap(bench: Bench) -> None:
    matches = [CHAIN, Match("s0", CHAIN_PRIORITY, 2, MAC), Match("s0", CHAIN_PRIORITY, 1, OTHER)]
    matches += [HOST, Match("s0", HOST_PRIORITY, None, OTHER)]
    bench.send(*(SetFlow(match, 4, None) for match in matches))
    assert bench.refusals() == [] and list(bench.table.flows) == matches


def test_all_is_replaced_at_once_or_nothing(bench: Bench) -> None:
    bench.send(SetFlow(HOST, 4, None), AddGroup(1, (2, 3)), SetFlow(CHAIN, None, 1))
    other = Match("s0", CHAIN_PRIORITY, 1, OTHER)
    bench.replace([AddGroup(1, (3, 4)), SetFlow(other, None, 1)])
    assert bench.refusals() == []
    assert bench.table.outputs(1, OTHER) == [3, 4] and bench.table.outputs(1, MAC) == []
    assert bench.table.groups == {1: (3, 4)}
    bench.replace([SetFlow(CHAIN, 4, None), SetFlow(other, None, 9)])
    assert len(bench.refusals()) == 1 and "OFPBAC_BAD_OUT_GROUP" in bench.refusals()[0]
    assert bench.table.outputs(1, OTHER) == [3, 4] and bench.table.outputs(1, MAC) == []


def test_flows_of_others_stay(bench: Bench) -> None:
    foreign = Flow(cookie=1, ports=(4,), group_id=None)
    bench.table.flows[HOST] = foreign
    bench.send(SetFlow(CHAIN, 3, None), DeleteFlow(HOST))
    bench.replace([])
    assert bench.table.flows.pop(HOST) == foreign
    (miss,) = bench.table.flows
    assert miss.priority == 0 and bench.table.outputs(1, MAC) == []
