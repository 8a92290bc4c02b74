"""The NAT's mappings and sessions: how they begin, are kept alive, and are forgotten.

Timers (see `nat`) run from the last packet that refreshes them. Expiry is lazy: what has expired
counts as absent, and is removed when its port or its slot is wanted again. A mapping that expired
comes to life again, with the same port, if its endpoint sends before that.

Nothing here reads what it has written to `effect` in the same packet; where two changes of one
mapping meet, `_Chain` carries the first one.
"""

from __future__ import annotations

from typing import NamedTuple

from testbed.compiled import compiled
from testbed.vnf.functions.effect import begin_put, erase, put
from testbed.vnf.functions.nat_pool import no_longer_full
from testbed.vnf.functions.nat_state import (
    ABOVE_ENDPOINT,
    ENDPOINT,
    ENDPOINT_MASK,
    EXPIRES,
    ICMP_NS,
    MAX_SESSIONS,
    NEXT,
    SLOT,
    TCP_ESTABLISHED_NS,
    TCP_TRANSITORY_NS,
    UDP_NS,
    internal_key,
    mapping_key,
    session_key,
)
from testbed.vnf.functions.packet import ICMP, TCP
from testbed.vnf.functions.table import LOOKED_AT, REFRESH_NS, plain_key
from testbed.vnf.functions.tcp_sessions import established, next_bits
from testbed.vnf.state.arrays import Words
from testbed.vnf.state.records import Key, Records, find

MAX_REMOTES = 64
"""Sessions of one mapping; beyond it the one that would expire first goes."""

_NONE, _FULL = -1, -2


class Side(NamedTuple):
    """What a packet says about its session: mapping, remote endpoint, TCP flags, direction."""

    protocol: int
    port: int
    internal: int
    remote: int
    flags: int
    inbound: int


class _Chain(NamedTuple):
    """A mapping's sessions, as they are after the changes made so far."""

    sessions: int
    first: int


@compiled
def session_alive(records: Records, row: int, now_ns: int) -> bool:
    """Whether there is a session in the row (-1: none) that has not expired."""
    return row >= 0 and records.values[row, EXPIRES] > now_ns


@compiled
def renew(
    records: Records, effect: Words, config: Words, row: int, side: Side, now_ns: int
) -> None:
    """Note a packet of the session in the row, which lives or comes to life again."""
    before_ns, word = records.values[row, EXPIRES], records.values[row, ENDPOINT]
    alive = before_ns > now_ns
    old_bits = word >> ABOVE_ENDPOINT if alive else 0
    bits = next_bits(old_bits, side.flags, side.inbound) if side.protocol == TCP else 0
    expires_ns = now_ns + _timeout_ns(config, side.protocol, bits) + REFRESH_NS
    sooner = alive and expires_ns < before_ns - REFRESH_NS
    if alive and bits == old_bits and not sooner and expires_ns - before_ns < REFRESH_NS:
        return
    at = begin_put(effect, session_key(side.protocol, side.port, side.remote), EXPIRES, 2)
    if at >= 0:
        effect[at] = expires_ns
        effect[at + 1] = side.internal | bits << ABOVE_ENDPOINT
    key = mapping_key(side.protocol, side.port)
    mapping = find(records, key)
    if mapping < 0:
        return  # no session is without its mapping
    until_ns = records.values[mapping, EXPIRES]
    if sooner:
        others_ns = _latest(records, side, records.values[mapping, NEXT])
        put(effect, key, EXPIRES, max(expires_ns, others_ns))
        no_longer_full(records, effect, config, side.protocol, side.port)
    elif expires_ns > until_ns:
        put(effect, key, EXPIRES, expires_ns)


@compiled
def begin_session(
    records: Records, effect: Words, config: Words, side: Side, known: bool, now_ns: int
) -> bool:
    """Make a session, and its mapping if it is not `known`; False if there is no room.

    The public port was free if the mapping is not known: whatever is left of a former mapping
    there goes.
    """
    key = mapping_key(side.protocol, side.port)
    mapping = find(records, key)
    if mapping >= 0 and not known:
        _release(records, effect, side.protocol, side.port, mapping)
    victim = _take_slot(
        records,
        effect,
        config[MAX_SESSIONS],
        session_key(side.protocol, side.port, side.remote),
        now_ns,
    )
    if victim == _FULL:
        return False
    chain, until_ns = _Chain(0, 0), 0
    if mapping >= 0 and known:
        chain = _Chain(
            records.values[mapping, ENDPOINT] >> ABOVE_ENDPOINT, records.values[mapping, NEXT]
        )
        until_ns = records.values[mapping, EXPIRES]
    if victim >= 0:
        head = records.keys[victim, 0]
        if (head >> 48 & 0xFF) != side.protocol or (head & 0xFFFF) != side.port:
            _forget(records, effect, victim)
        elif known:
            chain = _unlink(records, effect, side, chain, victim)
        # Otherwise it went with its mapping.
    if chain.sessions >= MAX_REMOTES:
        soonest = _soonest(records, side, chain.first)
        chain = _unlink(records, effect, side, chain, soonest)
    _put_session(effect, config, side, chain, until_ns, now_ns)
    if not known:
        put(effect, internal_key(side.protocol, side.internal), 0, side.port)
    return True


@compiled
def address_known(
    records: Records, protocol: int, port: int, first: int, address: int, now_ns: int
) -> bool:
    """Whether one of the sessions from `first` on lives and is with the remote address."""
    link = first
    for _ in range(MAX_REMOTES):
        if link == 0:
            return False
        row = find(records, session_key(protocol, port, link - 1))
        if row < 0:
            return False
        if (link - 1) >> 16 == address and records.values[row, EXPIRES] > now_ns:
            return True
        link = records.values[row, NEXT]
    return False


@compiled
def _timeout_ns(config: Words, protocol: int, bits: int) -> int:
    if protocol == TCP:
        return config[TCP_ESTABLISHED_NS] if established(bits) else config[TCP_TRANSITORY_NS]
    return config[ICMP_NS] if protocol == ICMP else config[UDP_NS]


@compiled
def _put_session(
    effect: Words, config: Words, side: Side, chain: _Chain, until_ns: int, now_ns: int
) -> None:
    """Write a new session at the head of its mapping's chain."""
    bits = next_bits(0, side.flags, side.inbound) if side.protocol == TCP else 0
    expires_ns = now_ns + _timeout_ns(config, side.protocol, bits) + REFRESH_NS
    at = begin_put(effect, session_key(side.protocol, side.port, side.remote), 0, 3)
    if at >= 0:
        effect[at + EXPIRES] = expires_ns
        effect[at + ENDPOINT] = side.internal | bits << ABOVE_ENDPOINT
        effect[at + NEXT] = chain.first
    at = begin_put(effect, mapping_key(side.protocol, side.port), 0, 3)
    if at >= 0:
        effect[at + EXPIRES] = max(until_ns, expires_ns)
        effect[at + ENDPOINT] = side.internal | (chain.sessions + 1) << ABOVE_ENDPOINT
        effect[at + NEXT] = side.remote + 1


@compiled
def _latest(records: Records, side: Side, first: int) -> int:
    """When the last of the mapping's sessions expires, but for the one with `side.remote`."""
    latest_ns, link = 0, first
    for _ in range(MAX_REMOTES):
        if link == 0:
            break
        row = find(records, session_key(side.protocol, side.port, link - 1))
        if row < 0:
            break
        if link - 1 != side.remote:
            latest_ns = max(latest_ns, records.values[row, EXPIRES])
        link = records.values[row, NEXT]
    return latest_ns


@compiled
def _soonest(records: Records, side: Side, first: int) -> int:
    """The row of the session that expires first, of those from `first` on."""
    soonest, soonest_ns, link = _NONE, 0, first
    for _ in range(MAX_REMOTES):
        if link == 0:
            break
        row = find(records, session_key(side.protocol, side.port, link - 1))
        if row < 0:
            break
        expires_ns = records.values[row, EXPIRES]
        if soonest < 0 or expires_ns < soonest_ns:
            soonest, soonest_ns = row, expires_ns
        link = records.values[row, NEXT]
    return soonest


@compiled
def _unlink(records: Records, effect: Words, side: Side, chain: _Chain, row: int) -> _Chain:
    """Forget a session of the mapping of `side`; the caller writes the chain that is left."""
    if row < 0:
        return chain
    remote, after = records.keys[row, 1], records.values[row, NEXT]
    erase(effect, session_key(side.protocol, side.port, remote))
    if chain.first == remote + 1:
        return _Chain(chain.sessions - 1, after)
    link = chain.first
    for _ in range(MAX_REMOTES):
        if link == 0:
            break
        before_key = session_key(side.protocol, side.port, link - 1)
        before = find(records, before_key)
        if before < 0:
            break
        link = records.values[before, NEXT]
        if link == remote + 1:
            put(effect, before_key, NEXT, after)
            break
    return _Chain(chain.sessions - 1, chain.first)


@compiled
def _forget(records: Records, effect: Words, row: int) -> None:
    """Forget an expired session of a mapping that the packet does not concern."""
    head = records.keys[row, 0]
    protocol, port = head >> 48 & 0xFF, head & 0xFFFF
    key = mapping_key(protocol, port)
    mapping = find(records, key)
    if mapping < 0:
        return
    endpoint = records.values[mapping, ENDPOINT] & ENDPOINT_MASK
    count = records.values[mapping, ENDPOINT] >> ABOVE_ENDPOINT
    if count <= 1:
        _release(records, effect, protocol, port, mapping)
        return
    zero = port & 0
    side = Side(protocol, port, endpoint, zero, zero, zero)
    chain = _unlink(records, effect, side, _Chain(count, records.values[mapping, NEXT]), row)
    at = begin_put(effect, key, ENDPOINT, 2)
    if at >= 0:
        effect[at] = endpoint | chain.sessions << ABOVE_ENDPOINT
        effect[at + 1] = chain.first


@compiled
def _release(records: Records, effect: Words, protocol: int, port: int, mapping: int) -> None:
    """Remove an expired mapping and its sessions. Their slots are free without further ado."""
    link = records.values[mapping, NEXT]
    for _ in range(MAX_REMOTES):
        if link == 0:
            break
        key = session_key(protocol, port, link - 1)
        row = find(records, key)
        if row < 0:
            break
        erase(effect, key)
        link = records.values[row, NEXT]
    erase(effect, mapping_key(protocol, port))
    key = internal_key(protocol, records.values[mapping, ENDPOINT] & ENDPOINT_MASK)
    row = find(records, key)
    if row >= 0 and records.values[row, 0] == port:
        erase(effect, key)


@compiled
def _take_slot(records: Records, effect: Words, slots: int, key: Key, now_ns: int) -> int:
    """Give a new session a slot, as `table.admit` does, which knows nothing of chains.

    Returns the row of the expired session that was there, _NONE, or _FULL. A slot whose session
    was erased is free.
    """
    hand_key = plain_key(SLOT, 0)
    row = find(records, hand_key)
    hand = records.values[row, 0] % slots if row >= 0 else 0
    for step in range(min(LOOKED_AT, slots)):
        slot = (hand + step) % slots
        slot_key = plain_key(SLOT, slot + 1)
        row = find(records, slot_key)
        holder = _NONE
        if row >= 0:
            zero = slot & 0
            holder_key = (records.values[row, 0], records.values[row, 1], zero, zero, zero)
            holder = find(records, holder_key)
        if holder < 0 or records.values[holder, EXPIRES] <= now_ns:
            at = begin_put(effect, slot_key, 0, 2)
            if at >= 0:
                effect[at] = key[0]
                effect[at + 1] = key[1]
            put(effect, hand_key, 0, (slot + 1) % slots)
            return holder
    put(effect, hand_key, 0, (hand + LOOKED_AT) % slots)
    return _FULL
