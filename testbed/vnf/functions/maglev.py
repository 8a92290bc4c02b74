"""The lookup table of Maglev (Eisenbud et al., NSDI 2016, section 3.4), with weights.

Each backend has a preference order over the entries of a table of prime size, and the backends take
turns claiming the first entry on their list that is still free. So the table is balanced, and most
entries keep their backend when another one comes or goes.

The turns follow the weights: the k-th turn of a backend with the share r of all weights lies in
the window from turn k / r to turn (k + 1) / r, and among those whose window has begun the one
whose window ends first is next. After t turns each has had more than r t - 1 and less than
r t + 1 of them (Baruah et al., "Proportionate progress", 1996); equal weights give Maglev's round
robin.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from testbed.compiled import compiled
from testbed.vnf.state.arrays import Words


def maglev_table(names: Sequence[bytes], weights: Sequence[int], size: int) -> Words:
    """The number of the backend for each of `size` entries; it depends on its arguments alone.

    The order of the backends matters little: their preferences come from their names. Raises
    ValueError unless `size` is prime and above the number of backends, names differ and the
    weights, one at least positive, are not negative.
    """
    if not is_prime(size) or size <= len(names):
        raise ValueError(f"size = {size}: expected a prime above {len(names)} backends")
    if len(set(names)) != len(names) or len(names) != len(weights):
        raise ValueError(f"names = {list(names)}: expected different ones, with a weight each")
    if min(weights, default=0) < 0 or sum(weights) <= 0:
        raise ValueError(f"weights = {list(weights)}: expected none below 0 and one above")
    offsets = [_hash(b"offset", name) % size for name in names]
    skips = [_hash(b"skip", name) % (size - 1) + 1 for name in names]
    return _populate(
        np.array(offsets, np.int64), np.array(skips, np.int64), np.array(weights, np.int64), size
    )


def is_prime(number: int) -> bool:
    """Whether a number is prime."""
    return number > 1 and all(number % part for part in range(2, int(number**0.5) + 1))


def _hash(purpose: bytes, name: bytes) -> int:
    digest = hashlib.blake2b(name, digest_size=8, person=purpose).digest()
    return int.from_bytes(digest, "big")


@compiled
def _populate(offsets: Words, skips: Words, weights: Words, size: int) -> Words:
    table = np.full(size, -1, np.int64)
    ahead = offsets.copy()  # where each backend's list goes on
    turns = _turns(weights, size)
    for filled in range(size):
        backend = turns[filled % len(turns)]
        while table[ahead[backend]] >= 0:
            ahead[backend] = (ahead[backend] + skips[backend]) % size
        table[ahead[backend]] = backend
    return table


@compiled
def _turns(weights: Words, most: int) -> Words:
    """Whose turn it is, turn by turn, until it repeats itself or `most` are known."""
    divisor = 0
    for weight in weights:
        divisor = np.gcd(divisor, weight)
    shares = weights // divisor
    total = shares.sum()
    turns = np.empty(min(total, most), np.int64)
    had = np.zeros(len(weights), np.int64)
    for turn in range(len(turns)):
        chosen, first_end = -1, 0
        for backend in range(len(weights)):
            share = shares[backend]
            if had[backend] * total >= (turn + 1) * share:
                continue  # the window has not begun; with weight 0 it never does
            end = ((had[backend] + 1) * total + share - 1) // share
            if chosen < 0 or end < first_end:
                chosen, first_end = backend, end
        turns[turn] = chosen
        had[chosen] += 1
    return turns
