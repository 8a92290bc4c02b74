"""Maglev's table: balance, weights, little disruption (Eisenbud et al., NSDI 2016)."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from testbed.vnf.functions.maglev import is_prime, maglev_table

SMALL, LARGE = 65_537, 655_373
"""The table sizes of the paper's section 5.3."""


def names(count: int) -> list[bytes]:
    return [b"backend-%d" % number for number in range(count)]


def moved(before: list[bytes], after: list[bytes], size: int) -> tuple[float, float]:
    """Shares of the entries: those of backends that stay and that changed; those that had to."""
    tables = [
        np.array(backends, object)[maglev_table(backends, [1] * len(backends), size)]
        for backends in (before, after)
    ]
    stays = np.isin(tables[0], np.array(after, object)) & np.isin(
        tables[1], np.array(before, object)
    )
    return float((stays & (tables[0] != tables[1])).mean()), float((~stays).mean())


@pytest.mark.parametrize("count", [1, 2, 3, 7, 100, 1000])
def test_shares_differ_by_one_entry_at_most(count: int) -> None:
    shares = np.bincount(maglev_table(names(count), [1] * count, SMALL), minlength=count)
    assert shares.sum() == SMALL and shares.max() - shares.min() <= 1


@pytest.mark.parametrize(
    "weights", [[1, 2, 3], [1, 0, 1], [10, 1, 1, 1], [7, 5, 3, 2, 1, 1], [1_000_000, 1, 333]]
)
def test_weights_are_respected_within_an_entry(weights: list[int]) -> None:
    for size in (251, SMALL):
        shares = np.bincount(maglev_table(names(len(weights)), weights, size),
                             minlength=len(weights))  # fmt: skip
        ideal = np.array(weights) * size / sum(weights)
        assert np.all(np.abs(shares - ideal) < 1), (shares, ideal)


@pytest.mark.parametrize(("count", "size"), [(3, 7), (4, 13), (10, 251), (7, 1009)])
def test_equal_weights_give_the_table_of_the_paper(count: int, size: int) -> None:
    """Its pseudocode, written down once more."""

    def number(purpose: bytes, name: bytes, modulus: int) -> int:
        digest = hashlib.blake2b(name, digest_size=8, person=purpose).digest()
        return int.from_bytes(digest, "big") % modulus

    permutations = [
        [
            (number(b"offset", name, size) + j * (number(b"skip", name, size - 1) + 1)) % size
            for j in range(size)
        ]
        for name in names(count)
    ]
    entry = [-1] * size
    following = [0] * count
    filled = 0
    while filled < size:
        for i in range(min(count, size - filled)):
            while entry[permutations[i][following[i]]] >= 0:
                following[i] += 1
            entry[permutations[i][following[i]]] = i
            filled += 1
    assert maglev_table(names(count), [1] * count, size).tolist() == entry


@pytest.mark.parametrize("count", [2, 5, 20])
def test_little_moves_when_a_backend_comes_or_goes(count: int) -> None:
    """The entries of the one that goes must move; of the others few do."""
    everyone = names(count + 1)
    for gone in (0, count // 2, count):
        rest = [name for number, name in enumerate(everyone) if number != gone]
        for before, after in ((everyone, rest), (rest, everyone)):
            disturbed, needed = moved(before, after, SMALL)
            assert needed == pytest.approx(1 / (count + 1), abs=1e-4)
            assert disturbed < 0.005


def test_disruption_shrinks_with_a_larger_table() -> None:
    everyone = names(1000)
    rest = everyone[:990]
    small, _ = moved(everyone, rest, SMALL)
    large, _ = moved(everyone, rest, LARGE)
    # The entries of 10 of 1000 had to move, 1 %.
    assert large < small / 2 and small < 0.03 and large < 0.007


def test_order_of_the_backends_matters_little_and_names_decide() -> None:
    backends = names(10)
    table = np.array(backends, object)[maglev_table(backends, [1] * 10, SMALL)]
    turned = backends[::-1]
    again = np.array(turned, object)[maglev_table(turned, [1] * 10, SMALL)]
    assert (table != again).mean() < 0.02
    assert np.array_equal(maglev_table(backends, [1] * 10, SMALL),
                          maglev_table(backends, [1] * 10, SMALL))  # fmt: skip


@pytest.mark.parametrize(
    ("backends", "weights", "size"),
    [
        (names(2), [1, 1], 15),
        (names(5), [1] * 5, 5),
        (names(2), [0, 0], 7),
        (names(2), [1, -1], 7),
        (names(2), [1], 7),
        ([b"a", b"a"], [1, 1], 7),
        ([], [], 7),
    ],
)
def test_bad_arguments_are_refused(backends: list[bytes], weights: list[int], size: int) -> None:
    with pytest.raises(ValueError):
        maglev_table(backends, weights, size)


def test_primes() -> None:
    assert [n for n in range(30) if is_prime(n)] == [2, 3, 5, 7, 11, 13, 17, 19, 23, 29]
    assert is_prime(SMALL) and is_prime(LARGE)
