"""A member of a replica group as one array of words: what the protocol's compiled code works on.

The protocol is a set of functions (`flows`, `log`, `handling`, `messages`, `snapshot`, `protocol`)
on this array: events in, times as arguments, no I/O. What is to be sent or emitted follows from
cursors in it, never from a list of actions.

The array begins with single words (`SELF` and so on); tables follow, and where each begins is in a
word of its own. `flow_at`, `peer`, `slot` name the word where a flow, another member or an input
that waits begins; `m[flow_at + F_EPOCH]` is a field of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, get_args

import numba
import numpy as np

from testbed.compiled import compiled
from testbed.scenario.types import ReplicationMode
from testbed.vnf.functions.effect import HEADER_WORDS, OPERATION_WORDS
from testbed.vnf.state.arrays import Bytes, Words
from testbed.vnf.state.records import KEY_WORDS, Records, new_records

MAX_MEMBERS = 8
PACKET_ROOM_BYTES = 1536
"""Bytes of a packet that a buffer has room for, a multiple of 8."""
MAX_PACKET_BYTES = 1500
ENTRY_HEAD_WORDS = 5
"""Words of a log entry before its operations (see `log`)."""

# Single words.
SELF = 0  # own member number
ROLE = 1
GROUP_EPOCH = 2  # of what is sent, and of the messages that are taken
CONFIG_EPOCH = 3  # of the last configuration that the FDU gave
SEEN_EPOCH = 4  # the highest that anyone was seen to be in: above GROUP_EPOCH, a primary waits
BASE = 5  # a primary: the log index at which its tenure began
TENURE = 6  # the epoch in which the primary took over whose log the own one is a beginning of
LEADER = 7  # a follower: whom it follows
NEXT = 8  # the index of the next log entry
RELEASED = 9  # the outputs of all entries below are emitted, or known to be
COMMITTED = 10  # all entries below are at every member that must have them
CLOSED = 11  # a primary: the end of the last batch that is due
OPENED_NS = 12  # a primary: when the first entry of the open batch was appended
PROMISE_NS = 13  # a follower: it releases nothing of its own before this time
WAIT_NS = 14  # a primary: it releases nothing before this time (its promise as a follower)
DRAINING = 15  # a primary: it takes no input into the log any more, to hand over
NEEDS_SNAPSHOT = 16  # a follower: its state is not one that the log goes on from
LOG_TAIL = 17  # where the next entry goes in the ring of the log, in words
LOG_FIRST = 18  # the oldest entry that is kept
FLOWS = 19  # how many flows are known
FREE_INPUT = 20  # heads of the lists of slots given back: for packets, for notes of losses
FREE_NOTE = 21
INPUTS = 22  # packets that wait
NOTES = 23  # notes that wait
GAP_FIRST = 24  # flows that miss something, by deadline: a list
GAP_LAST = 25
READY_FIRST = 26  # flows whose next input waits for room in the log: a list
READY_LAST = 27
SNAPSHOT_INDEX = 28  # the log index of the snapshot that is sent or received
SNAPSHOT_WORDS = 29  # its length
SNAPSHOT_GOT = 30  # a follower: how much of it has come without a gap
SNAPSHOT_EPOCH = 31  # the epoch in which it was taken; -1: there is none
LOSSES = 32  # declared losses so far (the newest are in `losses`)
COPIES_DROPPED = 33  # a follower's copies that found no room
PROCESSED = 34  # packets that the function was run on
CALLER = 35  # room for whoever holds the member: a simulation, a negative control

# Where the tables begin, and how large they are.
AT_FLOW_SLOTS = 36  # FLOW_SLOTS words: where a flow begins, by linear probing; 0: free
FLOW_SLOTS = 37
AT_FLOWS = 38
MAX_FLOWS = 39
AT_INPUTS = 40  # slots of packets that wait
INPUTS_END = 41
INPUT_STRIDE = 42
PACKET_ROOM = 43  # bytes
AT_ENTRIES = 44  # ENTRY_PLACES words: where a log entry begins
ENTRY_PLACES = 45
AT_LOG = 46
LOG_END = 47
AT_LOSSES = 48
AT_SNAPSHOT = 49
SNAPSHOT_ROOM = 50
MOST_ENTRY_WORDS = 51  # words of the largest log entry

# What the configuration says.
S_DEFT = 52
S_BATCH_PACKETS = 53
S_BATCH_NS = 54
S_GAP_NS = 55
S_RESEND_NS = 56
S_LEASE_NS = 57
S_MESSAGE_WORDS = 58
S_ALONE = 59  # 1: outputs need no backup (mode "none", or availability)
S_PROTECTED = 60  # 0: mode "none"
S_BOUND = 61  # log entries that are kept at most

FORMER_TENURE = 62  # a primary: what TENURE was before its own began
FLOW_CURSOR = 63  # where the search for a flow that gives way goes on

# Operations on linearizable records (see `shared`).
S_SHARED = 64  # 1: they have to be asked for; 0: no other group shares them
SHARED_INDEX = 65  # how many of all that were granted the state contains
AT_ASK = 66  # what is asked for next, ASK_FILL words of it
ASK_FILL = 67
ASK_ROOM = 68
ASK_NUMBER = 69  # the number of the next ask
ASK_ANSWERED = 70  # the last that was answered; one is on its way at a time
ASKED_FIRST = 71  # flows whose next input waits for an answer, by number of the ask: a list
ASKED_LAST = 72
UNUSED_INPUT = 73  # the first slots that were never used, in memory that is not touched yet
UNUSED_NOTE = 74

# What came before its turn, at a follower.
EARLY_END = 75  # the end of the entries that wait for others (see `early`); none above NEXT: none
EARLY_FILL = 76  # words that were used for them
EARLY_LIVE = 77  # and words of those that still wait
SNAPSHOT_PARTS = 78  # bit k: of the parts of a snapshot after SNAPSHOT_GOT number k has come
CALLED_EPOCH = 79  # a primary of this epoch sent something before the FDU's word on it came
CALLED_BY = 80  # who that was
ASK_AGAIN = 81  # bit n: member n is to be asked to send again what came too early
PEERS = 88

OUT, FOLLOWER, PRIMARY = 0, 1, 2
"""Roles. A backup and a learner do the same: what differs is how the primary counts them."""

# What is known of another member, from the word `peer_at(number)` on.
P_STATE = 0
P_ACKED = 1  # it has all entries below
P_SENT = 2  # what is sent next; goes back to P_ACKED when an acknowledgement stays away
P_SENT_EVER = 3
P_TOLD = 4  # the commit index that it has acknowledged to know; -1: it has not answered yet
P_LEASE_NS = 5  # it promised not to act as a primary before
P_RESEND_NS = 6  # when to send again; NEVER
P_RESENT = 7  # how often in a row
P_CREDIT = 8  # while lost entries are sent again: how many may follow now; NO_LIMIT: all
P_ASK = 9  # an empty message is due: it renews the lease, or tells the commit index
P_ACK_DUE = 10  # a follower owes it an acknowledgement
P_ECHO_NS = 11  # the sending time of the message that is acknowledged; NO_ECHO: none is
P_SYNC = 12  # IN_LOG, WANTED or UNDER_WAY
P_CHUNK = 13  # snapshot words sent
P_CHUNK_ACKED = 14  # snapshot words that have arrived
P_CAUGHT_UP = 15  # the FDU is to be told that this learner may be admitted
P_WAITED = 16  # commits wait for this learner, which has not all that is committed yet
P_SYNCED_NS = 17  # when P_SYNC last changed: answers to what was sent before do not change it
PEER_WORDS = 18

NO_PEER, LEARNING, REQUIRED = 0, 1, 2
"""How a primary counts a member: it follows the log; commits wait for it.

A learner that has caught up is REQUIRED before the FDU may admit it as a backup: else it could be
promoted without an entry that was committed. It is so from when it is near: under load, a primary
that commits alone would else always be ahead of it by what is on the way."""

NEAR_SHARE = 8
"""A learner that lacks less than this part of the log's bound is near."""

IN_LOG, WANTED, UNDER_WAY = 0, 1, 2
"""Whether a member goes on from the log, or needs a snapshot, or is being sent one."""

NEVER = 1 << 62
NO_ECHO = -NEVER
NO_LIMIT = -1

# A flow. What every packet needs comes first: of a flow in a large table it is in no cache.
F_KEY = 0  # base path << 32 | flow
F_EPOCH = 1  # the stamper's epoch that is handled, -1 before the first
F_EXPECTED = 2  # the next sequence number
F_OUT = 3  # the next output sequence number
F_HEAD = 4  # the first input that waits, -1: none; in order of (epoch, seq)
F_TAIL = 5
F_LOST_EPOCH = 6  # the last input that is known to be lost and was not even noted; -1: none
F_PATH = 7  # the path of its last input, with the shard
F_BUCKET = 8
F_ASKED = 9  # the ask whose answer its next input waits for; 0: none
F_ASKED_NEXT = 10
F_LOST_SEQ = 11
F_GAP_NS = 12  # when what is missing is declared lost; NEVER: nothing is missing
F_GAP_EPOCH = 13  # the position that is missing
F_GAP_SEQ = 14
F_GAP_PREVIOUS = 15
F_GAP_NEXT = 16
F_READY = 17  # in the list of ready flows
F_READY_NEXT = 18
FLOW_WORDS = 19

# An input that waits; its packet follows.
I_EPOCH = 0
I_SEQ = 1
I_LENGTH = 2
I_REASON = 3  # NOT_LOST for a packet
I_PATH = 4
I_NEXT = 5
INPUT_WORDS = 6

# Reasons for which an input is lost, in a log entry.
NOT_LOST, GAP, BUFFER_FULL, NO_CPU, TOO_LARGE = 0, 1, 2, 3, 4
LOSS_REASONS = ("", "gap", "input-buffer-full", "no-cpu", "too-large")
GRANTED = 255
"""In the place of a reason: the entry is of no input, but of granted operations (see `shared`)."""

# What became of a copy of a packet, as `on_packet` says.
TAKEN, DUPLICATE, OLD_EPOCH, BEYOND_WINDOW, COPY_BUFFER_FULL, FLOWS_FULL, NOT_MEMBER = range(7)
COPY_FATES = (
    "taken",
    "duplicate",
    "old-epoch",
    "beyond-window",
    "copy-buffer-full",
    "flow-table-full",
    "not-member",
)

LOSSES_KEPT = 4096
"""The newest declared losses that a member remembers: path, flow, epoch, seq, reason each."""

LOSS_WORDS = 5

DEFT_BATCH_NS = 5_000_000
"""How long a batch of mode "deft" waits for more when `batch_ns` is 0. DEFT fills its batches and
names no time, so that the last packets of a burst would never leave."""


@dataclass(frozen=True, slots=True)
class ReplicationConfig:
    """How a group replicates. Raises ValueError for a value out of range.

    batch_packets      a batch is sent when it has this many entries; messages hold no more
    batch_ns           ... or when its first entry is this old; 0 in mode "pipelined": when the
                       input runs empty; 0 in mode "deft": see `DEFT_BATCH_NS`
    gap_timeout_ns     a packet that is missed this long is declared lost
    retransmit_ns      entries that are unacknowledged this long are sent again
    lease_ns           an acknowledgement lets the primary release outputs for this long after the
                       message that it answers
    buffer_packets     bound of the input buffer, and of the entries that wait for backups
    max_message_bytes  bound of an encoded message
    max_flows          flows that the group keeps in order; packets of more are refused
    availability       go on, and release, when no backup is left; else outputs wait for one
    shared             other groups share the linearizable records: operations on them are asked for
    """

    mode: ReplicationMode
    batch_packets: int
    batch_ns: int
    gap_timeout_ns: int
    retransmit_ns: int
    lease_ns: int
    buffer_packets: int
    max_message_bytes: int = 60_000
    max_flows: int = 1 << 16
    availability: bool = False
    shared: bool = False

    def __post_init__(self) -> None:
        if self.mode not in get_args(ReplicationMode):
            raise ValueError(f"mode = {self.mode!r}: expected one of {get_args(ReplicationMode)}")
        least = {
            "batch_packets": 1,
            "batch_ns": 0,
            "gap_timeout_ns": 1,
            "retransmit_ns": 1,
            "lease_ns": 1,
            "buffer_packets": 1,
            "max_message_bytes": 256,
            "max_flows": 1,
        }
        for name, low in least.items():
            value = getattr(self, name)
            if type(value) is not int or value < low:
                raise ValueError(f"{name} = {value!r}: expected an integer of at least {low}")


class Member(NamedTuple):
    """One member of a group.

    words            see above
    records          the state of the network function
    effect, packet   what the function says about a packet, and the packet that it works on
    config           the configuration of the function
    """

    words: Words
    records: Records
    effect: Words
    packet: Bytes
    config: Words


def new_member(
    config: ReplicationConfig,
    records: Records,
    function_config: Words,
    number: int,
    *,
    packet_room_bytes: int = PACKET_ROOM_BYTES,
    operation_words: int = OPERATION_WORDS,
) -> Member:
    """A member that knows nothing yet and belongs to no group: `configure` makes it one.

    Memory is taken as it is used. Raises ValueError for a number out of range.
    """
    if not 0 <= number < MAX_MEMBERS:
        raise ValueError(f"member = {number}: expected 0 to {MAX_MEMBERS - 1}")
    member = Member(
        words=_layout(config, records, packet_room_bytes, operation_words),
        records=records,
        effect=np.zeros(HEADER_WORDS + operation_words, np.int64),
        packet=np.zeros(packet_room_bytes, np.uint8),
        config=function_config,
    )
    _begin(member.words, number)
    return member


def _layout(
    config: ReplicationConfig, records: Records, packet_room_bytes: int, operation_words: int
) -> Words:
    """The array of a member, with the places of its tables and its settings filled in."""
    capacity, value_words = records.values.shape
    bound, flows = config.buffer_packets, config.max_flows
    packet_words = packet_room_bytes // 8
    most_entry_words = ENTRY_HEAD_WORDS + packet_words + operation_words
    # Room for all entries at their usual size, and for the largest at least three times.
    log_words = max(bound * (ENTRY_HEAD_WORDS + packet_words + 24), 3 * most_entry_words)
    input_stride = INPUT_WORDS + packet_words
    # Room for the largest effect, with what each of its operations (of two words at least) expects.
    ask_words = 2 + operation_words * (2 + value_words) if config.shared else 0
    sizes = {
        AT_FLOW_SLOTS: 1 << (2 * flows - 1).bit_length(),
        AT_FLOWS: flows * FLOW_WORDS,
        AT_INPUTS: bound * (input_stride + INPUT_WORDS),
        AT_ENTRIES: 1 << bound.bit_length(),
        AT_LOG: log_words,
        AT_LOSSES: LOSSES_KEPT * LOSS_WORDS,
        # Entries that came early lie there too, each with its index.
        AT_SNAPSHOT: 9 + capacity * (value_words + KEY_WORDS + 1) + flows * 5 + log_words + bound,
        AT_ASK: ask_words,
    }
    begin = PEERS + MAX_MEMBERS * PEER_WORDS
    m = np.zeros(begin + sum(sizes.values()), np.int64)
    for place, size in sizes.items():
        m[place] = begin
        begin += size
    m[FLOW_SLOTS], m[ENTRY_PLACES] = sizes[AT_FLOW_SLOTS], sizes[AT_ENTRIES]
    m[MAX_FLOWS], m[SNAPSHOT_ROOM] = flows, sizes[AT_SNAPSHOT]
    m[INPUTS_END] = m[AT_INPUTS] + bound * input_stride
    m[INPUT_STRIDE], m[PACKET_ROOM] = input_stride, packet_room_bytes
    m[LOG_END], m[MOST_ENTRY_WORDS] = m[AT_LOG] + log_words, most_entry_words
    m[ASK_ROOM] = ask_words
    _write_settings(m, config)
    return m


def _write_settings(m: Words, config: ReplicationConfig) -> None:
    is_deft = config.mode == "deft"
    m[S_DEFT] = is_deft
    m[S_BATCH_PACKETS] = config.batch_packets
    m[S_BATCH_NS] = config.batch_ns or (DEFT_BATCH_NS if is_deft else 0)
    m[S_GAP_NS] = config.gap_timeout_ns
    m[S_RESEND_NS] = config.retransmit_ns
    m[S_LEASE_NS] = config.lease_ns
    m[S_MESSAGE_WORDS] = config.max_message_bytes // 8
    m[S_PROTECTED] = config.mode != "none"
    m[S_ALONE] = config.mode == "none" or config.availability
    m[S_BOUND] = config.buffer_packets
    m[S_SHARED] = config.shared


@compiled("int64(int64)")
def peer_at(number: int) -> int:
    """Where what is known of this member begins."""
    return PEERS + number * PEER_WORDS


@compiled
def reset_member(member: Member, number: int) -> None:
    """Forget everything: the member is one that knows nothing and belongs to no group."""
    m = member.words
    for slot in range(m[FLOW_SLOTS]):
        m[m[AT_FLOW_SLOTS] + slot] = 0
    member.records.head[:] = 0
    member.records.slots[:] = 0
    _begin(m, number)


@compiled
def _begin(m: Words, number: int) -> None:
    """Set what is not in tables; these are clear already, and so untouched where they are new."""
    for word in range(AT_FLOW_SLOTS):
        m[word] = 0
    for word in range(EARLY_END, PEERS + MAX_MEMBERS * PEER_WORDS):
        m[word] = 0
    for peer in range(MAX_MEMBERS):
        m[peer_at(peer) + P_RESEND_NS] = NEVER
        m[peer_at(peer) + P_ECHO_NS] = NO_ECHO
    m[SELF] = number
    m[FORMER_TENURE] = m[FLOW_CURSOR] = 0
    m[LEADER] = m[SNAPSHOT_EPOCH] = -1
    m[GAP_FIRST] = m[GAP_LAST] = m[READY_FIRST] = m[READY_LAST] = -1
    m[ASKED_FIRST] = m[ASKED_LAST] = -1
    m[SHARED_INDEX] = m[ASK_FILL] = m[ASK_ANSWERED] = 0
    m[ASK_NUMBER] = 1
    m[LOG_TAIL] = m[AT_LOG]
    m[FREE_INPUT] = m[FREE_NOTE] = -1
    m[UNUSED_INPUT], m[UNUSED_NOTE] = m[AT_INPUTS], m[INPUTS_END]


def example_member() -> Member:
    """A small member, from which the types of compiled functions are taken."""
    config = ReplicationConfig("none", 1, 0, 1, 1, 1, 1, 256, 1)
    return new_member(config, new_records(1, 1), np.zeros(1, np.int64), 0)


MEMBER = numba.typeof(example_member())
"""The type of `Member` in signatures of compiled functions."""
