"""What a scenario may say about a NAT, and the words that this becomes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from testbed.scenario.errors import InputError
from testbed.vnf.functions.config import address, boolean, check_keys, choice, integer, network
from testbed.vnf.functions.function import Function, Process
from testbed.vnf.functions.nat_pool import CLASSES
from testbed.vnf.functions.nat_state import (
    BLOCK_SHIFT,
    BLOCKS,
    CLAIMS,
    FILTERING,
    FIRST_PORT,
    ICMP_NS,
    INSTANCE,
    INTERNAL_PREFIX,
    LAST_PORT,
    MAX_SESSIONS,
    PORTS,
    PREFIX_ADJUSTMENT,
    PREFIX_BITS,
    PREFIX_MASK,
    PUBLIC,
    PUBLIC_PREFIX,
    TCP_ESTABLISHED_NS,
    TCP_TRANSITORY_NS,
    UDP_NS,
    VALUE_WORDS,
)
from testbed.vnf.functions.packet import REASONS
from testbed.vnf.functions.prefix6 import adjustment_between
from testbed.vnf.functions.table import table_records
from testbed.vnf.state.arrays import Words

FILTERINGS = ("address-dependent", "endpoint-independent", "address-and-port-dependent")
ADDRESS_DEPENDENT, ENDPOINT_INDEPENDENT = 0, 1

NO_MAPPING = len(REASONS)
NO_PORT, FILTERED, HAIRPIN = NO_MAPPING + 1, NO_MAPPING + 2, NO_MAPPING + 3
TABLE_FULL, UNMAPPABLE = NO_MAPPING + 4, NO_MAPPING + 5
NAT_REASONS = (
    *REASONS,
    "no-mapping",
    "no-port",
    "filtered",
    "hairpin",
    "table-full",
    "unmappable",
)

_KEYS = (
    "public_address",
    "filtering",
    "first_port",
    "last_port",
    "block_ports",
    "blocks",
    "claims_blocks",
    "instance",
    "max_sessions",
    "udp_timeout_s",
    "tcp_established_timeout_s",
    "tcp_transitory_timeout_s",
    "icmp_timeout_s",
    "internal_prefix6",
    "public_prefix6",
)
_NS_PER_S = 1_000_000_000
_A_WEEK_S = 7 * 86_400
_PROTOCOLS = 3
_LEAST_PREFIX, _MOST_PREFIX = 16, 64


def function_of(process: Process, config: Mapping[str, Any]) -> Function:
    """A NAT with this configuration; raises InputError for what it refuses.

    Keys: `public_address` (required), `filtering`, `first_port`, `last_port` (the pool for ports
    from 1024 up), `block_ports` (a power of two, 64-4096, default 512), `blocks` ("all", or the
    numbers of the blocks owned from the start), `claims_blocks` (with `blocks` [], whether it takes
    a block of nobody's when its own have no port left, default false), `instance` (its number among
    those that share the address, default 0), `max_sessions`, `..._timeout_s` (bounded below by the
    RFCs), and for IPv6 `internal_prefix6` with `public_prefix6`.
    """
    check_keys("nat", config, _KEYS)
    words = np.zeros(BLOCKS, np.int64)
    words[PUBLIC] = address("nat.public_address", config.get("public_address"), 4).low
    words[FILTERING] = FILTERINGS.index(
        choice("nat", config, "filtering", FILTERINGS[0], FILTERINGS)
    )
    first = integer("nat", config, "first_port", 1024, 1024, 65_534)
    last = integer("nat", config, "last_port", 65_535, 1025, 65_535)
    if last <= first:
        raise InputError("nat.last_port", last, f"more than first_port = {first}")
    words[FIRST_PORT], words[LAST_PORT] = first, last
    words[MAX_SESSIONS] = integer("nat", config, "max_sessions", 65_536, 1, 1 << 24)
    words[INSTANCE] = integer("nat", config, "instance", 0, 0, 65_535)
    for place, key, default, low in (
        (UDP_NS, "udp_timeout_s", 300, 120),
        (TCP_ESTABLISHED_NS, "tcp_established_timeout_s", 7440, 7440),
        (TCP_TRANSITORY_NS, "tcp_transitory_timeout_s", 240, 240),
        (ICMP_NS, "icmp_timeout_s", 60, 60),
    ):
        words[place] = integer("nat", config, key, default, low, _A_WEEK_S) * _NS_PER_S
    _set_prefixes(words, config)
    words[CLAIMS] = boolean("nat", config, "claims_blocks", False)
    if words[CLAIMS] and config.get("blocks") != []:
        raise InputError("nat.blocks", config.get("blocks", "all"), "[] with claims_blocks")
    words[BLOCK_SHIFT], owned = _blocks(config)
    return Function(
        name="nat",
        process=process,
        config=np.concatenate([words, owned]),
        reasons=NAT_REASONS,
        capacity=_capacity(int(words[MAX_SESSIONS]), len(owned)),
        value_words=VALUE_WORDS,
    )


def _capacity(sessions: int, blocks: int) -> int:
    """Each session has at most a mapping of its own, of two records; one more comes before another
    goes. Each block may be full for each protocol and class."""
    mappings = 2 * (sessions + 1)
    pool = _PROTOCOLS * CLASSES * (1 + blocks) + blocks
    return sessions + 1 + table_records(sessions) + mappings + pool


def _blocks(config: Mapping[str, Any]) -> tuple[int, Words]:
    """The binary logarithm of a block's size, and which blocks are owned from the start."""
    size = integer("nat", config, "block_ports", 512, 64, 4096)
    if size & (size - 1):
        raise InputError("nat.block_ports", size, "a power of two from 64 to 4096")
    owned = np.zeros(PORTS // size, np.int64)
    numbers = config.get("blocks", "all")
    if numbers == "all":
        owned[:] = 1
        return size.bit_length() - 1, owned
    expected = f'"all" or a list of different block numbers from 0 to {len(owned) - 1}'
    if not isinstance(numbers, list):
        raise InputError("nat.blocks", numbers, expected)
    for number in numbers:
        if type(number) is not int or not 0 <= number < len(owned) or owned[number]:
            raise InputError("nat.blocks", number, expected)
        owned[number] = 1
    return size.bit_length() - 1, owned


def _set_prefixes(words: Words, config: Mapping[str, Any]) -> None:
    """Write what is needed to translate IPv6 prefixes, if there are any."""
    if "internal_prefix6" not in config and "public_prefix6" not in config:
        return
    internal = network("nat.internal_prefix6", config.get("internal_prefix6"), 6)
    public = network("nat.public_prefix6", config.get("public_prefix6"), 6)
    mask = internal.mask_high
    bits = (mask & (1 << 64) - 1).bit_count()
    if internal.mask_low or bits < _LEAST_PREFIX:
        raise InputError("nat.internal_prefix6", config["internal_prefix6"],
                         f"a prefix from /{_LEAST_PREFIX} to /{_MOST_PREFIX}")  # fmt: skip
    if (public.mask_high, public.mask_low) != (mask, 0):
        raise InputError("nat.public_prefix6", config["public_prefix6"],
                         f"a prefix as long as internal_prefix6: /{bits}")  # fmt: skip
    if internal.high == public.high:
        raise InputError("nat.public_prefix6", config["public_prefix6"],
                         "another prefix than internal_prefix6")  # fmt: skip
    words[PREFIX_BITS], words[PREFIX_MASK] = bits, mask
    words[INTERNAL_PREFIX], words[PUBLIC_PREFIX] = internal.high, public.high
    words[PREFIX_ADJUSTMENT] = adjustment_between(internal.high, public.high)
