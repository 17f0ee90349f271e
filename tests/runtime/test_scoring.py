"""Tests of scores of texts: against plain Python, token by token, and equal on every engine and in eval."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path
from typing import Any

import models
import numpy as np
import pytest
from numpy.typing import NDArray
from tolerances import assert_close

from unrolled.engine.data.dataset import make_batches
from unrolled.engine.errors import ConfigError, ModelFileError, UnknownTokenError
from unrolled.engine.models.step_contract import STEP, StepModel, zero_state
from unrolled.engine.storage.checkpoint import Checkpoint
from unrolled.engine.tokenizers.characters import CharTokenizer
from unrolled.engine.tokenizers.vocabulary import BOS, EOS
from unrolled.engine.tokenizers.words import WordTokenizer
from unrolled.engine.training.evaluation import evaluate_tokens
from unrolled.export.formats import export_model
from unrolled.runtime import load, rank, scoring
from unrolled.runtime.models.engines import make_model
from unrolled.runtime.scoring import TextScore, score

LETTERS = CharTokenizer("abcdefghijk")
MARKED = CharTokenizer([EOS, BOS, *"abcdefghi"])
TEXTS = ["abc", "ba", "deadbeefcafe" * 3, "hi", "aaaaaaaaaa", "gaga"]
ENGINES = ("numba", "torch", "torchscript", "onnxruntime")


def make(tokenizer: Any = LETTERS, engine: str = "numpy", cell: str = "lstm") -> StepModel:
    if engine.startswith("torch"):
        pytest.importorskip("torch")
    config = models.config(cell, 2)
    return make_model(Checkpoint.of_language_model(config, models.params(config, np.float32), tokenizer), engine)


def slow_score(model: StepModel, begin: list[int], ids: list[int]) -> list[float]:
    """Return log-probabilities of ``ids`` after ``begin``, one token a call; without ``begin`` the first id has none."""
    state, logprobs = zero_state(model.config, 1), []
    for before, token in itertools.pairwise([*begin, *ids]):
        logits, state = model.step(np.array([[before]]), state)
        row = logits[0, 0].tolist()
        logprobs.append(row[token] - math.log(math.fsum(math.exp(logit) for logit in row)))
    return logprobs[len(begin) - 1 :] if begin else logprobs


def check(got: list[TextScore], model: StepModel, begins: list[list[int]], texts: list[str], eos: bool = False) -> None:
    for one, begin, text in zip(got, begins, texts, strict=True):
        ids = [*model.tokenizer.encode(text).tolist(), *([model.tokenizer.eos_id] if eos else [])]
        expected = slow_score(model, begin, ids)
        assert one.text == text
        assert one.tokens.tolist() == ids[len(ids) - len(expected) :]
        assert_close(one.logprobs, expected, "engine", np.float32, text)
        assert one.logprob == pytest.approx(sum(expected), rel=1e-5)
        assert one.mean == pytest.approx(sum(expected) / len(expected), rel=1e-5)
        assert one.perplexity == pytest.approx(math.exp(-sum(expected) / len(expected)), rel=1e-5)


@pytest.mark.parametrize("cell", models.ALL_CELLS)
def test_texts_of_all_lengths_agree_with_the_slow_walk(cell: str) -> None:
    model = make(cell=cell)
    got = score(model, TEXTS)
    check(got, model, [[]] * len(TEXTS), TEXTS)
    assert [len(one.tokens) for one in got] == [len(text) - 1 for text in TEXTS]
    assert [one.index for one in got] == [*range(len(TEXTS))]


@pytest.mark.parametrize("eos", [False, True])
def test_with_bos_every_token_counts(eos: bool) -> None:
    model = make(MARKED)
    got = score(model, ["", *TEXTS[:2]] if eos else TEXTS[:2], eos=eos)
    texts = ["", *TEXTS[:2]] if eos else TEXTS[:2]
    check(got, model, [[1]] * len(texts), texts, eos)
    assert [len(one.tokens) for one in got] == [len(text) + eos for text in texts]


def test_only_what_is_behind_a_prompt_counts() -> None:
    for model in (make(), make(MARKED)):
        first = [] if model.tokenizer.bos_id is None else [1]
        prompts = ["a", "bad", "cab", "d", "e" * 40, "fig"]
        begins = [[*first, *model.tokenizer.encode(prompt).tolist()] for prompt in prompts]
        got = score(model, TEXTS, prompts)
        check(got, model, begins, TEXTS)
        assert [one.prompt for one in got] == prompts
        check(score(model, TEXTS, "bad"), model, [begins[1]] * len(TEXTS), TEXTS)


def test_a_text_is_its_prompt_and_the_rest() -> None:
    model = make(MARKED)
    whole, begin, rest = score(model, ["badhead"])[0], score(model, ["bad"])[0], score(model, ["head"], "bad")[0]
    assert_close(whole.logprobs, np.concatenate([begin.logprobs, rest.logprobs]), "invariant", np.float32)


def test_alarm_another_prompt_or_order_is_noticed() -> None:
    model = make()
    with pytest.raises(AssertionError, match="difference"):
        check(score(model, TEXTS, "bad"), model, [model.tokenizer.encode("bab").tolist()] * len(TEXTS), TEXTS)
    with pytest.raises(AssertionError):
        check(score(model, TEXTS[::-1]), model, [[]] * len(TEXTS), TEXTS)


class Recorder:
    """A model that keeps the shapes it was asked for."""

    capabilities = STEP

    def __init__(self, model: StepModel) -> None:
        self.model, self.config, self.tokenizer, self.engine = model, model.config, model.tokenizer, model.engine
        self.training, self.digest = model.training, model.digest
        self.shapes: list[tuple[int, ...]] = []

    def step(self, tokens: NDArray[np.int64], state: NDArray) -> tuple[NDArray, NDArray]:
        self.shapes.append(tokens.shape)
        return self.model.step(tokens, state)


@pytest.mark.parametrize(("chunk", "batch_size"), [(1, 64), (4, 2), (7, 3), (100, 1)])
def test_chunks_and_batches_change_nothing_and_bound_the_memory(
    monkeypatch: pytest.MonkeyPatch, chunk: int, batch_size: int
) -> None:
    model = Recorder(make())
    expected = score(model, TEXTS, "bad")
    model.shapes.clear()
    logits = chunk * min(batch_size, len(TEXTS))
    monkeypatch.setattr(scoring, "LOGIT_BYTES", scoring.BYTES_PER_LOGIT * models.V * logits)
    got = score(model, TEXTS, "bad", batch_size=batch_size)
    assert max(T * B for T, B in model.shapes) <= logits
    for one, other in zip(got, expected, strict=True):
        assert_close(one.logprobs, other.logprobs, "invariant", np.float32)


def test_a_shared_prompt_is_read_once() -> None:
    model = Recorder(make())
    score(model, ["a", "b", "c", "d"], "deadbeef")
    assert model.shapes == [(7, 1), (1, 4)]


def test_alternatives_are_ranked() -> None:
    model = make()
    alternatives = ["abc", "a", "gigabead", "b", "kk"]
    totals = {a: sum(slow_score(model, [1, 0, 3], model.tokenizer.encode(a).tolist())) for a in alternatives}
    assert [one.text for one in rank(model, "bad", alternatives)] == sorted(alternatives, key=lambda a: -totals[a])
    by_mean = sorted(alternatives, key=lambda a: -totals[a] / len(a))
    assert [one.text for one in rank(model, "bad", alternatives, by="mean")] == by_mean
    assert by_mean != sorted(alternatives, key=lambda a: -totals[a])
    assert [one.index for one in rank(model, "bad", ["a", "a", "a"])] == [0, 1, 2]
    with pytest.raises(ConfigError, match="by: got 'length', choose one of logprob, mean"):
        rank(model, "bad", alternatives, by="length")


@pytest.mark.parametrize("engine", ENGINES)
def test_every_engine_says_the_same(engine: str) -> None:
    model, reference = make(engine=engine), make()
    for prompts in (None, "bad"):
        for one, other in zip(score(model, TEXTS, prompts), score(reference, TEXTS, prompts), strict=True):
            assert_close(one.logprobs, other.logprobs, "engine", np.float32, f"{one.text} by {engine}")
    ranked = [[one.text for one in rank(m, "bad", TEXTS, by="mean")] for m in (model, reference)]
    assert ranked[0] == ranked[1]


def test_a_text_as_one_stream_has_the_perplexity_of_eval() -> None:
    model = make()
    text = "".join(np.random.default_rng(4).choice(list("abcdefghijk"), 3000))
    metrics = evaluate_tokens(model, make_batches(text, model.tokenizer, 1, 512))
    (got,) = score(model, [text])
    assert len(got.tokens) == metrics.tokens
    assert_close(-got.mean, metrics.loss, "curve", np.float64)
    assert got.perplexity == pytest.approx(metrics.perplexity, rel=1e-5)


def test_words_are_scored_by_word() -> None:
    tokenizer = WordTokenizer([BOS, EOS, "<unk>", *"abcdefgh"])
    (got,) = score(make(tokenizer), ["a b zzz"], "c d")
    assert got.tokens.tolist() == [3, 4, 2]
    values = json.loads(json.dumps(got.to_dict(tokenizer)))
    assert values["tokens"] == ["a", "b", "<unk>"]
    assert values["logprob"] == pytest.approx(sum(values["logprobs"]))


def test_what_cannot_be_scored_is_named(tmp_path: Path) -> None:
    model = make()
    wrong: Any = 5
    for texts, message in ((wrong, "texts: got 5"), ([], "texts: got none"), (["a", 3], "texts: got 3 at 1, needs")):
        with pytest.raises(ConfigError, match=message):
            score(model, texts)
    with pytest.raises(ConfigError, match=r"texts: 'a' has no token to count behind another; give a prompt"):
        score(model, ["abc", "a"])
    with pytest.raises(ConfigError, match="texts: '' has no token"):
        score(model, [""], "abc")
    with pytest.raises(ConfigError, match="prompts: got 1 for 2 texts"):
        score(model, ["abc", "ab"], ["a"])
    with pytest.raises(ConfigError, match="eos: this vocabulary has no <eos>"):
        score(model, ["abc"], eos=True)
    with pytest.raises(UnknownTokenError, match="'Z'"):
        score(model, ["abc", "Z"])
    with pytest.raises(ConfigError, match="batch_size: got 0"):
        score(model, ["abc"], batch_size=0)
    config = models.config("gru", 1)
    checkpoint = Checkpoint.of_language_model(config, models.params(config, np.float32), LETTERS)
    whole = load(export_model(checkpoint, tmp_path / "whole.onnx", "onnx", "generate"))
    with pytest.raises(ModelFileError, match="shows no logits"):
        score(whole, ["abc"])


def test_damaged_weights_are_told_of() -> None:
    class Damaged(Recorder):
        def step(self, tokens: NDArray[np.int64], state: NDArray) -> tuple[NDArray, NDArray]:
            logits, state = super().step(tokens, state)
            return np.full_like(logits, np.nan), state

    with pytest.raises(ModelFileError, match="not finite"):
        score(Damaged(make()), ["abc"])
