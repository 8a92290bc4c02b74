"""What a schedule is made of, drawn from its entropy; 0 is always the harmless choice.

A value can be forced (`world.FORCED_AT`), for tests that want one thing to happen at every step.
"""

from __future__ import annotations

from testbed.compiled import compiled
from testbed.vnf.state.arrays import Words
from tests.protocol.world import FORCED_AT, MS, PLAN_AT, SLOTS, chance, draw

PIPELINED, DEFT, NONE = 0, 1, 2

# Words of the plan, from PLAN_AT on.
MODE = 0
BACKUPS = 1
AVAILABILITY = 2
FLOWS = 3
PACKETS = 4
STAMPER_EPOCHS = 5
SPACING_NS = 6
BATCH_PACKETS = 7
BATCH_NS = 8
BUFFER = 9
MESSAGE_BYTES = 10
LOG_WORDS = 11  # beyond the least that a log needs; -1: as the product makes it
DELAY_NS = 12
LOSS = 13  # percent
REPEAT = 14
NO_CPU = 15
LARGE_INPUTS = 16
PRIMARY = 17
LEASE_NS = 18
DETECTION_NS = 19
CONFIRMS = 20  # percent of deaths that are seen as such
RATE_PPM = 21  # the clocks' error, at most
OUTPUTS_FIRST = 22
COUNT_EACH = 23  # each output is noted as released, not all of them together
REJOIN_IN_PLACE = 24  # a member that was removed by mistake comes back as it is
MOVE = 25  # NO_MOVE and so on
MOVE_NS = 26
ABORT_MOVE = 27  # in this phase; 0: not
OUTAGE_BEGIN_NS = 28
OUTAGE_END_NS = 29
DUPLICATE_TO_ALL = 30  # the switch sends copies to all members that there are
RESTART_NS = 31
CALM_NS = 32
MOVE_FAULT_PHASE = 33  # a fault is armed in this phase of the move; 0: not
MOVE_FAULT_WHOM = 34  # 0 the source, 1 the destination, 2 a backup
FULL_TABLE = 35  # fewer flows have room than there are
REORDER_ONLY = 36  # nothing is lost and nobody fails: messages overtake each other, and that is all
FAULTS = 40  # FAULT_WORDS for each of MAX_FAULTS
MAX_FAULTS = 4
FAULT_WORDS = 6
CUTS = FAULTS + MAX_FAULTS * FAULT_WORDS  # CUT_WORDS for each of MAX_CUTS
MAX_CUTS = 3
CUT_WORDS = 4

NO_MOVE, DRAINED_MOVE, DRAINED_STAYS, SUDDEN_MOVE, SUDDEN_STAYS, BACKUP_MOVE = range(6)

# A fault.
NO_FAULT, CRASH, PAUSE, SUSPECT, SLOW = range(5)
FAULT_KIND, FAULT_WHOM, FAULT_STEP, FAULT_NS, FAULT_LASTS_NS = range(5)

# A cut: masks of senders and receivers. Bit 6 of the senders: the FDU, bit 7: the stamper.
CUT_FROM, CUT_TO, CUT_BEGIN_NS, CUT_END_NS = range(4)
FROM_FDU, FROM_STAMPER = 6, 7

MARGIN_PPM = 1500
"""Clocks differ from the true time by this much at most: the promise outlasts the lease by more."""


@compiled
def planned(w: Words, what: int) -> int:
    """A value of the plan."""
    return w[PLAN_AT + what]


@compiled
def _set(w: Words, what: int, value: int) -> None:
    forced = w[FORCED_AT + what]
    w[PLAN_AT + what] = value if forced == -1 else forced


@compiled
def draw_plan(w: Words) -> None:
    """Draw all values."""
    _draw_group(w)
    _draw_inputs(w)
    _draw_network(w)
    _draw_fdu(w)
    for number in range(MAX_FAULTS):
        _draw_fault(w, FAULTS + number * FAULT_WORDS, number)
    for number in range(MAX_CUTS):
        _draw_cut(w, CUTS + number * CUT_WORDS)
    _set(w, REORDER_ONLY, 1 if chance(w, 15) else 0)
    if planned(w, REORDER_ONLY):
        _draw_reordering(w)


@compiled
def _draw_reordering(w: Words) -> None:
    """Only the order changes: an answer comes before the time for it is over, and all have room."""
    delay = draw(w, 3)
    _set(w, DELAY_NS, MS // 4 if delay == 0 else MS if delay == 1 else 2 * MS)
    _set(w, BUFFER, 64)
    _set(w, LOG_WORDS, -1)
    for what in (LOSS, NO_CPU, OUTAGE_BEGIN_NS, OUTAGE_END_NS, ABORT_MOVE, MOVE_FAULT_PHASE):
        _set(w, what, 0)
    _set(w, FULL_TABLE, 0)
    for number in range(MAX_FAULTS):
        _set(w, FAULTS + number * FAULT_WORDS + FAULT_KIND, NO_FAULT)
    for number in range(MAX_CUTS):
        _set(w, CUTS + number * CUT_WORDS + CUT_FROM, 0)


@compiled
def _draw_group(w: Words) -> None:
    mode = draw(w, 16)
    _set(w, MODE, NONE if mode == 15 else DEFT if mode >= 10 else PIPELINED)
    backups = draw(w, 8)
    _set(w, BACKUPS, 0 if backups == 7 else 2 if backups >= 4 else 1)
    if planned(w, MODE) == NONE:
        _set(w, BACKUPS, 0)
    _set(w, AVAILABILITY, 1 if planned(w, BACKUPS) == 0 or chance(w, 20) else 0)
    _set(w, PRIMARY, draw(w, SLOTS))
    batch = draw(w, 4)
    _set(w, BATCH_PACKETS, 4 if batch == 0 else 1 if batch == 1 else 8 if batch == 2 else 2)
    _set(w, BATCH_NS, 2 * MS if chance(w, 25) else 0)
    size = draw(w, 8)
    small = 2 + size if size >= 5 else size + 1
    _set(w, BUFFER, 64 if size < 4 else small)
    message = draw(w, 4)
    _set(w, MESSAGE_BYTES, 4096 if message == 0 else 1024 if message == 1 else 256)
    _set(w, LOG_WORDS, draw(w, 200) if chance(w, 25) else -1)
    _set(w, LEASE_NS, 20 * MS if chance(w, 50) else 12 * MS)
    _set(w, OUTPUTS_FIRST, draw(w, 2))
    _set(w, COUNT_EACH, draw(w, 2))


@compiled
def _draw_inputs(w: Words) -> None:
    _set(w, FLOWS, 1 + draw(w, 3))
    _set(w, PACKETS, 4 + draw(w, 10))
    epochs = draw(w, 6)
    _set(w, STAMPER_EPOCHS, 2 if epochs == 4 else 3 if epochs == 5 else 1)
    _set(w, SPACING_NS, 1 + draw(w, 4 * MS))
    _set(w, NO_CPU, 10 if chance(w, 20) else 0)
    _set(w, LARGE_INPUTS, 1 if chance(w, 20) else 0)
    _set(w, DUPLICATE_TO_ALL, 1 if chance(w, 30) else 0)
    _set(w, FULL_TABLE, 1 if chance(w, 5) else 0)


@compiled
def _draw_network(w: Words) -> None:
    delay = draw(w, 4)
    _set(w, DELAY_NS, MS // 10 if delay == 0 else MS if delay < 3 else 8 * MS)
    loss = draw(w, 4)
    _set(w, LOSS, 0 if loss == 0 else 5 if loss < 3 else 20)
    _set(w, REPEAT, 10 if chance(w, 50) else 0)
    _set(w, RATE_PPM, MARGIN_PPM if chance(w, 50) else 0)


@compiled
def _draw_fdu(w: Words) -> None:
    _set(w, DETECTION_NS, 4 * MS + draw(w, 12 * MS))
    _set(w, CONFIRMS, 50)
    _set(w, RESTART_NS, 5 * MS + draw(w, 60 * MS))
    _set(w, REJOIN_IN_PLACE, draw(w, 2))
    move = draw(w, 10)
    _set(w, MOVE, move - 4 if move > 4 else NO_MOVE)
    _set(w, MOVE_NS, draw(w, 40 * MS))
    _set(w, ABORT_MOVE, 1 + draw(w, 4) if chance(w, 10) else 0)
    _set(w, MOVE_FAULT_PHASE, 1 + draw(w, 5) if chance(w, 50) else 0)
    _set(w, MOVE_FAULT_WHOM, draw(w, 3))
    begin = draw(w, 80 * MS) if chance(w, 10) else 0
    _set(w, OUTAGE_BEGIN_NS, begin)
    _set(w, OUTAGE_END_NS, begin + draw(w, 40 * MS) if begin else 0)
    _set(w, CALM_NS, 60 * MS + draw(w, 80 * MS))


@compiled
def _draw_fault(w: Words, at: int, number: int) -> None:
    kind = draw(w, 8)
    if number >= 2 and kind != 7:
        kind = 0
    elif number == 3:
        kind = draw(w, 8)
    _set(
        w,
        at + FAULT_KIND,
        NO_FAULT
        if kind < 2
        else CRASH
        if kind < 5
        else PAUSE
        if kind == 5
        else SUSPECT
        if kind == 6
        else SLOW,
    )
    # Half of them hit whoever is the primary at the time.
    whom = draw(w, 2 * SLOTS)
    _set(w, at + FAULT_WHOM, whom if whom < SLOTS else SLOTS)
    _set(w, at + FAULT_STEP, draw(w, 90))
    _set(w, at + FAULT_NS, draw(w, 70 * MS))
    _set(w, at + FAULT_LASTS_NS, draw(w, 70 * MS))


@compiled
def _draw_cut(w: Words, at: int) -> None:
    kind = draw(w, 12)
    senders = receivers = 0
    if kind == 9:
        # One member is cut off, in one direction or in both.
        whom = draw(w, SLOTS)
        senders, receivers = 1 << whom, (1 << SLOTS) - 1
        if draw(w, 2):
            senders, receivers = receivers, senders
    elif kind == 10:
        senders, receivers = draw(w, 1 << SLOTS), draw(w, 1 << SLOTS)
    elif kind == 11:
        senders = 1 << FROM_FDU if draw(w, 2) else 1 << FROM_STAMPER
        receivers = 1 << draw(w, SLOTS)
    _set(w, at + CUT_FROM, senders)
    _set(w, at + CUT_TO, receivers)
    begin = draw(w, 60 * MS) if kind >= 9 else 0
    _set(w, at + CUT_BEGIN_NS, begin)
    _set(w, at + CUT_END_NS, begin + draw(w, 50 * MS) if kind >= 9 else 0)
