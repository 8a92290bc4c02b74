"""G5: operations on linearizable records have one order, that of real time (see `shared_world`)."""

from __future__ import annotations

from typing import Any

import pytest

from testbed.orchestration.detection.shared_state import Operation, SharedState
from testbed.vnf.dataplane.calls import on_answer
from testbed.vnf.process.shared_records import SharedRecords
from testbed.vnf.replication.member import ASK_FILL, ASK_NUMBER, INPUTS, NEXT, SHARED_INDEX
from tests.protocol.driver import Node, exchange, group, replication
from tests.protocol.shared_world import SharedWorld, violations
from tests.protocol.tickets import VALUE_WORDS, draw_ticket, new_ticket_state

SEEDS, STEPS = 25, 1500


def test_histories_are_linearizable_under_faults() -> None:
    drawn = 0
    for seed in range(SEEDS):
        world = SharedWorld(seed)
        world.run(STEPS)
        assert violations(world) == [], f"seed {seed}"
        drawn += len(world.tickets)
    assert drawn > 50 * SEEDS, "there were histories"


def first_caught(make: Any, steps: int = STEPS) -> int:
    """How many schedules it takes until a violation is found."""
    for seed in range(200):
        world = make(seed)
        world.run(steps)
        if violations(world):
            return seed + 1
    raise AssertionError("not caught")


def test_operations_that_are_carried_out_at_once_are_caught() -> None:
    assert first_caught(lambda seed: SharedWorld(seed, shared=False)) <= 10


def test_changes_without_their_condition_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def grant(state: SharedState, operations: list[Operation]) -> bool:
        for operation in operations:
            state._carry_out(operation)
        state.changes.append([word for each in operations for word in each.words])
        return True

    monkeypatch.setattr(SharedState, "_grant", grant)
    assert first_caught(SharedWorld) <= 10


def test_changes_that_are_not_logged_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """Told changes are noted as known, but not carried out."""

    class Forgetful(SharedWorld):
        def _taken(self, client: SharedRecords, order: dict[str, Any]) -> None:
            if self.random.random() < 0.05:
                member = client._member.words
                member[SHARED_INDEX] = max(
                    member[SHARED_INDEX], order["first"] + len(order["changes"]) - 1
                )
            super()._taken(client, order)

    assert first_caught(Forgetful) <= 10


# ------------------------------------------------------------------------------- one member


def sharing(members: int = 2) -> list[Node]:
    config = replication(shared=True)
    nodes = [Node(n, config, draw_ticket, new_ticket_state()) for n in range(members)]
    for node in nodes:
        node.configure(1, 0, sum(1 << n for n in range(1, members)))
    exchange(nodes)
    return nodes


def test_a_packet_that_asks_is_not_logged_and_holds_up_its_flow_alone() -> None:
    primary, _ = sharing()
    primary.packet(0, 0)
    primary.packet(0, 1)
    assert primary[NEXT] == 0 and primary[INPUTS] == 2
    number, words = primary.ask() or (0, [])
    assert number > 0 and words[0] == len(words) - 1
    assert primary.ask() is None, "one is on its way"
    primary.packet(1, 0)
    assert primary.ask() is None and primary[ASK_FILL] > 0


def test_with_its_answer_it_is_processed_anew_and_the_entries_carry_the_change() -> None:
    primary, backup = sharing()
    state = SharedState(VALUE_WORDS)
    primary.packet(0, 0)
    number, words = primary.ask() or (0, [])
    assert state.ask(words) == [True]
    assert primary.granted(1, state.changes[0])
    primary.answer(number)
    primary.idle()
    exchange([primary, backup])
    assert [data[-2] for _, _, _, data in primary.emit()] == [1]
    assert primary[NEXT] == 2, "the change and the packet"
    assert backup.state() == primary.state()
    assert backup[SHARED_INDEX] == primary[SHARED_INDEX] == 1


def test_what_was_not_granted_is_asked_for_anew_on_the_state_of_then() -> None:
    primary, _ = sharing()
    state = SharedState(VALUE_WORDS)
    primary.packet(0, 0)
    primary.packet(1, 0)
    number, words = primary.ask() or (0, [])
    assert state.ask(words) == [True, False], "both saw the counter at 0"
    primary.granted(1, state.changes[0])
    primary.answer(number)
    assert primary[NEXT] == 2
    second, words = primary.ask() or (0, [])
    assert second == number + 1 and state.ask(words) == [True]


def test_changes_are_taken_in_order_and_once() -> None:
    primary, backup = sharing()
    state = SharedState(VALUE_WORDS)
    for flow in (0, 1):
        primary.packet(flow, 0)
    _, words = primary.ask() or (0, [])
    state.ask(words)
    assert not primary.granted(2, state.changes[0])
    assert primary.granted(1, state.changes[0])
    assert not primary.granted(1, state.changes[0])
    assert not backup.granted(1, state.changes[0]), "a backup takes them from the log"
    assert not primary.granted(2, [5]), "no operation"


def test_an_heir_asks_itself_and_old_answers_mean_nothing_to_it() -> None:
    primary, backup, third = sharing(3)
    for node in (primary, backup, third):
        node.packet(0, 0)
    number, _ = primary.ask() or (0, [])
    backup.configure(2, 1, 0b100)
    third.configure(2, 1, 0b100)
    asked = backup.ask()
    assert asked is not None
    on_answer(backup.member, draw_ticket, backup.now_ns, asked[0] - 1)
    assert backup[NEXT] == 0 and backup[INPUTS] == 1
    primary.configure(2, 1, 0b100)
    primary.answer(number)
    assert primary[NEXT] == 0


def test_a_snapshot_says_how_many_changes_it_contains() -> None:
    primary, backup, learner = sharing(3)
    state = SharedState(VALUE_WORDS)
    primary.configure(2, 0, 0b010)
    backup.configure(2, 0, 0b010)
    learner.configure(2, 0, 0b010)
    primary.packet(0, 0)
    number, words = primary.ask() or (0, [])
    state.ask(words)
    primary.granted(1, state.changes[0])
    primary.answer(number)
    primary.idle()
    exchange([primary, backup])
    primary.emit()
    fresh = Node(2, replication(shared=True), draw_ticket, new_ticket_state())
    for node in (primary, backup, fresh):
        node.configure(3, 0, 0b010, 0b100)
    primary.idle()
    exchange([primary, backup, fresh])
    assert fresh[SHARED_INDEX] == 1 and fresh.state() == primary.state()


def test_a_group_that_shares_with_nobody_asks_nobody() -> None:
    primary, *_ = group(config=replication())
    node = Node(0, replication(), draw_ticket, new_ticket_state())
    node.configure(1, 0, 0)
    node.packet(0, 0)
    assert node[NEXT] == 1 and node.ask() is None and node[ASK_NUMBER] == 2
    assert primary.ask() is None
