"""Philox4x32-10: random numbers as a pure function of a key and a counter.

Source: J. K. Salmon, M. A. Moraes, R. O. Dror and D. E. Shaw, "Parallel Random Numbers: As Easy as 1, 2, 3", SC11,
section 4.3; the known-answer vectors of their Random123 library are the test.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

ROUNDS = 10
MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
WEYL = (0x9E3779B9, 0xBB67AE85)  # the golden ratio and √3 - 1, added to the key after every round
LOW = np.uint64(0xFFFFFFFF)
SHIFT = np.uint64(32)


def philox4x32(counter: NDArray[np.uint32], key: tuple[int, int]) -> NDArray[np.uint32]:
    """Return four random words for each counter.

    Args:
        counter: (..., 4) uint32.
        key: two words, each in 0 … 2³² - 1.

    Returns:
        (..., 4) uint32.
    """
    c0, c1, c2, c3 = (counter[..., i].astype(np.uint64) for i in range(4))
    k0, k1 = key
    for _ in range(ROUNDS):
        product_0, product_1 = MULTIPLIERS[0] * c0, MULTIPLIERS[1] * c2
        high_0, high_1 = product_0 >> SHIFT, product_1 >> SHIFT
        c0, c1, c2, c3 = (
            high_1 ^ c1 ^ np.uint64(k0),
            product_1 & LOW,
            high_0 ^ c3 ^ np.uint64(k1),
            product_0 & LOW,
        )
        k0, k1 = (k0 + WEYL[0]) & 0xFFFFFFFF, (k1 + WEYL[1]) & 0xFFFFFFFF
    return np.stack([c0, c1, c2, c3], axis=-1).astype(np.uint32)


def uniforms(seed: int, sequences: NDArray[np.integer], steps: int | NDArray[np.integer]) -> NDArray[np.float64]:
    """Return uniforms in [0, 1) with 53 random bits, one for each pair of sequence index and step.

    key = the seed's low and high word; counter = (step low, step high, sequence low, sequence high); from the words
    x0 and x1 of the result, u = ((x0 >> 5)·2²⁶ + (x1 >> 6)) / 2⁵³.

    Args:
        seed: 0 … 2⁶⁴ - 1.
        sequences: index of each sequence, not negative.
        steps: the number of the draw in its sequence, from 0; broadcast with ``sequences``.
    """
    sequence, step = np.broadcast_arrays(np.asarray(sequences, np.uint64), np.asarray(steps, np.uint64))
    counter = np.stack([step & LOW, step >> SHIFT, sequence & LOW, sequence >> SHIFT], axis=-1).astype(np.uint32)
    words = philox4x32(counter, (seed & 0xFFFFFFFF, seed >> 32)).astype(np.uint64)
    bits = ((words[..., 0] >> np.uint64(5)) << np.uint64(26)) + (words[..., 1] >> np.uint64(6))
    return bits.astype(np.float64) * 2.0**-53
