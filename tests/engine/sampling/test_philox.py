"""Philox4x32-10 against the known answers of Random123 and against plain integers; and the uniforms made of it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unrolled.engine.sampling import philox
from unrolled.engine.sampling.philox import philox4x32, uniforms

WORD = st.integers(0, 2**32 - 1)
LONG = st.integers(0, 2**64 - 1)
Words = tuple[int, ...]

# Random123, tests/kat_vectors: counter, key, answer of philox4x32 with 10 rounds
KNOWN_ANSWERS: dict[str, tuple[Words, Words, Words]] = {
    "zeros": ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    "ones": ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    "pi": (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
}


def slow_philox(counter: Words, key: Words, rounds: int = 10) -> Words:
    """Section 4.3 of the paper in Python's own integers."""
    a, b, c, d = counter
    k0, k1 = key
    for _ in range(rounds):
        left, right = 0xD2511F53 * a, 0xCD9E8D57 * c
        a, b, c, d = (right // 2**32) ^ b ^ k0, right % 2**32, (left // 2**32) ^ d ^ k1, left % 2**32
        k0, k1 = (k0 + 0x9E3779B9) % 2**32, (k1 + 0xBB67AE85) % 2**32
    return a, b, c, d


def slow_uniform(seed: int, sequence: int, step: int) -> float:
    counter = (step % 2**32, step // 2**32, sequence % 2**32, sequence // 2**32)
    x0, x1, _, _ = slow_philox(counter, (seed % 2**32, seed // 2**32))
    return ((x0 >> 5) * 2**26 + (x1 >> 6)) / 2**53


def words(counter: Words, key: Words) -> Words:
    k0, k1 = key
    return tuple(philox4x32(np.array(counter, np.uint32), (k0, k1)).tolist())


@pytest.mark.parametrize("case", KNOWN_ANSWERS)
def test_known_answers_of_random123(case: str) -> None:
    counter, key, answer = KNOWN_ANSWERS[case]
    assert words(counter, key) == answer


@pytest.mark.parametrize("case", KNOWN_ANSWERS)
def test_the_slow_implementation_gives_the_known_answers(case: str) -> None:
    counter, key, answer = KNOWN_ANSWERS[case]
    assert slow_philox(counter, key) == answer


@pytest.mark.parametrize("case", KNOWN_ANSWERS)
def test_alarm_nine_rounds_give_other_words(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    counter, key, answer = KNOWN_ANSWERS[case]
    monkeypatch.setattr(philox, "ROUNDS", 9)
    got = words(counter, key)
    assert got == slow_philox(counter, key, rounds=9)
    assert all(a != b for a, b in zip(got, answer, strict=True))


@settings(derandomize=True, max_examples=100, deadline=None)
@given(counter=st.tuples(WORD, WORD, WORD, WORD), key=st.tuples(WORD, WORD))
def test_random_counters_and_keys_agree_with_plain_integers(counter: Words, key: Words) -> None:
    assert words(counter, key) == slow_philox(counter, key)


def test_many_counters_at_once_keep_their_shape_and_order() -> None:
    counters = np.random.default_rng(1).integers(0, 2**32, (3, 5, 4), dtype=np.uint32)
    got = philox4x32(counters, (7, 2**32 - 1))
    assert got.shape == (3, 5, 4)
    assert got.dtype == np.uint32
    for index in np.ndindex(3, 5):
        assert tuple(got[index].tolist()) == slow_philox(tuple(counters[index].tolist()), (7, 2**32 - 1))


@pytest.mark.parametrize("position", range(4))
def test_every_word_of_the_counter_matters(position: int) -> None:
    changed = [0, 0, 0, 0]
    changed[position] = 1
    pairs = zip(words(tuple(changed), (0, 0)), words((0, 0, 0, 0), (0, 0)), strict=True)
    assert all(a != b for a, b in pairs)


def test_the_first_uniform_of_seed_zero() -> None:
    expected = ((0x6627E8D5 >> 5) * 2**26 + (0xE169C58D >> 6)) / 2**53
    assert uniforms(0, np.array([0]), 0).tolist() == [expected]
    assert expected == pytest.approx(0.39904647, abs=1e-8)


@settings(derandomize=True, max_examples=100, deadline=None)
@given(seed=LONG, sequence=st.integers(0, 2**63 - 1), step=st.integers(0, 2**63 - 1))
def test_uniforms_follow_the_formula_exactly(seed: int, sequence: int, step: int) -> None:
    got = uniforms(seed, np.array([sequence], np.int64), step)
    assert got.dtype == np.float64
    assert got.tolist() == [slow_uniform(seed, sequence, step)]


@pytest.mark.parametrize(
    ("seed", "sequence", "step"),
    [
        (2**32, 0, 0),
        (2**64 - 1, 0, 0),
        (0, 2**32, 0),
        (0, 2**32 + 5, 3),
        (0, 0, 2**32),
        (2**40 + 1, 2**50 + 2, 2**60 + 3),
    ],
)
def test_high_words_of_seed_sequence_and_step_enter(seed: int, sequence: int, step: int) -> None:
    got = uniforms(seed, np.array([sequence]), step)[0]
    low = uniforms(seed % 2**32, np.array([sequence % 2**32]), step % 2**32)[0]
    assert got == slow_uniform(seed, sequence, step)
    assert got != low


def test_sequence_and_step_are_not_interchangeable() -> None:
    assert uniforms(3, np.array([1]), 2)[0] == slow_uniform(3, 1, 2)
    assert slow_uniform(3, 1, 2) != slow_uniform(3, 2, 1)
    assert slow_uniform(3, 1, 2) != slow_uniform(1, 3, 2)


def test_a_uniform_does_not_depend_on_the_others_of_its_batch() -> None:
    together = uniforms(11, np.arange(300), 4)
    assert [float(uniforms(11, np.array([i]), 4)[0]) for i in range(300)] == together.tolist()
    chosen = np.array([250, 3, 3, 77])
    np.testing.assert_array_equal(uniforms(11, chosen, 4), together[chosen])


def test_sequences_and_steps_broadcast() -> None:
    grid = uniforms(5, np.arange(4)[:, None], np.arange(3))
    expected = [[slow_uniform(5, sequence, step) for step in range(3)] for sequence in range(4)]
    assert grid.tolist() == expected


def test_a_hundred_thousand_uniforms_are_different_and_even() -> None:
    u = uniforms(2024, np.arange(1000)[:, None], np.arange(100)).ravel()
    assert u.min() >= 0.0
    assert u.max() < 1.0
    assert len(np.unique(u)) == 100_000
    counts = np.bincount((u * 20).astype(int), minlength=20)
    assert counts.sum() == 100_000
    assert ((counts - 5000) ** 2 / 5000).sum() < 43.8  # chi-square, 19 degrees of freedom, p = 0.001


@pytest.mark.parametrize(("word", "expected"), [(0, 0.0), (0xFFFFFFFF, 1.0 - 2.0**-53)])
def test_the_ends_of_the_range(word: int, expected: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(philox, "philox4x32", lambda counter, key: np.full(counter.shape, word, np.uint32))
    assert uniforms(0, np.array([0]), 0).tolist() == [expected]
    assert expected < 1.0


def test_every_one_of_the_53_bits_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    def one_bit(bit: int) -> float:
        x0, x1 = (1 << (bit - 26 + 5), 0) if bit >= 26 else (0, 1 << (bit + 6))
        answer = np.array([[x0, x1, 0xFFFFFFFF, 0xFFFFFFFF]], np.uint32)
        monkeypatch.setattr(philox, "philox4x32", lambda counter, key: answer)
        return float(uniforms(0, np.array([0]), 0)[0])

    assert [one_bit(bit) for bit in range(53)] == [2.0 ** (bit - 53) for bit in range(53)]
