"""A learner of a primary that commits alone: it is admitted although inputs never stop."""

from __future__ import annotations

from testbed.vnf.replication.member import (
    COMMITTED,
    P_ACKED,
    P_CAUGHT_UP,
    P_STATE,
    REQUIRED,
)
from tests.protocol.driver import Node, replication

INPUTS = 40


def joined() -> tuple[Node, list[bool]]:
    """A lone primary and its learner under load; before each answer another input has come.

    The list says for each input whether the primary may admit the learner by then.
    """
    config = replication(availability=True)
    primary, learner = Node(0, config), Node(1, config)
    primary.configure(1, 0)
    primary.packet(0, 0)
    primary.idle()
    primary.emit()
    for node in (primary, learner):
        node.configure(2, 0, 0, 0b10)
    admissible = []
    for seq in range(1, INPUTS):
        under_way = [*primary.take_all(1)]
        primary.packet(0, seq)
        primary.idle()
        primary.emit()
        for message in under_way:
            learner.read(message)
        for message in learner.take_all(0):
            primary.read(message)
        primary.emit()
        may = primary.peer(1, P_CAUGHT_UP) > 0
        # Else it could be promoted without an entry that was committed, and whose output is out.
        assert not may or primary.peer(1, P_ACKED) >= primary[COMMITTED]
        admissible.append(may)
    return primary, admissible


def test_it_may_be_admitted_although_the_primary_is_always_ahead() -> None:
    primary, admissible = joined()
    assert admissible[-1]
    assert primary.peer(1, P_STATE) == REQUIRED


def test_once_it_is_waited_for_nothing_goes_out_that_it_lacks() -> None:
    primary, admissible = joined()
    begun = admissible.index(True)
    assert begun < INPUTS - 5
    assert len(primary.emitted) <= primary.peer(1, P_ACKED)
    assert {row[2] for row in primary.emitted} == set(range(len(primary.emitted)))
