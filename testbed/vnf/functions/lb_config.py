"""What a scenario may say about a load balancer, and the words that this becomes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from testbed.scenario.errors import InputError
from testbed.vnf.functions.config import Address, address, check_keys, choice, integer
from testbed.vnf.functions.function import Function, Process
from testbed.vnf.functions.maglev import is_prime, maglev_table
from testbed.vnf.functions.packet import REASONS, TCP, UDP
from testbed.vnf.functions.table import table_records
from testbed.vnf.state.records import KEY_WORDS

VERSION, VIRTUAL_HIGH, VIRTUAL_LOW, PORT, PROTOCOL = 0, 1, 2, 3, 4
UDP_NS, TCP_ESTABLISHED_NS, TCP_TRANSITORY_NS, ICMP_NS = 5, 6, 7, 8
MAX_CONNECTIONS, TABLE, TABLE_SIZE = 9, 10, 11
BACKENDS = 12
"""Places of configuration words. From BACKENDS on there are two words for each backend's address,
from word `config[TABLE]` on the number of a backend for each entry of the Maglev table."""

CONNECTION, SLOT = 1, 2
"""Tags of records: the key of a connection goes on with protocol, client port, port, and the
client's address; its value is described in `load_balancer`."""

NO_CONNECTION = len(REASONS)
LB_REASONS = (*REASONS, "no-connection")

_PROTOCOLS = {"any": 0, "tcp": TCP, "udp": UDP}
_KEYS = (
    "virtual_address",
    "port",
    "protocol",
    "backends",
    "table_size",
    "max_connections",
    "udp_timeout_s",
    "tcp_established_timeout_s",
    "tcp_transitory_timeout_s",
    "icmp_timeout_s",
)
_NS_PER_S = 1_000_000_000
_A_WEEK_S = 7 * 86_400
_MOST_BACKENDS = 1000
_MOST_WEIGHT = 1_000_000


class _Backend(NamedTuple):
    address: Address
    weight: int

    @property
    def name(self) -> bytes:
        """What its preferences are drawn from: its address, not its place in the list."""
        high, low = self.address.high & (1 << 64) - 1, self.address.low & (1 << 64) - 1
        return f"{self.address.version} {high:016x}{low:016x}".encode()


def function_of(process: Process, config: Mapping[str, Any]) -> Function:
    """A load balancer with this configuration; raises InputError for what it refuses.

    Keys: `virtual_address` and `backends` (required: a list of {"address", "weight"}, 1 to 1000;
    the weight is an integer, default 1, and 0 lets nothing new in), `port` and `protocol` ("tcp",
    "udp"; default "any") of the service, `table_size` (a prime, default 65537: a hundred times
    the number of backends keeps shares within a per cent), `max_connections`, `..._timeout_s`.
    """
    check_keys("lb", config, _KEYS)
    virtual = address("lb.virtual_address", config.get("virtual_address"))
    backends = _backends(config.get("backends"), virtual.version)
    size = integer("lb", config, "table_size", 65_537, 2, 1_000_003)
    if not is_prime(size) or size <= len(backends):
        raise InputError("lb.table_size", size, f"a prime above {len(backends)} backends")
    connections = integer("lb", config, "max_connections", 65_536, 1, 1 << 24)
    words = np.zeros(BACKENDS, np.int64)
    words[VERSION:PORT] = virtual
    words[PORT] = integer("lb", config, "port", 0, 0, 65_535)
    words[PROTOCOL] = _PROTOCOLS[choice("lb", config, "protocol", "any", tuple(_PROTOCOLS))]
    for place, key, default, low in (
        (UDP_NS, "udp_timeout_s", 300, 120),
        (TCP_ESTABLISHED_NS, "tcp_established_timeout_s", 7440, 7440),
        (TCP_TRANSITORY_NS, "tcp_transitory_timeout_s", 240, 240),
        (ICMP_NS, "icmp_timeout_s", 60, 60),
    ):
        words[place] = integer("lb", config, key, default, low, _A_WEEK_S) * _NS_PER_S
    words[MAX_CONNECTIONS] = connections
    words[TABLE], words[TABLE_SIZE] = BACKENDS + 2 * len(backends), size
    addresses = [(backend.address.high, backend.address.low) for backend in backends]
    table = maglev_table(
        [backend.name for backend in backends], [backend.weight for backend in backends], size
    )
    return Function(
        name="lb",
        process=process,
        config=np.concatenate([words, np.array(addresses, np.int64).ravel(), table]),
        reasons=LB_REASONS,
        capacity=connections + 1 + table_records(connections),
        value_words=KEY_WORDS,
    )


def _backends(value: object, version: int) -> list[_Backend]:
    if not isinstance(value, list) or not 0 < len(value) <= _MOST_BACKENDS:
        raise InputError("lb.backends", value, f"a list of 1 to {_MOST_BACKENDS} backends")
    backends = [_backend(f"lb.backends[{i}]", item, version) for i, item in enumerate(value)]
    if len({backend.address for backend in backends}) != len(backends):
        raise InputError("lb.backends", value, "backends with different addresses")
    if not any(backend.weight for backend in backends):
        raise InputError("lb.backends", value, "a backend with a weight above 0")
    return backends


def _backend(field: str, value: object, version: int) -> _Backend:
    if not isinstance(value, dict):
        raise InputError(field, value, 'an object such as {"address": "10.77.0.2"}')
    check_keys(field, value, ("address", "weight"))
    weight = value.get("weight", 1)
    if type(weight) is not int or not 0 <= weight <= _MOST_WEIGHT:
        raise InputError(f"{field}.weight", weight, f"an integer from 0 to {_MOST_WEIGHT}")
    return _Backend(address(f"{field}.address", value.get("address"), version), weight)
