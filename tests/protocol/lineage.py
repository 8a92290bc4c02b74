"""All logs of a schedule as one tree: a node is an entry, its way to the root the log before it.

Two members agree if one's last node lies on the other's way. What was emitted is in the state that
survives if its node lies on the way of the last primary.
"""

from __future__ import annotations

from testbed.compiled import compiled
from testbed.vnf.replication.log import entry_at, words_of
from testbed.vnf.replication.member import LOG_FIRST, NEXT, SNAPSHOT_EPOCH, SNAPSHOT_INDEX
from testbed.vnf.state.arrays import Words
from tests.protocol.names import DIFFERENT_ENTRY, G2, UNKNOWN_SNAPSHOT, VOID
from tests.protocol.world import (
    KNOWN,
    LIFE,
    MAX_INDEX,
    MAX_NODES,
    MAX_SNAPSHOTS,
    N_CHILD,
    N_CREATOR,
    N_EMITTED,
    N_FLOW,
    N_HASH,
    N_HEAD,
    N_INDEX,
    N_LIFE,
    N_NS,
    N_ON_PATH,
    N_OUT,
    N_PARENT,
    N_SEQ,
    N_SIBLING,
    N_WHERE,
    NODE_WORDS,
    NODES,
    NODES_AT,
    NOW,
    PATHS_AT,
    SNAPSHOT_WORDS,
    SNAPSHOTS,
    SNAPSHOTS_AT,
    TIP,
    TRUNCATED_NS,
    fail,
    mix,
    slot_at,
)


@compiled
def begin_lineage(w: Words) -> None:
    """The tree has its root alone, which is no entry."""
    w[NODES] = 1
    w[SNAPSHOTS] = 0
    for word in range(NODE_WORDS):
        w[NODES_AT + word] = 0
    w[NODES_AT + N_INDEX] = -1


@compiled
def hash_words(words: Words, at: int, size: int) -> int:
    """A hash of these words in their order."""
    result = size
    for word in range(size):
        result = mix(result ^ words[at + word]) + word
    return result


@compiled
def node_of(w: Words, number: int, index: int) -> int:
    """The word where the node of this entry of a member's log begins."""
    return NODES_AT + w[PATHS_AT + number * MAX_INDEX + index] * NODE_WORDS


@compiled
def record(w: Words, m: Words, number: int) -> None:
    """Note the entries that a member appended or took."""
    slot = slot_at(number)
    while w[slot + KNOWN] < m[NEXT]:
        index = w[slot + KNOWN]
        if index >= MAX_INDEX or w[NODES] >= MAX_NODES:
            fail(w, VOID, number, 0)
            w[slot + KNOWN] = m[NEXT]
            return
        node = _child(w, m, number, w[slot + TIP], index, entry_at(m, index))
        w[PATHS_AT + number * MAX_INDEX + index] = node
        w[slot + TIP] = node
        w[slot + KNOWN] = index + 1


@compiled
def _child(w: Words, m: Words, number: int, parent: int, index: int, at: int) -> int:
    """The node of an entry after its parent's, made if it is new."""
    digest = hash_words(m, at, words_of(m[at]))
    above = NODES_AT + parent * NODE_WORDS
    node = w[above + N_CHILD]
    while node > 0:
        if w[NODES_AT + node * NODE_WORDS + N_HASH] == digest:
            return node
        node = w[NODES_AT + node * NODE_WORDS + N_SIBLING]
    node = w[NODES]
    w[NODES] = node + 1
    place = NODES_AT + node * NODE_WORDS
    w[place + N_PARENT], w[place + N_INDEX], w[place + N_HASH] = parent, index, digest
    w[place + N_HEAD], w[place + N_WHERE] = m[at], m[at + 1]
    w[place + N_FLOW], w[place + N_SEQ], w[place + N_OUT] = m[at + 2], m[at + 3], m[at + 4]
    w[place + N_CREATOR], w[place + N_LIFE] = number, w[slot_at(number) + LIFE]
    w[place + N_NS] = w[NOW]
    w[place + N_CHILD] = w[place + N_EMITTED] = w[place + N_ON_PATH] = 0
    w[place + N_SIBLING] = w[above + N_CHILD]
    w[above + N_CHILD] = node
    return node


@compiled
def note_snapshot(w: Words, m: Words, number: int) -> None:
    """A primary sends part of a snapshot: remember up to which node it goes."""
    epoch, index = m[SNAPSHOT_EPOCH], m[SNAPSHOT_INDEX]
    if _snapshot_at(w, epoch, index) >= 0:
        return
    if w[SNAPSHOTS] >= MAX_SNAPSHOTS:
        fail(w, VOID, number, 1)
        return
    at = SNAPSHOTS_AT + w[SNAPSHOTS] * SNAPSHOT_WORDS
    w[SNAPSHOTS] += 1
    w[at], w[at + 1] = epoch, index
    w[at + 2] = w[PATHS_AT + number * MAX_INDEX + index - 1] if index > 0 else 0


@compiled
def _snapshot_at(w: Words, epoch: int, index: int) -> int:
    """A primary has one log in its epoch, so both name the snapshot."""
    for number in range(w[SNAPSHOTS]):
        at = SNAPSHOTS_AT + number * SNAPSHOT_WORDS
        if w[at] == epoch and w[at + 1] == index:
            return at
    return -1


@compiled
def note_installed(w: Words, m: Words, number: int, epoch: int, index: int) -> None:
    """A member became what a snapshot says: its log is that of whoever took it."""
    slot = slot_at(number)
    at = _snapshot_at(w, epoch, index)
    if at < 0 or m[NEXT] != index:
        fail(w, G2, number, UNKNOWN_SNAPSHOT)
        return
    node = w[at + 2]
    known, tip = w[slot + KNOWN], w[slot + TIP]
    w[slot + TIP] = node
    w[slot + KNOWN] = index
    for place in range(index - 1, -1, -1):
        w[PATHS_AT + number * MAX_INDEX + place] = node
        node = w[NODES_AT + node * NODE_WORDS + N_PARENT]
    last = PATHS_AT + number * MAX_INDEX + known - 1
    if known > index or (known > 0 and w[last] != tip):
        w[slot + TRUNCATED_NS] = w[NOW]
    for held in range(m[LOG_FIRST], m[NEXT]):
        check_entry(w, m, number, held)


@compiled
def check_entry(w: Words, m: Words, number: int, index: int) -> None:
    """An entry that is kept must still be the one that was appended."""
    at = entry_at(m, index)
    if hash_words(m, at, words_of(m[at])) != w[node_of(w, number, index) + N_HASH]:
        fail(w, G2, number, DIFFERENT_ENTRY)
