"""What must hold once a schedule is over, whatever happened in it, by the guarantees' names."""

from __future__ import annotations

from testbed.compiled import compiled
from testbed.vnf.functions.effect import (
    FILL,
    FORWARD,
    HEADER_WORDS,
    LENGTH,
    REASON,
    clear,
)
from testbed.vnf.functions.function import Call, Process
from testbed.vnf.replication import membership
from testbed.vnf.replication.copying import copy_to_words
from testbed.vnf.replication.flow_table import find_flow
from testbed.vnf.replication.log import OUTPUT_BIT
from testbed.vnf.replication.member import (
    ENTRY_HEAD_WORDS,
    F_EPOCH,
    F_EXPECTED,
    F_OUT,
    FOLLOWER,
    NEXT,
    PRIMARY,
    Member,
    reset_member,
)
from testbed.vnf.state.arrays import Words
from testbed.vnf.state.records import COUNT, Records, apply, find
from tests.protocol import names, plan
from tests.protocol.counting import write_input
from tests.protocol.fdu import EPOCH_AT, primary, role_of
from tests.protocol.lineage import hash_words, node_of
from tests.protocol.plan import planned
from tests.protocol.world import (
    ALIVE,
    EPOCHS,
    GAVE_WAY,
    IN_DONE,
    IN_FLOW,
    IN_LENGTH,
    IN_LOST,
    IN_PATH,
    IN_TAKEN,
    IN_UNHEARD,
    JOINED,
    LIFE,
    M_BUSY,
    M_CONFIG,
    M_EPOCH,
    M_NEXT,
    M_ROLE,
    MARKS_AT,
    N_CREATOR,
    N_EMITTED,
    N_FLOW,
    N_HASH,
    N_HEAD,
    N_LIFE,
    N_NS,
    N_ON_PATH,
    N_SEQ,
    N_WHERE,
    NODE_WORDS,
    NODES,
    NODES_AT,
    SCRATCH_AT,
    SEQUENCES,
    SLOTS,
    TIP,
    TRUNCATED_NS,
    bucket_of,
    count,
    fail,
    input_at,
    slot_at,
)

OUTS_AT = MARKS_AT + 64
"""The reference's marks: 3 words for each flow."""


@compiled
def is_done(w: Words) -> bool:
    """Whether the group has its size, agrees on the epoch, and has nothing left to do (G8)."""
    lead = primary(w)
    backups = learners = 0
    for number in range(SLOTS):
        role = role_of(w, number)
        if role == membership.NONE:
            continue
        slot = slot_at(number)
        if w[slot + ALIVE] == 0 or w[slot + LIFE] != w[slot + JOINED]:
            return False
        if w[slot + M_CONFIG] != w[EPOCH_AT] or w[slot + M_EPOCH] != w[EPOCH_AT]:
            return False
        backups += role == membership.BACKUP
        learners += role == membership.LEARNER
        if w[slot + M_ROLE] != (PRIMARY if number == lead else FOLLOWER) or w[slot + M_BUSY]:
            return False
        if w[slot + M_NEXT] != w[slot_at(lead) + M_NEXT]:
            return False
    return backups == planned(w, plan.BACKUPS) and learners == 0


@compiled
def judge(w: Words, lead: int, member: Member, reference: Member, process: Process) -> None:
    """Check the log, the state and the outputs of the last primary."""
    reset_member(reference, SLOTS)
    for word in range(3 * EPOCHS * SLOTS):
        w[OUTS_AT + word] = 0
    for index in range(member.words[NEXT]):
        node = node_of(w, lead, index)
        w[node + N_ON_PATH] = 1
        if not _is_as_reference(w, reference, process, node):
            fail(w, names.G2, lead, names.NOT_AS_REFERENCE)
            return
        if w[node + N_HEAD] & OUTPUT_BIT and w[node + N_EMITTED] == 0:
            fail(w, names.G6, lead, names.NEVER_EMITTED)
    for node in range(1, w[NODES]):
        at = NODES_AT + node * NODE_WORDS
        if w[at + N_EMITTED] and w[at + N_ON_PATH] == 0:
            fail(w, names.G1, w[at + N_CREATOR], names.NOT_IN_SURVIVOR)
    if not _same_records(reference.records, member.records):
        fail(w, names.G2, lead, names.STATE_DIFFERS)
    _check_inputs(w, lead, member.words[NEXT])
    _check_marks(w, member.words, lead)


@compiled
def _is_as_reference(w: Words, reference: Member, process: Process, node: int) -> bool:
    """Run the bare function on the input of an entry: the entry must say just that."""
    flow, seq = w[node + N_FLOW], w[node + N_SEQ]
    where, head = w[node + N_WHERE], w[node + N_HEAD]
    epoch = (where >> 40) & 0xFFFF
    if not (0 <= flow < SLOTS and epoch < EPOCHS and 0 <= seq < SEQUENCES):
        return False
    at = input_at(flow, epoch, seq)
    reason = (head >> 32) & 0xFF
    if reason:
        w[at + IN_LOST] += 1
        count(w, names.DECLARED_LOSSES)
    else:
        w[at + IN_DONE] += 1
    effect = reference.effect
    clear(effect)
    output = -1
    code = 0
    if reason == 0:
        length = w[at + IN_LENGTH]
        write_input(reference.packet, flow, epoch, seq, length)
        verdict = process(
            Call(
                reference.packet,
                length,
                where & 1,
                0,
                reference.records,
                effect,
                reference.config,
            )
        )
        if verdict == FORWARD:
            output = effect[LENGTH]
        else:
            code = effect[REASON]
            count(w, names.VERDICT_DROPS)
    words = _write_entry(w, reference, flow, epoch, seq, reason, code, output)
    # A gap's path is that of its flow's last input: what it is called does not matter.
    path = where & 0xFFFFFF if reason else w[at + IN_PATH]
    w[SCRATCH_AT + 1] = path | bucket_of(flow) << 24 | epoch << 40
    end = HEADER_WORDS + effect[FILL]
    apply(reference.records, effect, HEADER_WORDS, end, bucket_of(flow))
    return hash_words(w, SCRATCH_AT, words) == w[node + N_HASH]


@compiled
def _write_entry(
    w: Words,
    reference: Member,
    flow: int,
    epoch: int,
    seq: int,
    reason: int,
    code: int,
    output: int,
) -> int:
    """What the entry has to be, in the scratch area; its words."""
    effect = reference.effect
    operations = effect[FILL]
    marks = OUTS_AT + 3 * flow
    if w[marks] != epoch:
        w[marks], w[marks + 1], w[marks + 2] = epoch, 0, 0
    at = SCRATCH_AT
    w[at] = max(output, 0) | operations << 16 | reason << 32 | code << 41
    if output >= 0:
        w[at] |= OUTPUT_BIT
    w[at + 2], w[at + 3], w[at + 4] = flow, seq, w[marks + 1]
    w[marks + 1] += output >= 0
    w[marks + 2] = seq + 1
    for word in range(operations):
        w[at + ENTRY_HEAD_WORDS + word] = effect[HEADER_WORDS + word]
    begin = at + ENTRY_HEAD_WORDS + operations
    copy_to_words(reference.packet, 0, w, begin, max(output, 0))
    return ENTRY_HEAD_WORDS + operations + (max(output, 0) + 7) // 8


@compiled
def _same_records(one: Records, other: Records) -> bool:
    """Whether two states have the same records with the same values, in whatever order."""
    if one.head[COUNT] != other.head[COUNT]:
        return False
    for row in range(one.head[COUNT]):
        keys = one.keys[row]
        found = find(other, (keys[0], keys[1], keys[2], keys[3], keys[4]))
        if found < 0 or one.buckets[row] != other.buckets[found]:
            return False
        for word in range(one.values.shape[1]):
            if one.values[row, word] != other.values[found, word]:
                return False
    return True


@compiled
def _check_inputs(w: Words, lead: int, entries: int) -> None:
    """Each input has one end (G2, G3)."""
    for flow in range(SLOTS):
        for epoch in range(EPOCHS):
            for seq in range(SEQUENCES):
                at = input_at(flow, epoch, seq)
                if w[at + IN_FLOW] < 0:
                    continue
                ends = w[at + IN_DONE] + w[at + IN_LOST]
                if ends > 1:
                    fail(w, names.G2, lead, names.TAKEN_TWICE)
                if ends or _had_no_room(w, flow):
                    continue
                if not _is_excused(w, lead, entries, flow, epoch, at):
                    fail(w, names.G3, flow * 10000 + epoch * 100 + seq, names.LOST_IN_SILENCE)


@compiled
def _had_no_room(w: Words, flow: int) -> bool:
    """Whether a member said that its table has no room for this flow: that is no silence."""
    if w[GAVE_WAY]:
        return True
    for epoch in range(EPOCHS):
        for seq in range(SEQUENCES):
            at = input_at(flow, epoch, seq)
            if w[at + IN_FLOW] >= 0 and w[at + IN_UNHEARD]:
                return True
    return False


@compiled
def _is_excused(w: Words, lead: int, entries: int, flow: int, epoch: int, at: int) -> bool:
    """An end of a stamper's epoch may vanish: whoever began the next one had not heard of it."""
    if epoch == planned(w, plan.STAMPER_EPOCHS) - 1:
        return False
    for index in range(entries):
        node = node_of(w, lead, index)
        if w[node + N_FLOW] == flow and (w[node + N_WHERE] >> 40) & 0xFFFF > epoch:
            creator = w[node + N_CREATOR]
            taken = at + IN_TAKEN + 2 * creator
            heard = w[taken] == w[node + N_LIFE] and w[taken + 1] < w[node + N_NS]
            # What it processed in a log that had no future is gone with that log.
            return not heard or w[taken + 1] <= w[slot_at(creator) + TRUNCATED_NS]
    return False


@compiled
def _check_marks(w: Words, m: Words, lead: int) -> None:
    """The marks say what was handled (G2)."""
    for flow in range(planned(w, plan.FLOWS)):
        flow_at = find_flow(m, 2 + (flow & 1), flow, False)
        marks = OUTS_AT + 3 * flow
        if flow_at < 0 or m[flow_at + F_EPOCH] < 0:
            if w[marks + 2]:
                fail(w, names.G2, lead, names.MARKS_DIFFER)
            continue
        same = m[flow_at + F_EPOCH] == w[marks] and m[flow_at + F_EXPECTED] == w[marks + 2]
        if not same or m[flow_at + F_OUT] != w[marks + 1]:
            fail(w, names.G2, lead, names.MARKS_DIFFER)


@compiled
def check_backup(w: Words, member: Member, other: Member, lead: int, number: int) -> None:
    """A backup equals its primary: log, state and marks, together (G2)."""
    m, n = member.words, other.words
    if w[slot_at(number) + TIP] != w[slot_at(lead) + TIP]:
        fail(w, names.G2, number, names.BACKUP_LOG_DIFFERS)
        return
    if not _same_records(member.records, other.records):
        fail(w, names.G2, number, names.BACKUP_STATE_DIFFERS)
    for flow in range(planned(w, plan.FLOWS)):
        path = 2 + (flow & 1)
        here, there = find_flow(m, path, flow, False), find_flow(n, path, flow, False)
        if here < 0 or m[here + F_EPOCH] < 0:
            continue
        same = there >= 0 and m[here + F_EPOCH] == n[there + F_EPOCH]
        same = same and m[here + F_EXPECTED] == n[there + F_EXPECTED]
        if not same or m[here + F_OUT] != n[there + F_OUT]:
            fail(w, names.G2, number, names.BACKUP_MARKS_DIFFER)
