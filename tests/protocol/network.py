"""The network of the simulated world: it loses, repeats, delays, overtakes, and is cut at times."""

from __future__ import annotations

from testbed.compiled import compiled
from testbed.vnf.state.arrays import Words
from tests.protocol import names
from tests.protocol.plan import (
    CUT_BEGIN_NS,
    CUT_END_NS,
    CUT_FROM,
    CUT_TO,
    CUT_WORDS,
    CUTS,
    DELAY_NS,
    LOSS,
    MAX_CUTS,
    REPEAT,
    planned,
)
from tests.protocol.world import (
    AWAKE_NS,
    CALM,
    FREE_MESSAGE,
    MAX_MESSAGES,
    MESSAGE_SLOTS,
    MESSAGE_WORDS,
    MESSAGES_AT,
    NOW,
    SCRATCH_AT,
    SLOTS,
    SLOW_NS,
    count,
    draw,
    fail,
    push,
    slot_at,
)

FASTEST_NS = 2_000


@compiled
def is_cut(w: Words, sender: int, to: int) -> bool:
    """Whether nothing comes through from `sender` (a member, the FDU or the stamper) now."""
    if w[CALM]:
        return False
    for number in range(MAX_CUTS):
        at = CUTS + number * CUT_WORDS
        lasts = planned(w, at + CUT_BEGIN_NS) <= w[NOW] < planned(w, at + CUT_END_NS)
        senders, receivers = planned(w, at + CUT_FROM), planned(w, at + CUT_TO)
        if lasts and (senders >> sender) & (receivers >> to) & 1:
            return True
    return False


@compiled
def copies_of(w: Words, sender: int, to: int) -> int:
    """How many copies arrive of what is sent now: mostly one."""
    if w[CALM]:
        return 1
    if is_cut(w, sender, to):
        count(w, names.CUT_MESSAGES)
        return 0
    loss, repeat = planned(w, LOSS), planned(w, REPEAT)
    if loss == 0 and repeat == 0:
        return 1
    fate = draw(w, 100)
    if fate >= 100 - loss:
        count(w, names.LOST_MESSAGES)
        return 0
    if fate >= 100 - loss - repeat:
        count(w, names.REPEATED_MESSAGES)
        return 2
    return 1


@compiled
def arrival_ns(w: Words, to: int) -> int:
    """When a copy that is sent now arrives."""
    delay_ns = FASTEST_NS
    if w[CALM] == 0:
        delay_ns += draw(w, planned(w, DELAY_NS))
        if to < SLOTS:
            delay_ns += w[slot_at(to) + SLOW_NS]
    return w[NOW] + delay_ns


@compiled
def send(w: Words, sender: int, to: int, words: int) -> None:
    """Send the message in the scratch area; a sender that sleeps now sends when it wakes up."""
    later_ns = max(0, w[slot_at(sender) + AWAKE_NS] - w[NOW])
    for _ in range(copies_of(w, sender, to)):
        slot = _free_slot(w)
        if slot < 0:
            fail(w, names.VOID, sender, 2)
            return
        at = MESSAGES_AT + slot * MESSAGE_WORDS
        for word in range(words):
            w[at + word] = w[SCRATCH_AT + word]
        push(w, arrival_ns(w, to) + later_ns, names.MESSAGE, to, 0, slot, words, sender, 0)


@compiled
def _free_slot(w: Words) -> int:
    """A place for a message; -1: there is none."""
    slot = w[FREE_MESSAGE]
    if slot >= 0:
        w[FREE_MESSAGE] = w[MESSAGES_AT + slot * MESSAGE_WORDS]
        return slot
    slot = w[MESSAGE_SLOTS]
    if slot >= MAX_MESSAGES:
        return -1
    w[MESSAGE_SLOTS] = slot + 1
    return slot


@compiled
def free_message(w: Words, slot: int) -> None:
    """The message has been read."""
    w[MESSAGES_AT + slot * MESSAGE_WORDS] = w[FREE_MESSAGE]
    w[FREE_MESSAGE] = slot
