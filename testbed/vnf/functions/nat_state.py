"""Words of the NAT's configuration, keys of its records, and which blocks of ports it owns.

    tag       key after the tag                  value
    INTERNAL  protocol, internal endpoint        [public port]
    MAPPING   protocol, public port              [expires_ns, endpoint | sessions << 48, first]
    SESSION   protocol, public port; remote      [expires_ns, endpoint | TCP bits << 48, next]
    SLOT      slots of the sessions, laid out as in `table`
    CURSOR    protocol, port class               [the port at which the next search starts]
    FULL      protocol, port class, block        [no port of these becomes free before this time]
    BLOCK     block                              [the number of its owner, or NOBODY]

An endpoint is an IPv4 address and 16 bits of port; an ICMP query's identifier stands for its
port, and its remote port is 0. `first` and `next` chain the sessions of a mapping: the remote
endpoint + 1, or 0 at the end. A mapping has at least one session and expires with the last of them.
INTERNAL points at the mapping that counts; a mapping that it does not point at has expired.

The ports 0-65535 are cut into blocks of `block_ports`; block n begins at port n * block_ports.
A NAT takes ports for new mappings from the blocks that it owns alone, so that several instances,
each with a number, can share a public address. Which blocks it owns from the start is configuration
and costs no record; a BLOCK record overrides it. These are linearizable (see `sharing`): an
instance that claims blocks asks for one of nobody's when its own have no port left, and keeps it.
`grant` and `withdraw` make the operations to change them from outside.
"""

from __future__ import annotations

from testbed.compiled import compiled
from testbed.vnf.functions.effect import FILL, HEADER_WORDS, new_effect, put
from testbed.vnf.functions.packet import ICMP, TCP, UDP
from testbed.vnf.functions.sharing import FIRST_LINEARIZABLE
from testbed.vnf.functions.table import find_live, plain_key
from testbed.vnf.state.arrays import Words
from testbed.vnf.state.records import Key, Records, find

PUBLIC, FILTERING, FIRST_PORT, LAST_PORT = 0, 1, 2, 3
UDP_NS, TCP_ESTABLISHED_NS, TCP_TRANSITORY_NS, ICMP_NS = 4, 5, 6, 7
MAX_SESSIONS, BLOCK_SHIFT, INSTANCE = 8, 9, 10
PREFIX_BITS, PREFIX_MASK, INTERNAL_PREFIX, PUBLIC_PREFIX, PREFIX_ADJUSTMENT = 11, 12, 13, 14, 15
CLAIMS = 16
BLOCKS = 17
"""Places of configuration words; from BLOCKS on there is a word for each block, 1 if it is owned
from the start."""

INTERNAL, MAPPING, SESSION, SLOT, CURSOR, FULL = 1, 2, 3, 4, 5, 6
BLOCK = FIRST_LINEARIZABLE

EXPIRES, ENDPOINT, NEXT = 0, 1, 2
"""Words of the values of mappings and sessions."""
VALUE_WORDS = 3

ENDPOINT_MASK = (1 << 48) - 1
ABOVE_ENDPOINT = 48
"""Where the number of sessions or the TCP bits lie in the word ENDPOINT."""

NOBODY = -1
PORTS = 65_536


@compiled
def internal_key(protocol: int, endpoint: int) -> Key:
    """The key of what an internal endpoint is mapped to."""
    return plain_key(INTERNAL, protocol << 48 | endpoint)


@compiled
def mapping_key(protocol: int, port: int) -> Key:
    """The key of a public port's mapping."""
    return plain_key(MAPPING, protocol << 48 | port)


@compiled
def session_key(protocol: int, port: int, remote: int) -> Key:
    """The key of a mapping's session with a remote endpoint."""
    zero = port & 0
    return SESSION << 56 | protocol << 48 | port, remote, zero, zero, zero


@compiled
def block_key(block: int) -> Key:
    """The key of a change of a block's owner."""
    return plain_key(BLOCK, block)


@compiled
def owns(records: Records, config: Words, block: int) -> bool:
    """Whether ports for new mappings may be taken from the block."""
    row = find(records, block_key(block))
    if row >= 0:
        return records.values[row, 0] == config[INSTANCE]
    return config[BLOCKS + block] != 0


@compiled
def block_in_use(records: Records, config: Words, block: int, now_ns: int) -> bool:
    """Whether a port of the block has a mapping that has not expired."""
    ports = 1 << config[BLOCK_SHIFT]
    for protocol in (TCP, UDP, ICMP):
        for port in range(block * ports, (block + 1) * ports):
            if find_live(records, mapping_key(protocol, port), now_ns) >= 0:
                return True
    return False


def block_count(config: Words) -> int:
    """How many blocks the ports are cut into."""
    return len(config) - BLOCKS


def grant(config: Words, block: int, instance: int | None = None) -> tuple[int, ...]:
    """The operations that give the block to an instance (by default the one of `config`).

    Whoever owned it owns it no longer, but its mappings there live on until they expire, and keep
    their ports: give away a block only when it is not `block_in_use`, or with its mappings. Raises
    ValueError for a block that does not exist.
    """
    owner = int(config[INSTANCE]) if instance is None else instance
    return _owned_by(config, block, owner)


def withdraw(config: Words, block: int) -> tuple[int, ...]:
    """The operations after which nobody owns the block; else like `grant`."""
    return _owned_by(config, block, NOBODY)


def _owned_by(config: Words, block: int, owner: int) -> tuple[int, ...]:
    if not 0 <= block < block_count(config):
        raise ValueError(f"block = {block}: expected 0 to {block_count(config) - 1}")
    effect = new_effect()
    put(effect, block_key(block), 0, owner)
    return tuple(effect[HEADER_WORDS : HEADER_WORDS + int(effect[FILL])].tolist())
