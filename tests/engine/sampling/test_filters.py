"""Processors and filters against the same rules in plain Python lists, written from the papers' formulas in other ways."""

from __future__ import annotations

import json
import math
import pickle
from dataclasses import asdict, replace
from typing import Any

import models
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from unrolled.engine.errors import ConfigError, NothingLeftError, UnknownTokenError
from unrolled.engine.sampling.config import SamplingConfig
from unrolled.engine.sampling.filters import FILTERS
from unrolled.engine.sampling.philox import uniforms
from unrolled.engine.sampling.processors import PROCESSORS, History
from unrolled.engine.sampling.rules import choose, log_softmax, token_logprobs
from unrolled.engine.storage.checkpoint import Checkpoint
from unrolled.engine.tokenizers.characters import CharTokenizer
from unrolled.engine.tokenizers.vocabulary import BOS, EOS, UNK
from unrolled.engine.tokenizers.words import WordTokenizer
from unrolled.export.formats import export_model
from unrolled.runtime import GenerationConfig, generate, load
from unrolled.runtime.models.engines import make_model

INF = math.inf
ROUNDING = 1e-9  # a sum this near to a limit may fall to either side of it

Row = list[float]


def slow_bias(scores: Row, tokens: list[int], pairs: dict[tuple[int, ...], float]) -> Row:
    """Each token in turn: would it, at the end of the row, end with the sequence?"""
    given_to = list(scores)
    for sequence, bias in pairs.items():
        for token in range(len(scores)):
            if (*tokens, token)[-len(sequence) :] == sequence:
                given_to[token] += bias
    return given_to


def slow_penalty(scores: Row, tokens: list[int], penalty: float) -> Row:
    return [
        score if token not in tokens else score * penalty if score < 0 else score / penalty
        for token, score in enumerate(scores)
    ]


def slow_ngrams(scores: Row, tokens: list[int], n: int) -> Row:
    """Each token in turn: would the last n tokens stand there twice?"""
    kept = []
    for token, score in enumerate(scores):
        whole = [*tokens, token]
        last = whole[len(whole) - n :]
        before = [whole[i : i + n] for i in range(len(whole) - n)]
        kept.append(-INF if n and len(whole) >= n and last in before else score)
    return kept


def slow_bad_words(scores: Row, tokens: list[int], words: list[tuple[int, ...]]) -> Row:
    return [
        -INF if any((*tokens, token)[-len(word) :] == word for word in words) else score
        for token, score in enumerate(scores)
    ]


def slow_min_p(scores: Row, min_p: float) -> Row:
    total = math.fsum(math.exp(score) for score in scores)
    p = [math.exp(score) / total for score in scores]
    return [score if p[i] >= min_p * max(p) else -INF for i, score in enumerate(scores)]


def slow_typical(scores: Row, mass: float) -> tuple[Row, bool]:
    """Return filtered scores, and whether rounding may decide: a sum is near to the mass, or two distances to each other."""
    total = math.fsum(math.exp(score) for score in scores)
    p = [math.exp(score) / total for score in scores]
    entropy = -math.fsum(x * math.log(x) for x in p if x > 0)
    distance = [abs(-math.log(x) - entropy) if x > 0 else INF for x in p]
    ranked = sorted((round(d, 9), i) for i, d in enumerate(distance))
    kept, summed, near = set[int](), 0.0, False
    for _, i in ranked:
        near = near or abs(summed - mass) < ROUNDING
        if kept and summed >= mass:
            break
        kept.add(i)
        summed += p[i]
    near = near or any(0 < abs(a - b) < ROUNDING for a in distance for b in distance if a != b)
    return [score if i in kept else -INF for i, score in enumerate(scores)], near and mass < 1


def slow_top(scores: Row, k: int, mass: float) -> Row:
    """The most probable one after the other, until there are k or they sum to the mass."""
    largest = max(scores)
    weights = [math.exp(score - largest) for score in scores]
    total, kept, summed = math.fsum(weights), set[int](), 0.0
    for _, i in sorted((-score, i) for i, score in enumerate(scores))[: k or None]:
        if kept and summed >= mass * total:
            break
        kept.add(i)
        summed += weights[i]
    return [score if i in kept else -INF for i, score in enumerate(scores)]


def random_scores(rng: np.random.Generator, B: int, V: int, kind: str) -> NDArray[np.float64]:
    scores = rng.standard_normal((B, V)) * 2
    if kind == "ties":
        scores = rng.integers(-2, 3, (B, V)).astype(float)
    elif kind == "holes":
        holes = rng.random((B, V)) < 0.5
        holes[np.arange(B), rng.integers(0, V, B)] = False
        scores[holes] = -INF
    elif kind == "flat":
        scores[:] = 1.5
    return scores


def random_history(rng: np.random.Generator, B: int, V: int) -> History:
    """Rows of 1 to 14 tokens from few, so that sequences come twice."""
    lengths = rng.integers(1, 15, B)
    tokens = [rng.integers(0, min(V, 3), n).tolist() for n in lengths]
    return History(tokens, np.array([rng.integers(0, n + 1) for n in lengths]))


CASES = {
    "seed": st.integers(0, 2**32),
    "V": st.integers(1, 30),
    "kind": st.sampled_from(["smooth", "ties", "holes", "flat"]),
}


def applied(name: str, scores: NDArray, history: History, **setting: Any) -> list[Row]:
    before = scores.copy()
    got = PROCESSORS[name](scores, SamplingConfig(**setting), history)
    np.testing.assert_array_equal(scores, before)
    return got.tolist()


def test_the_processors_and_their_order() -> None:
    assert list(PROCESSORS) == [
        "sequence_bias",
        "repetition_penalty",
        "no_repeat_ngram_size",
        "bad_words",
        "min_new_tokens",
        "suppress_tokens",
        "forced_prefix",
    ]


@pytest.mark.parametrize("kind", ["smooth", "ties", "holes", "flat", "many at the bound"])
@pytest.mark.parametrize(("k", "mass"), [(40, 1.0), (0, 0.3), (0, 0.9), (0, 1 - 1e-9)])
def test_the_largest_of_a_large_vocabulary(k: int, mass: float, kind: str) -> None:
    scores = random_scores(np.random.default_rng(k), 3, 6000, kind)
    if kind == "many at the bound":  # of the few that are sorted first, some have equals that are not among them
        scores[:] = -1e-3
        scores[:, 1000:1500] = 0.0
    name, setting = ("top_k", {"top_k": k}) if k else ("top_p", {"top_p": mass})
    got = FILTERS[name](scores, SamplingConfig(**setting))
    assert got.tolist() == [slow_top(row, k, mass) for row in scores.tolist()]


@settings(derandomize=True, max_examples=60, deadline=None)
@given(**CASES, penalty=st.sampled_from([0.5, 1.0, 1.2, 3.0]), n=st.integers(0, 16))
def test_penalty_and_ngrams_agree_with_the_slow_ones(seed: int, V: int, kind: str, penalty: float, n: int) -> None:
    rng = np.random.default_rng(seed)
    scores, history = random_scores(rng, 4, V, kind), random_history(rng, 4, V)
    rows = list(zip(scores.tolist(), history.tokens, strict=True))
    got = applied("repetition_penalty", scores, history, repetition_penalty=penalty)
    assert got == [slow_penalty(row, list(tokens), penalty) for row, tokens in rows]
    got = applied("no_repeat_ngram_size", scores, history, no_repeat_ngram_size=n)
    assert got == [slow_ngrams(row, list(tokens), n) for row, tokens in rows]


@settings(derandomize=True, max_examples=60, deadline=None)
@given(**CASES)
def test_bias_and_bad_words_agree_with_the_slow_ones(seed: int, V: int, kind: str) -> None:
    rng = np.random.default_rng(seed)
    scores, history = random_scores(rng, 4, V, kind), random_history(rng, 4, V)
    sequences = {tuple(rng.integers(0, min(V, 3), n).tolist()) for n in (1, 1, 2, 2, 2, 3, 3, 4, 20)}
    biases = {ids: float(rng.integers(-3, 4)) for ids in sorted(sequences)}
    rows = list(zip(scores.tolist(), history.tokens, strict=True))
    got = applied("sequence_bias", scores, history, sequence_bias=tuple(biases.items()))
    expected = [slow_bias(row, list(tokens), biases) for row, tokens in rows]
    np.testing.assert_allclose(got, expected, rtol=1e-12, atol=1e-12)  # several biases add up in another order
    got = applied("bad_words", scores, history, bad_words=tuple(sequences))
    assert got == [slow_bad_words(row, list(tokens), list(sequences)) for row, tokens in rows]


@settings(derandomize=True, max_examples=60, deadline=None)
@given(**CASES, prefix=st.lists(st.integers(0, 5), min_size=1, max_size=6), least=st.integers(0, 12))
def test_length_suppression_and_prefix_agree_with_the_slow_ones(
    seed: int, V: int, kind: str, prefix: list[int], least: int
) -> None:
    rng = np.random.default_rng(seed)
    scores, history = random_scores(rng, 4, V, kind), random_history(rng, 4, V)
    prefix, eos = [token % V for token in prefix], int(rng.integers(0, V))
    out = set(rng.integers(0, V, 3).tolist())
    length, banned, forced = [], [], []
    for row, written in zip(scores.tolist(), history.written.tolist(), strict=True):
        length.append([-INF if i == eos and written < least else score for i, score in enumerate(row)])
        banned.append([-INF if i in out else score for i, score in enumerate(row)])
        now = prefix[written] if written < len(prefix) else None
        forced.append(
            row if now is None else [(0.0 if row[i] == -INF else row[i]) if i == now else -INF for i in range(V)]
        )
    assert applied("min_new_tokens", scores, history, min_new_tokens=least, eos_token_id=eos) == length
    assert applied("suppress_tokens", scores, history, suppress_tokens=tuple(out)) == banned
    assert applied("forced_prefix", scores, history, forced_prefix=tuple(prefix)) == forced


SHARES = st.sampled_from([0.0, 0.05, 0.1, 0.3, 0.5, 0.75, 0.9, 0.99, 1.0])


@settings(derandomize=True, max_examples=100, deadline=None)
@given(**CASES, share=SHARES)
def test_min_p_and_typical_agree_with_the_slow_ones(seed: int, V: int, kind: str, share: float) -> None:
    scores = random_scores(np.random.default_rng(seed), 4, V, kind)
    before = scores.copy()
    assert FILTERS["min_p"](scores, SamplingConfig(min_p=share)).tolist() == [
        slow_min_p(row, share) for row in scores.tolist()
    ]
    got = FILTERS["typical_p"](scores, SamplingConfig(typical_p=share)).tolist()
    for row, kept in zip(scores.tolist(), got, strict=True):
        expected, near = slow_typical(row, share)
        assert kept == expected or near
    np.testing.assert_array_equal(scores, before)


def test_an_ngram_longer_than_any_history_bans_nothing() -> None:
    scores, history = np.zeros((2, 3)), History([[0, 0], [1]], np.zeros(2, np.int64))
    assert applied("no_repeat_ngram_size", scores, history, no_repeat_ngram_size=10**12) == scores.tolist()


def test_alarm_the_slow_rules_notice_wrong_settings() -> None:
    rng = np.random.default_rng(3)
    scores, history = random_scores(rng, 30, 6, "smooth"), random_history(rng, 30, 6)
    rows = list(zip(scores.tolist(), map(list, history.tokens), strict=True))
    wrong = {
        "repetition_penalty": [slow_penalty(row, tokens, 1.3) for row, tokens in rows],
        "no_repeat_ngram_size": [slow_ngrams(row, tokens, 3) for row, tokens in rows],
        "bad_words": [slow_bad_words(row, tokens, [(1, 2)]) for row, tokens in rows],
        "sequence_bias": [slow_bias(row, tokens, {(1, 2): 1.0}) for row, tokens in rows],
    }
    right: dict[str, Any] = {
        "repetition_penalty": 1.2,
        "no_repeat_ngram_size": 2,
        "bad_words": ((2, 1),),
        "sequence_bias": (((1, 2), 2.0),),
    }
    for name, rows_of_another in wrong.items():
        assert applied(name, scores, history, **{name: right[name]}) != rows_of_another, name
    assert FILTERS["min_p"](scores, SamplingConfig(min_p=0.2)).tolist() != [slow_min_p(r, 0.3) for r, _ in rows]
    typical = FILTERS["typical_p"](scores, SamplingConfig(typical_p=0.5)).tolist()
    assert typical == [slow_typical(r, 0.5)[0] for r, _ in rows] != [slow_typical(r, 0.6)[0] for r, _ in rows]


def test_worked_examples() -> None:
    """Probabilities 0.5 0.25 0.125 0.125: the entropy is 1.75 bits, and 2 bits are nearer to it than 1 or 3."""
    scores = np.log([[0.5, 0.25, 0.125, 0.125]])
    for mass, kept in ((0.0, [1]), (0.25, [1]), (0.26, [0, 1]), (0.75, [0, 1]), (0.76, [0, 1, 2]), (0.9, [0, 1, 2, 3])):
        got = FILTERS["typical_p"](scores, SamplingConfig(typical_p=mass))
        assert np.flatnonzero(np.isfinite(got[0])).tolist() == kept, mass
    for share, kept in ((0.0, 4), (0.24, 4), (0.26, 2), (0.5, 2), (0.51, 1), (1.0, 1)):
        assert np.isfinite(FILTERS["min_p"](scores, SamplingConfig(min_p=share))).sum() == kept, share
    got = PROCESSORS["repetition_penalty"](
        np.array([[2.0, -2.0, 0.0, 1.0]]),
        SamplingConfig(repetition_penalty=2.0),
        History([[0, 1, 1, 2]], np.array([1])),
    )
    assert got.tolist() == [[1.0, -4.0, 0.0, 1.0]]


EXTRAS: dict[str, Any] = {
    "min_p": 0.1,
    "typical_p": 0.8,
    "repetition_penalty": 1.4,
    "no_repeat_ngram_size": 2,
    "bad_words": ((0, 1), (2,)),
    "suppress_tokens": (3,),
    "sequence_bias": (((1,), 1.5), ((1, 0), -2.0)),
    "min_new_tokens": 4,
    "forced_prefix": (5, 5),
}


@pytest.mark.parametrize("do_sample", [True, False])
def test_choose_runs_all_in_order(do_sample: bool) -> None:
    rng = np.random.default_rng(8)
    logits, history, u = rng.standard_normal((40, 9)).astype(np.float32), random_history(rng, 40, 9), rng.random(40)
    config = SamplingConfig(do_sample=do_sample, temperature=0.7, top_k=6, top_p=0.95, eos_token_id=4, **EXTRAS)
    expected = []
    for b, row in enumerate(logits.astype(np.float64).tolist()):
        tokens, written = list(history.tokens[b]), int(history.written[b])
        if written < 2:
            expected.append(5)
            continue
        row = slow_bias(row, tokens, dict(config.sequence_bias))
        row = slow_ngrams(slow_penalty(row, tokens, 1.4), tokens, 2)
        row = slow_bad_words(row, tokens, [(0, 1), (2,), (3,), *([(4,)] if written < 4 else [])])
        if not do_sample:
            expected.append(row.index(max(row)))
            continue
        row = [score / 0.7 for score in row]
        order = sorted(range(9), key=lambda i: (-row[i], i))[:6]
        row = [score if i in order else -INF for i, score in enumerate(row)]
        p = [math.exp(score - max(row)) for score in row]
        order = [i for n, i in enumerate(order) if n == 0 or sum(p[j] for j in order[:n]) < 0.95 * sum(p)]
        row = [score if i in order else -INF for i, score in enumerate(row)]
        row, near = slow_typical(slow_min_p(row, 0.1), 0.8)
        assert not near
        p = [math.exp(score - max(row)) for score in row]
        walked = [sum(p[: i + 1]) > u[b] * sum(p) for i in range(9)]
        expected.append(walked.index(True))
    assert choose(logits, config, u if do_sample else None, history).tolist() == expected
    assert len(set(expected)) > 3


def test_settings_that_are_off_change_no_bit() -> None:
    rng = np.random.default_rng(1)
    scores, history = random_scores(rng, 5, 12, "holes"), random_history(rng, 5, 12)
    config = SamplingConfig()
    for processor in PROCESSORS.values():
        assert processor(scores, config, history) is scores
    for name in ("top_k", "top_p", "min_p", "typical_p"):
        assert FILTERS[name](scores, config) is scores


def test_extras_are_told_and_what_needs_the_history() -> None:
    assert GenerationConfig(temperature=0.5, top_k=3, top_p=0.2, do_sample=False, seed=4, stop="a").plain
    assert not SamplingConfig().needs_history
    for name, value in EXTRAS.items():
        config = SamplingConfig(**{name: value})
        assert config.extras == (name,)
        assert config.needs_history == (name not in ("min_p", "typical_p", "suppress_tokens")), name
    assert GenerationConfig(logprobs=True).extras == ("logprobs",)
    assert not GenerationConfig(logprobs=True).needs_history
    assert not SamplingConfig(bad_words=((1,), (2,)), sequence_bias=(((3,), 1.0),)).needs_history


@pytest.mark.parametrize("do_sample", [True, False])
def test_rows_without_a_token_left_are_named_and_the_others_can_go_on(do_sample: bool) -> None:
    logits, u = np.zeros((3, 2), np.float32), np.full(3, 0.9)
    history = History([[0], [0, 1], [1]], np.zeros(3, np.int64))
    config = SamplingConfig(do_sample=do_sample, no_repeat_ngram_size=1)
    with pytest.raises(NothingLeftError, match=r"^no_repeat_ngram_size: no token is left .* row 1;") as caught:
        choose(logits, config, u, history)
    assert caught.value.rows == (1,)
    assert pickle.loads(pickle.dumps(caught.value)).rows == (1,)
    others = History([[0], [1]], np.zeros(2, np.int64))
    assert choose(logits[:2], config, u[:2], others).tolist() == [1, 0]


def test_generate_names_the_index_of_a_row_without_a_token_left() -> None:
    checkpoint = models.checkpoint("gru", 1)
    letters = "".join(checkpoint.tokenizer.vocabulary)
    with pytest.raises(NothingLeftError, match=r"no_repeat_ngram_size: .* row 4, 5;"):
        generate(
            make_model(checkpoint, "numpy"),
            ["a", "b", letters],
            num_return_sequences=2,
            no_repeat_ngram_size=1,
            max_new_tokens=4,
        )


def test_the_forced_prefix_wins_over_bans() -> None:
    config = SamplingConfig(forced_prefix=(1, 1), suppress_tokens=(1,), no_repeat_ngram_size=1, bad_words=((1,),))
    history = History([[0, 1]], np.array([1]))
    assert choose(np.zeros((1, 3), np.float32), config, np.array([0.99]), history).tolist() == [1]


def test_what_choose_lacks_is_named() -> None:
    logits, u = np.zeros((1, 3), np.float32), np.zeros(1)
    with pytest.raises(ConfigError, match="history: got None, needs the tokens so far for repetition_penalty"):
        choose(logits, SamplingConfig(repetition_penalty=2), u)
    with pytest.raises(ConfigError, match=r"give config\.resolved"):
        choose(logits, SamplingConfig(bad_words=("a",)), u)


def test_log_probabilities_are_those_of_the_logits() -> None:
    logits = np.random.default_rng(2).standard_normal((2, 3, 5)).astype(np.float32)
    got = log_softmax(logits)
    for t in range(2):
        for b in range(3):
            row = [float(x) for x in logits[t, b]]
            expected = [x - math.log(math.fsum(math.exp(y) for y in row)) for x in row]
            np.testing.assert_allclose(got[t, b], expected, rtol=1e-13, atol=1e-14)
    tokens = np.array([[0, 4, 2], [1, 1, 3]])
    assert token_logprobs(logits, tokens)[1, 2] == got[1, 2, 3]
    assert log_softmax(np.array([1000.0, -INF])).tolist() == [0.0, -INF]


LETTERS = CharTokenizer([UNK, EOS, *"abcd"], unknown="replace")
WORDS = WordTokenizer([UNK, BOS, EOS, "the", "cat", "sat"], lowercase=True)


def test_texts_become_ids_once() -> None:
    config = GenerationConfig(
        bad_words=["abc", EOS],
        suppress_tokens=[UNK, 5],
        sequence_bias={"d": 1.5, "ab": -2},
        min_new_tokens=2,
        forced_prefix="ba",
    )
    assert json.loads(json.dumps(asdict(config)))["sequence_bias"] == [["d", 1.5], ["ab", -2]]
    for one in (config, config.resolved(LETTERS), GenerationConfig(min_p=0.5).resolved(LETTERS)):
        again = GenerationConfig(**json.loads(json.dumps(asdict(one))))
        assert (again, again.extras, hash(again)) == (one, one.extras, hash(one))
    got = config.resolved(LETTERS)
    assert (got.bad_words, got.suppress_tokens) == (((2, 3, 4), (1,)), (0, 5))
    assert (got.sequence_bias, got.forced_prefix) == ((((5,), 1.5), ((2, 3), -2)), (3, 2))
    assert (got.eos_token_id, got.min_new_tokens, got.extras) == (1, 2, config.extras)
    assert got.resolved(LETTERS) == pickle.loads(pickle.dumps(got)) == got
    assert hash(config) != hash(got)
    assert SamplingConfig(bad_words="The cat").resolved(WORDS).bad_words == ((3, 4),)
    assert SamplingConfig(min_new_tokens=3).resolved(CharTokenizer("ab")).plain


@pytest.mark.parametrize(
    ("setting", "error", "message"),
    [
        ({"bad_words": ("abé",)}, UnknownTokenError, r"^bad_words: 'abé': the vocabulary has no character 'é'"),
        ({"sequence_bias": {"Z": 1.0}}, UnknownTokenError, r"^sequence_bias: 'Z': .* no character 'Z'"),
        ({"forced_prefix": "aZ"}, UnknownTokenError, r"^forced_prefix: 'aZ': "),
        ({"suppress_tokens": ("ab",)}, UnknownTokenError, r"no token 'ab'; bad_words takes texts"),
        ({"suppress_tokens": (6,)}, UnknownTokenError, r"^suppress_tokens: id 6 is outside .* 0 … 5"),
        ({"bad_words": ((1, 6),)}, UnknownTokenError, r"^bad_words: id 6"),
        ({"suppress_tokens": tuple(range(6))}, ConfigError, r"these are all tokens"),
        ({"eos_token_id": 3}, ConfigError, r"^eos_token_id: got 3, this vocabulary's <eos> is 1"),
    ],
)
def test_what_the_vocabulary_has_not_is_named(setting: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        SamplingConfig(**setting).resolved(LETTERS)


def test_a_text_without_tokens_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"^bad_words: nothing of '!' is a token"):
        SamplingConfig(bad_words=("!",)).resolved(WORDS)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("min_p", -0.1),
        ("min_p", math.nan),
        ("min_p", True),
        ("typical_p", 1.1),
        ("typical_p", None),
        ("repetition_penalty", 0),
        ("repetition_penalty", INF),
        ("repetition_penalty", "2"),
        ("repetition_penalty", 1e-320),
        ("repetition_penalty", 10**400),
        ("temperature", 10**400),
        ("max_new_tokens", 10**20),
        ("top_k", 2**63),
        ("sequence_bias", {"a": 10**400}),
        ("no_repeat_ngram_size", -1),
        ("no_repeat_ngram_size", 1.0),
        ("min_new_tokens", -1),
        ("bad_words", ("",)),
        ("bad_words", 3),
        ("bad_words", ((1, "a"),)),
        ("suppress_tokens", (-1,)),
        ("suppress_tokens", ("",)),
        ("suppress_tokens", None),
        ("sequence_bias", {"a": INF}),
        ("sequence_bias", {"a": "much"}),
        ("sequence_bias", ("a",)),
        ("sequence_bias", {"": 1.0}),
        ("forced_prefix", 5),
        ("forced_prefix", None),
        ("eos_token_id", "1"),
        ("logprobs", 1),
    ],
)
def test_a_setting_out_of_range_is_named(name: str, value: object) -> None:
    setting: dict[str, Any] = {name: value}
    with pytest.raises(ConfigError, match=rf"^{name}: got "):
        GenerationConfig(**setting)


def test_numbers_of_numpy_are_kept_as_those_that_json_knows() -> None:
    config = GenerationConfig(temperature=np.float32(0.5), top_k=np.int64(3), max_new_tokens=np.uint8(9))
    assert json.loads(json.dumps(asdict(config))) == json.loads(
        json.dumps(asdict(GenerationConfig(temperature=0.5, top_k=3, max_new_tokens=9)))
    )
    assert [type(value) for value in (config.temperature, config.top_k, config.max_new_tokens)] == [float, int, int]


def test_lengths_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"^min_new_tokens: got 5, needs at most max_new_tokens \(4\)"):
        GenerationConfig(min_new_tokens=5, max_new_tokens=4)
    with pytest.raises(ConfigError, match=r"^forced_prefix: 'abc' holds the stop text 'b'"):
        GenerationConfig(forced_prefix="abc", stop="b")
    with pytest.raises(ConfigError, match=r"^forced_prefix: has 3 tokens"):
        GenerationConfig(forced_prefix="abc", max_new_tokens=2).resolved(LETTERS)


def model_with_eos() -> Checkpoint:
    """A random model of the letters a … i that ends texts often."""
    config = models.config("gru", 1)
    params = models.params(config, np.float32)
    params["output.weight"] *= 4
    params["output.bias"][0] += 1.0
    return Checkpoint.of_language_model(config, params, CharTokenizer([EOS, BOS, *"abcdefghi"]))


PROMPTS = ["abc", "hi", "", "gagaga", "bed"]
RULES: dict[str, Any] = {
    "repetition_penalty": 1.3,
    "no_repeat_ngram_size": 3,
    "bad_words": ("ab", "e"),
    "suppress_tokens": (BOS, "f"),
    "sequence_bias": {"h": 1.0, "gi": -1.0},
    "min_new_tokens": 6,
    "forced_prefix": "he",
    "min_p": 0.02,
    "typical_p": 0.95,
}


@pytest.mark.parametrize("do_sample", [True, False])
def test_generate_keeps_every_rule_whatever_the_batch(do_sample: bool) -> None:
    model = make_model(model_with_eos(), "numpy")
    config: dict[str, Any] = {"do_sample": do_sample, "max_new_tokens": 25, "seed": 3, "num_return_sequences": 3}
    got = generate(model, PROMPTS, logprobs=True, **config, **RULES)
    for one, other in zip(got, generate(model, PROMPTS, batch_size=2, **config, **RULES), strict=True):
        assert replace(one, logprobs=None) == other
        assert one.logprobs is not None
        assert len(one.logprobs) == len(one.tokens)
        whole = one.prompt + one.text
        assert one.text.startswith("he")
        assert not {"f", "e"} & set(one.text[2:])
        assert "ab" not in one.text
        assert len(one.tokens) >= 7 - (one.finish_reason != "eos")
        triples = [whole[i : i + 3] for i in range(len(whole) - 2)]
        written = triples[len(one.prompt) :]
        assert all(triples.count(triple) == 1 for triple in written)
    assert {one.finish_reason for one in got} >= {"eos"}


def test_generate_draws_what_choose_says_row_by_row() -> None:
    model = make_model(model_with_eos(), "numpy")
    config = GenerationConfig(max_new_tokens=12, seed=5, logprobs=True, **RULES).resolved(model.tokenizer)
    got = generate(model, PROMPTS, config)
    for index, one in enumerate(got):
        tokens, logprobs = [1, *model.tokenizer.encode(one.prompt).tolist()], []
        start = len(tokens)
        for step in range(len(one.tokens)):
            state = np.zeros(model.config.state_shape(1), np.float32)
            logits = model.step(np.array(tokens)[:, None], state)[0][-1]
            u = uniforms(5, np.array([index]), step)
            token = int(choose(logits, config, u, History([tokens], np.array([step])))[0])
            logprobs.append(float(token_logprobs(logits, np.array([token]))[0]))
            tokens.append(token)
        assert tuple(tokens[start:]) == one.tokens
        np.testing.assert_allclose(one.logprobs, logprobs, rtol=0, atol=1e-5)  # type: ignore[arg-type]


def test_every_engine_keeps_the_rules() -> None:
    checkpoint = model_with_eos()
    expected = generate(make_model(checkpoint, "numpy"), PROMPTS, seed=2, max_new_tokens=15, **RULES)
    for engine in ("numba", "onnxruntime"):
        assert generate(make_model(checkpoint, engine), PROMPTS, seed=2, max_new_tokens=15, **RULES) == expected
    assert expected[0].logprobs is None


def test_a_file_that_draws_by_itself_says_what_it_cannot(tmp_path: Any) -> None:
    checkpoint = model_with_eos()
    whole = load(export_model(checkpoint, tmp_path / "whole.onnx", "onnx", "generate"))
    with pytest.raises(ConfigError, match=r"^min_p, logprobs: an ONNX file of form generate .* export --form both"):
        generate(whole, ["a"], min_p=0.1, logprobs=True)
    both = load(export_model(checkpoint, tmp_path / "both.onnx", "onnx", "both"))
    got = generate(both, PROMPTS, seed=2, max_new_tokens=15, **RULES)
    assert got == generate(make_model(checkpoint, "numpy"), PROMPTS, seed=2, max_new_tokens=15, **RULES)
