"""The NAT's public ports: which may stand for an internal one, and which of these is free.

RFC 4787: ports 1-1023 stand for each other (REQ-3 a), parity is kept (REQ-4), no port is
overloaded (REQ-3). A port that is free keeps its number; else, if the neighbour of the same pair
(RTP and RTCP) has a port, the one beside it (4.2.3); else the search goes round the owned blocks.
If these have none, a NAT that shares its address may claim a block of nobody's, and looks again
when it was granted.
"""

from __future__ import annotations

from typing import NamedTuple

from testbed.compiled import compiled
from testbed.vnf.functions.effect import erase, put
from testbed.vnf.functions.nat_state import (
    BLOCK_SHIFT,
    CURSOR,
    EXPIRES,
    FIRST_PORT,
    FULL,
    INSTANCE,
    LAST_PORT,
    NOBODY,
    block_key,
    internal_key,
    mapping_key,
    owns,
)
from testbed.vnf.functions.packet import ICMP
from testbed.vnf.functions.table import plain_key
from testbed.vnf.state.arrays import Words
from testbed.vnf.state.records import Key, Records, find

LEAST_PORT_OF_USERS = 1024
CLASSES = 5
CLAIM_STRIDE = 16
FRUITLESS_BLOCKS = 8
"""Blocks that one packet searches in vain before it is dropped; the next one searches on. Blocks
that are known to be full do not count, so what is missed is a port in a pool that is all but full.
"""


class PortClass(NamedTuple):
    """The ports first, first + step, ... last, which may stand for each other."""

    number: int
    first: int
    last: int
    step: int


@compiled
def port_class(config: Words, protocol: int, port: int) -> PortClass:
    """The ports that may stand for `port`."""
    odd = port & 1
    zero = port & 0
    if protocol == ICMP:
        return PortClass(zero, zero, zero + 65_535, zero + 1)
    if port < LEAST_PORT_OF_USERS:
        return PortClass(1 + odd, 2 - odd, 1022 + odd, zero + 2)
    first, last = config[FIRST_PORT], config[LAST_PORT]
    return PortClass(3 + odd, first + ((first ^ odd) & 1), last - ((last ^ odd) & 1), zero + 2)


@compiled
def free_port(
    records: Records, effect: Words, config: Words, protocol: int, internal: int, now_ns: int
) -> int:
    """A port without a live mapping for an internal endpoint, or -1."""
    wanted = internal & 0xFFFF
    ports = port_class(config, protocol, wanted)
    if _usable(records, config, protocol, ports, wanted, now_ns):
        return wanted
    if protocol != ICMP:
        row = find(records, internal_key(protocol, internal ^ 1))
        if row >= 0:
            beside = records.values[row, 0] ^ 1
            if _usable(records, config, protocol, ports, beside, now_ns):
                return beside
    return _search(records, effect, config, protocol, ports, now_ns)


@compiled
def claim_block(
    records: Records, effect: Words, config: Words, protocol: int, internal: int
) -> bool:
    """Ask for a block, of nobody's, with ports for an internal endpoint; False: there is none.

    Instances begin to look at different places, so that few ask for the same one.
    """
    ports = port_class(config, protocol, internal & 0xFFFF)
    shift = config[BLOCK_SHIFT]
    first, last = ports.first >> shift, ports.last >> shift
    blocks = last - first + 1
    begin = config[INSTANCE] * CLAIM_STRIDE % blocks
    for step in range(blocks):
        block = first + (begin + step) % blocks
        key = block_key(block)
        row = find(records, key)
        if row < 0 or records.values[row, 0] == NOBODY:
            put(effect, key, 0, config[INSTANCE])
            return True
    return False


@compiled
def no_longer_full(
    records: Records, effect: Words, config: Words, protocol: int, port: int
) -> None:
    """A mapping will end sooner than was thought when its block was full."""
    ports = port_class(config, protocol, port)
    key = _full_key(protocol, ports, port >> config[BLOCK_SHIFT])
    if find(records, key) >= 0:
        erase(effect, key)


@compiled
def _usable(
    records: Records, config: Words, protocol: int, ports: PortClass, port: int, now_ns: int
) -> bool:
    return (
        ports.first <= port <= ports.last
        and owns(records, config, port >> config[BLOCK_SHIFT])
        and _free_at(records, protocol, port) <= now_ns
    )


@compiled
def _free_at(records: Records, protocol: int, port: int) -> int:
    """From when on a port is free; 0 if it is."""
    row = find(records, mapping_key(protocol, port))
    return int(records.values[row, EXPIRES]) if row >= 0 else 0


@compiled
def _full_key(protocol: int, ports: PortClass, block: int) -> Key:
    return plain_key(FULL, protocol << 48 | ports.number << 40 | block)


@compiled
def _search(
    records: Records, effect: Words, config: Words, protocol: int, ports: PortClass, now_ns: int
) -> int:
    """A free port of an owned block, from the cursor on; -1 if there is none."""
    shift = config[BLOCK_SHIFT]
    cursor_key = plain_key(CURSOR, protocol << 48 | ports.number)
    row = find(records, cursor_key)
    port = int(records.values[row, 0]) if row >= 0 else ports.first
    blocks = (ports.last >> shift) - (ports.first >> shift) + 1
    if not _begins_block(ports, port, shift):
        blocks += 1  # its end comes first, the whole of it last
    fruitless = 0
    for _ in range(blocks):
        block = port >> shift
        last = min(ports.last, ((block + 1) << shift) - 1)
        if owns(records, config, block) and _full_until(records, protocol, ports, block) <= now_ns:
            earliest_ns = 0
            for number in range(port, last + 1, ports.step):
                free_ns = _free_at(records, protocol, number)
                if free_ns <= now_ns:
                    put(effect, cursor_key, 0, _after(ports, number))
                    return number
                earliest_ns = min(earliest_ns, free_ns) if earliest_ns else free_ns
            if _begins_block(ports, port, shift):
                put(effect, _full_key(protocol, ports, block), 0, earliest_ns)
                fruitless += 1
        port = _after(ports, last - (last - port) % ports.step)
        if fruitless == FRUITLESS_BLOCKS:
            put(effect, cursor_key, 0, port)
            break
    return -1


@compiled
def _begins_block(ports: PortClass, port: int, shift: int) -> bool:
    """Whether no port of the class lies before this one in its block, which begins evenly."""
    return port <= max(ports.first, (port >> shift << shift) + ports.step - 1)


@compiled
def _full_until(records: Records, protocol: int, ports: PortClass, block: int) -> int:
    row = find(records, _full_key(protocol, ports, block))
    return int(records.values[row, 0]) if row >= 0 else 0


@compiled
def _after(ports: PortClass, port: int) -> int:
    """The port of the class that follows, round the end."""
    return port + ports.step if port < ports.last else ports.first
