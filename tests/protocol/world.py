"""The simulated world as one array of words: clock, events, network, entropy, and what is noted.

Everything has a fixed place, so a world is made once and each schedule begins by `begin_world`.
Compiled. Times are in ns of the world's own clock, which nobody in it can read.
"""

from __future__ import annotations

import numba
import numpy as np
from numba import types

from testbed.compiled import compiled
from testbed.vnf.replication.member import MEMBER, Member, ReplicationConfig, new_member
from testbed.vnf.replication.membership import SIZE as GROUP_WORDS
from testbed.vnf.state.arrays import Words
from tests.protocol.counting import new_counting_state

SLOTS = 4
"""Member numbers that are used; one more member is the reference that never fails."""
BOUND = 64
"""The largest input buffer of a schedule."""
MAX_FLOWS = 4
MS = 1_000_000

# Single words.
NOW = 0
EVENTS = 1  # events that wait
NUMBER = 2  # of the next event: those of equal time come in the order in which they were made
FREE_EVENT = 3  # of the places that were used and are free again; -1: none
EVENT_SLOTS = 4  # places that were used
FREE_MESSAGE = 5
MESSAGE_SLOTS = 6
RANDOM = 7  # state of the generator
ENTROPY_USED = 8
SEEDED = 9  # 1: when the entropy is used up, the generator goes on; 0: every draw is 0
CALM = 10  # the network is perfect and nothing fails any more
LAST_INPUT_NS = 11
FLYING = 12  # copies of inputs on their way
FOUND = 13  # violations of this schedule
STOPPED = 14  # the schedule is over
GROUP_LOST = 15
GAVE_WAY = 16  # a flow that waited gave way to one that the log names
OUTAGE_NS = 17  # the FDU has no majority until then
OVERTAKEN = 18  # the highest epoch that released
NODES = 19
SINKS = 20
SNAPSHOTS = 21
MOVE_PHASE = 22
MOVE_TO = 23
HANDING_OVER = 24  # orders of a hand-over on their way
CRASHES = 25
PRIMARY_STEPS = 26  # of all who were the primary
FIRED = 27  # the faults that have happened
TRACED = 28
KEPT_WORDS = 32  # those below begin anew in each schedule
TRACING = 32
CONTROL = 33  # which rule is switched off
CONTROL_HITS = 34
ENTROPY_SIZE = 35

STATS_AT = 64
STATS_SIZE = 64
FOUND_AT = STATS_AT + STATS_SIZE  # violations: code, time, who, detail
FOUND_KEPT = 16
PLAN_AT = FOUND_AT + 4 * FOUND_KEPT
PLAN_SIZE = 128
FORCED_AT = PLAN_AT + PLAN_SIZE  # values of the plan that are not drawn; -1: drawn
GROUP_AT = FORCED_AT + PLAN_SIZE
SLOTS_AT = GROUP_AT + GROUP_WORDS
SLOT_WORDS = 64
MAX_INDEX = 512
PATHS_AT = SLOTS_AT + SLOTS * SLOT_WORDS  # the node of each index in each member's log
PATH_AT_REFERENCE = PATHS_AT + SLOTS * MAX_INDEX
HEAP_AT = PATH_AT_REFERENCE + MAX_INDEX
MAX_EVENTS = 8192
EVENTS_AT = HEAP_AT + 2 * MAX_EVENTS
EVENT_WORDS = 8
MESSAGES_AT = EVENTS_AT + MAX_EVENTS * EVENT_WORDS
MAX_MESSAGES = 4096
MESSAGE_WORDS = 640
SCRATCH_AT = MESSAGES_AT + MAX_MESSAGES * MESSAGE_WORDS  # the message that is being written
NODES_AT = SCRATCH_AT + MESSAGE_WORDS
MAX_NODES = 2048
NODE_WORDS = 16
INPUTS_AT = NODES_AT + MAX_NODES * NODE_WORDS
EPOCHS, SEQUENCES = 3, 16  # of inputs there are at most so many in a flow
MAX_INPUTS = MAX_FLOWS * EPOCHS * SEQUENCES
INPUT_WORDS = 8 + 2 * SLOTS
SINKS_AT = INPUTS_AT + MAX_INPUTS * INPUT_WORDS
MAX_SINKS = 4096
SINK_WORDS = 4
SNAPSHOTS_AT = SINKS_AT + MAX_SINKS * SINK_WORDS
MAX_SNAPSHOTS = 256
SNAPSHOT_WORDS = 4
MARKS_AT = SNAPSHOTS_AT + MAX_SNAPSHOTS * SNAPSHOT_WORDS  # of checks and controls, by flow
MARKS_SIZE = 128
RELEASERS_AT = MARKS_AT + MARKS_SIZE  # who released in an epoch, plus one
ENTROPY_AT = RELEASERS_AT + 128
MAX_ENTROPY = 4096
TRACE_AT = ENTROPY_AT + MAX_ENTROPY
MAX_TRACE = 8192
TRACE_WORDS = 8
WORLD_WORDS = TRACE_AT + MAX_TRACE * TRACE_WORDS

# A member's place in the world, from the word `slot_at(number)` on.
ALIVE = 0
AWAKE_NS = 1  # it sleeps until then
LIFE = 2  # how many processes had this number
JOINED = 3  # the life that the FDU knows as a member
OFFSET_NS = 4  # its clock
RATE_PPM = 5
STEPS = 6
FAULT_STEP = 7  # at which something happens to it; -1: never
FAULT_KIND = 8
FAULT_NS = 9  # how long it sleeps
TIMER_NS = 10  # when its next timer event comes; -1: none
TIP = 11  # the node of its last entry; -1: none
KNOWN = 12  # entries that are recorded
BEGUN_NS = 13  # when the process began
BOUND_DECIDED = 14  # it may emit up to here; -1: nothing is decided
LATE = 15  # ... and has slept since
SLOW_NS = 16
LEAVES_NS = 17  # what it sends leaves no sooner
EMITTED = 18  # it emitted the outputs of all entries below
IDLE_DUE = 19
REMOVED_NS = 20  # when the FDU removed it; -1: it did not
AT_ONCE = 21  # how often in a row a time was due again at once
SHORTENED_NS = 22  # for the controls: a promise,
TRUNCATED_NS = 23  # when a snapshot took the place of entries that were not in it
OLDER = 24  # and marks: the number of flows, 3 words of each
NEWER = OLDER + 1 + 3 * MAX_FLOWS

# What a member's words say after its last event, for those who look at all members.
MIRROR = 56
M_ROLE, M_EPOCH, M_CONFIG, M_ACTIVE, M_WAIT_NS, M_PROMISE_NS, M_NEXT, M_BUSY = range(
    MIRROR, MIRROR + 8
)

# An event.
E_KIND, E_TO, E_LIFE, E_A, E_B, E_C, E_D, E_NEXT = range(8)

# A node: an entry in the tree of all logs.
N_PARENT, N_INDEX, N_HASH, N_HEAD, N_WHERE, N_FLOW, N_SEQ, N_OUT = range(8)
N_CREATOR, N_LIFE, N_NS, N_CHILD, N_SIBLING, N_EMITTED, N_ON_PATH = range(8, 15)

# An input; then, for each member, the life in which it took a copy, and when.
IN_FLOW, IN_EPOCH, IN_SEQ, IN_LENGTH, IN_DONE, IN_LOST, IN_UNHEARD, IN_PATH = range(8)
IN_TAKEN = 8

WORDS = numba.typeof(np.zeros(1, np.int64))
MEMBERS = types.UniTuple(MEMBER, SLOTS + 1)


def new_world() -> Words:
    """A world in which nothing is forced."""
    world = np.zeros(WORLD_WORDS, np.int64)
    world[FORCED_AT : FORCED_AT + PLAN_SIZE] = -1
    return world


def new_members() -> tuple[Member, ...]:
    """The members, as large as any schedule needs them, and the reference as the last one."""
    config = ReplicationConfig("pipelined", 8, 0, 8 * MS, 6 * MS, 20 * MS, BOUND, 4096, MAX_FLOWS)
    return tuple(
        new_member(
            config,
            new_counting_state(),
            np.zeros(1, np.int64),
            number,
            packet_room_bytes=PACKET_ROOM,
            operation_words=OPERATIONS,
        )
        for number in range(SLOTS + 1)
    )


PACKET_ROOM = 64
OPERATIONS = 24
"""Room of a packet in bytes, and of its operations in words."""


@compiled
def slot_at(number: int) -> int:
    """Where a member's place begins."""
    return SLOTS_AT + number * SLOT_WORDS


@compiled
def begin_world(w: Words, seed: int, seeded: int) -> None:
    """Time 0, no events, the generator at the seed."""
    for word in range(KEPT_WORDS):
        w[word] = 0
    for word in range(MARKS_AT, ENTROPY_AT):
        w[word] = 0
    for word in range(FOUND_AT, PLAN_AT):
        w[word] = 0
    for word in range(SLOTS_AT, PATHS_AT):
        w[word] = 0
    w[RANDOM] = seed
    w[SEEDED] = seeded
    w[OVERTAKEN] = -1
    w[FREE_EVENT] = w[FREE_MESSAGE] = -1


@compiled
def input_at(flow: int, epoch: int, seq: int) -> int:
    """The word where an input begins."""
    return INPUTS_AT + ((flow * EPOCHS + epoch) * SEQUENCES + seq) * INPUT_WORDS


@compiled
def bucket_of(flow: int) -> int:
    """The bucket that a flow is in."""
    return 3 * flow + 1


@compiled
def mix(value: int) -> int:
    """A hash of a word (splitmix64)."""
    value ^= (value >> 30) & 0x3FFFFFFFF
    value *= -0x40A7B892E31B1A47
    value ^= (value >> 27) & 0x1FFFFFFFFF
    value *= -0x6B2FB644ECCEEE15
    return value ^ ((value >> 31) & 0x1FFFFFFFF)


@compiled
def draw(w: Words, count: int) -> int:
    """One of `count` choices; 0 is the harmless one."""
    used = w[ENTROPY_USED]
    if used < w[ENTROPY_SIZE]:
        w[ENTROPY_USED] = used + 1
        return (w[ENTROPY_AT + used] & 0x3FFFFFFFFFFFFFFF) % count
    if w[SEEDED] == 0:
        return 0
    w[RANDOM] += -0x61C8864680B583EB
    return (mix(w[RANDOM]) & 0x3FFFFFFFFFFFFFFF) % count


@compiled
def chance(w: Words, percent: int) -> bool:
    """Whether something happens that happens so often."""
    return percent > 0 and draw(w, 100) >= 100 - percent


@compiled
def fail(w: Words, code: int, who: int, detail: int) -> None:
    """Note that a guarantee is broken."""
    found = w[FOUND]
    if found < FOUND_KEPT:
        at = FOUND_AT + 4 * found
        w[at], w[at + 1], w[at + 2], w[at + 3] = code, w[NOW], who, detail
    w[FOUND] = found + 1


@compiled
def count(w: Words, what: int) -> None:
    """Count something that happened."""
    w[STATS_AT + what] += 1


@compiled
def trace(w: Words, what: int, who: int, a: int, b: int, c: int, d: int) -> None:
    """Note a step, if a trace is wanted."""
    if w[TRACING] and w[TRACED] < MAX_TRACE:
        at = TRACE_AT + w[TRACED] * TRACE_WORDS
        w[TRACED] += 1
        w[at], w[at + 1], w[at + 2] = w[NOW], what, who
        w[at + 3], w[at + 4], w[at + 5], w[at + 6] = a, b, c, d


@compiled
def push(
    w: Words, time_ns: int, kind: int, to: int, life: int, a: int, b: int, c: int, d: int
) -> None:
    """An event will happen. Beyond the room for events it does not, and the schedule is void."""
    slot = w[FREE_EVENT]
    at = EVENTS_AT + slot * EVENT_WORDS
    if slot >= 0:
        w[FREE_EVENT] = w[at + E_NEXT]
    elif w[EVENT_SLOTS] < MAX_EVENTS:
        slot = w[EVENT_SLOTS]
        w[EVENT_SLOTS] = slot + 1
        at = EVENTS_AT + slot * EVENT_WORDS
    else:
        fail(w, 0, to, kind)
        return
    w[at + E_KIND], w[at + E_TO], w[at + E_LIFE] = kind, to, life
    w[at + E_A], w[at + E_B], w[at + E_C], w[at + E_D] = a, b, c, d
    key = time_ns << 20 | (w[NUMBER] & 0xFFFFF)
    w[NUMBER] += 1
    hole = w[EVENTS]
    w[EVENTS] = hole + 1
    while hole > 0:
        above = (hole - 1) >> 1
        if w[HEAP_AT + 2 * above] <= key:
            break
        w[HEAP_AT + 2 * hole] = w[HEAP_AT + 2 * above]
        w[HEAP_AT + 2 * hole + 1] = w[HEAP_AT + 2 * above + 1]
        hole = above
    w[HEAP_AT + 2 * hole] = key
    w[HEAP_AT + 2 * hole + 1] = slot


@compiled
def pop(w: Words) -> int:
    """The word where the next event begins; the clock moves on to it. Read it before any `push`."""
    slot = w[HEAP_AT + 1]
    w[NOW] = w[HEAP_AT] >> 20
    last = w[EVENTS] - 1
    w[EVENTS] = last
    key, moved = w[HEAP_AT + 2 * last], w[HEAP_AT + 2 * last + 1]
    hole = 0
    while True:
        below = 2 * hole + 1
        if below >= last:
            break
        if below + 1 < last and w[HEAP_AT + 2 * below + 2] < w[HEAP_AT + 2 * below]:
            below += 1
        if w[HEAP_AT + 2 * below] >= key:
            break
        w[HEAP_AT + 2 * hole] = w[HEAP_AT + 2 * below]
        w[HEAP_AT + 2 * hole + 1] = w[HEAP_AT + 2 * below + 1]
        hole = below
    w[HEAP_AT + 2 * hole] = key
    w[HEAP_AT + 2 * hole + 1] = moved
    at = EVENTS_AT + slot * EVENT_WORDS
    w[at + E_NEXT] = w[FREE_EVENT]
    w[FREE_EVENT] = slot
    return at


@compiled
def local_ns(w: Words, number: int) -> int:
    """What a member's clock shows."""
    slot = slot_at(number)
    return w[NOW] + w[NOW] * w[slot + RATE_PPM] // 1_000_000 + w[slot + OFFSET_NS]


@compiled
def world_ns(w: Words, number: int, local: int) -> int:
    """When a member's clock will show this; not before now."""
    slot = slot_at(number)
    elapsed = local - w[slot + OFFSET_NS]
    time_ns = elapsed * 1_000_000 // (1_000_000 + w[slot + RATE_PPM])
    while time_ns + time_ns * w[slot + RATE_PPM] // 1_000_000 < elapsed:
        time_ns += 1
    return max(time_ns, w[NOW])
