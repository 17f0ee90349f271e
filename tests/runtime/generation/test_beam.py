"""Beam search against all texts there are, and against the same search over plain lists of whole texts."""

from __future__ import annotations

import itertools
import math
from typing import Any

import models
import numpy as np
import pytest

from unrolled.engine.errors import ConfigError, ModelFileError, NothingLeftError
from unrolled.engine.models.step_contract import STEP, StepModel, zero_state
from unrolled.engine.storage.checkpoint import Checkpoint
from unrolled.engine.tokenizers.characters import CharTokenizer
from unrolled.engine.tokenizers.vocabulary import EOS
from unrolled.export.formats import export_model
from unrolled.runtime import generate, load
from unrolled.runtime.generation.beam_search import BeamConfig, beam_search
from unrolled.runtime.models.engines import make_model

PROMPTS = ["ab", "b", "aabba", "ba"]
Text = tuple[int, ...]


def tiny(vocabulary: str = "ab", seed: int = 1, bias: float = 0.0, engine: str = "numpy") -> StepModel:
    """A random model of <eos> and a few letters; ``bias`` makes <eos> more probable."""
    config = models.config("gru", 1, vocab_size=1 + len(vocabulary))
    params = models.params(config, np.float32, seed)
    params["output.weight"] *= 4
    params["output.bias"][0] += bias
    return make_model(Checkpoint.of_language_model(config, params, CharTokenizer([EOS, *vocabulary])), engine)


class Oracle:
    """Log-probabilities of the next token after a whole text, read from its beginning; plain Python from the logits on."""

    def __init__(self, model: StepModel, prompt: str) -> None:
        self.model, self.prompt = model, model.tokenizer.encode(prompt).tolist()
        self.known: dict[Text, list[float]] = {}

    def __call__(self, text: Text) -> list[float]:
        if text not in self.known:
            tokens = np.array([*self.prompt, *text], np.int64)[:, None]
            logits = self.model.step(tokens, zero_state(self.model.config, 1))[0][-1, 0].tolist()
            total = math.log(math.fsum(math.exp(logit) for logit in logits))
            self.known[text] = [logit - total for logit in logits]
        return self.known[text]

    def total(self, text: Text) -> float:
        return sum(self(text[:i])[token] for i, token in enumerate(text))


def all_texts(V: int, n: int) -> list[Text]:
    """Every text that ends with <eos> (0), or at n tokens."""
    return [
        (*text, *end)
        for length in range(n + 1)
        for text in itertools.product(range(1, V), repeat=length)
        for end in ([(0,)] if length < n else [()])
    ]


def slow_beams(oracle: Oracle, config: BeamConfig) -> list[tuple[Text, float]]:
    """The search over lists of texts, everything computed again at every step."""
    K, n, power = config.num_beams, config.max_new_tokens, config.length_penalty
    open_texts: list[Text] = [()]
    ended: list[tuple[float, Text]] = []
    for length in range(1, n + 1):
        candidates = [
            (oracle.total((*text, v)), i, v) for i, text in enumerate(open_texts) for v in range(oracle_V(oracle))
        ]
        candidates.sort(key=lambda c: (-c[0], c[1], c[2]))
        ended += [(c[0] / length**power, (*open_texts[c[1]], 0)) for c in candidates[:K] if c[2] == 0]
        ended = sorted(ended, key=lambda e: -e[0])[:K]
        open_texts = [(*open_texts[i], v) for _, i, v in candidates if v != 0][:K]
        longest = n if config.early_stopping == "never" and power > 0 else length
        best = oracle.total(open_texts[0]) / longest**power
        if len(ended) == K and (config.early_stopping is True or ended[-1][0] >= best):
            break
    else:
        ended += [(oracle.total(text) / n**power, text) for text in open_texts]
    best = sorted(ended, key=lambda e: -e[0])[: config.num_return_sequences]
    return [(text, score) for score, text in best]


def oracle_V(oracle: Oracle) -> int:
    return oracle.model.config.vocab_size


@pytest.mark.parametrize("power", [0.0, 1.0, 2.0, -1.0])
@pytest.mark.parametrize(("letters", "n"), [("a", 4), ("ab", 4), ("abc", 3)])
def test_enough_beams_find_the_best_text_there_is(letters: str, n: int, power: float) -> None:
    for seed in (1, 2):
        model = tiny(letters, seed)
        K = (len(letters) + 1) ** n
        config = BeamConfig(num_beams=K, length_penalty=power, max_new_tokens=n, num_return_sequences=5)
        oracle = Oracle(model, "aa")
        texts = sorted(all_texts(len(letters) + 1, n), key=lambda t: -oracle.total(t) / len(t) ** power)
        got = beam_search(model, ["aa"], config)
        assert [one.tokens for one in got] == texts[:5]
        expected = [oracle.total(text) / len(text) ** power for text in texts[:5]]
        np.testing.assert_allclose([one.score for one in got], expected, rtol=1e-5)
        assert {one.finish_reason for one in got} <= {"eos", "length"}
        assert [one.finish_reason == "eos" for one in got] == [one.tokens[-1] == 0 for one in got]


@pytest.mark.parametrize("early_stopping", [False, True, "never"])
@pytest.mark.parametrize("power", [0.0, 0.7, 1.5, -0.5])
def test_few_beams_are_those_of_the_slow_search(early_stopping: bool | str, power: float) -> None:
    shortened = 0
    for seed, K, bias in itertools.product((1, 3), (1, 2, 3, 5), (0.0, -2.5)):
        model = tiny("abcd", seed, bias)
        config = BeamConfig(
            num_beams=K, length_penalty=power, early_stopping=early_stopping, max_new_tokens=9, num_return_sequences=K
        )
        got = beam_search(model, PROMPTS[:2], config)
        expected = [pair for prompt in PROMPTS[:2] for pair in slow_beams(Oracle(model, prompt), config)]
        assert [one.tokens for one in got] == [text for text, _ in expected]
        np.testing.assert_allclose([one.score for one in got], [score for _, score in expected], rtol=1e-5)
        assert [one.index for one in got] == [*range(2 * K)]
        shortened += sum(len(one.tokens) < 9 for one in got)
    assert shortened > 10


def test_alarm_other_settings_find_other_texts() -> None:
    found = set()
    settings: list[dict[str, Any]] = [
        {},
        {"num_beams": 1},
        {"length_penalty": -2.0},
        {"early_stopping": True, "length_penalty": 3.0},
    ]
    for setting in settings:
        config = BeamConfig(**{"num_beams": 4, "max_new_tokens": 9, **setting})
        found.add(tuple((one.tokens, one.score) for one in beam_search(tiny("abcd", 4), PROMPTS, config)))
    assert len(found) == len(settings)


def test_one_beam_is_greedy() -> None:
    model = tiny("abcd", 2, -2.0)
    # a penalty is of log-probabilities here and of logits there, so it is not among them
    rules: dict[str, Any] = {"no_repeat_ngram_size": 3, "min_new_tokens": 3, "sequence_bias": {"ab": 2.0}}
    for extra in ({}, rules):
        greedy = generate(model, PROMPTS, do_sample=False, max_new_tokens=12, logprobs=True, **extra)
        beams = beam_search(model, PROMPTS, BeamConfig(num_beams=1, max_new_tokens=12, logprobs=True, **extra))
        assert [one.tokens for one in beams] == [one.tokens for one in greedy]
        assert [one.finish_reason for one in beams] == [one.finish_reason for one in greedy]
        for one, other in zip(beams, greedy, strict=True):
            np.testing.assert_allclose(one.logprobs, other.logprobs, atol=1e-5)  # type: ignore[arg-type]


def test_prompts_do_not_see_each_other_and_the_best_score_rises_with_beams() -> None:
    model = tiny("abcd", 4, -1.0)
    config = BeamConfig(num_beams=3, num_return_sequences=2, max_new_tokens=10)
    together = beam_search(model, PROMPTS, config)
    alone = [one for prompt in PROMPTS for one in beam_search(model, [prompt], config)]
    small = beam_search(
        model, PROMPTS, BeamConfig(num_beams=3, num_return_sequences=2, max_new_tokens=10, batch_size=1)
    )
    for other in (alone, small):
        assert [one.tokens for one in together] == [one.tokens for one in other]
    assert together == beam_search(model, PROMPTS, config)
    assert all(a.score >= b.score for a, b in itertools.pairwise(together) if a.prompt == b.prompt)


def test_equal_scores_go_by_the_lower_index() -> None:
    model = tiny("abc")
    flat = Flat(model)
    got = beam_search(
        flat, ["a"], BeamConfig(num_beams=3, num_return_sequences=3, max_new_tokens=2, suppress_tokens=[EOS])
    )
    assert [one.text for one in got] == ["aa", "ab", "ac"]
    assert got[0].score == got[1].score == got[2].score == pytest.approx(-math.log(4))


class Flat:
    """A model that finds every token equally probable."""

    capabilities = STEP

    def __init__(self, model: StepModel) -> None:
        self.config, self.tokenizer, self.engine = model.config, model.tokenizer, "flat"
        self.training, self.digest = model.training, model.digest

    def step(self, tokens: Any, state: Any) -> Any:
        return np.zeros((*tokens.shape, self.config.vocab_size), np.float32), state


def test_processors_hold_in_beams() -> None:
    model = tiny("abcd", 6, 1.0)
    config = BeamConfig(
        num_beams=4,
        num_return_sequences=4,
        max_new_tokens=12,
        bad_words=("ab", "d"),
        no_repeat_ngram_size=3,
        min_new_tokens=5,
        forced_prefix="ca",
    )
    for one in beam_search(model, PROMPTS, config):
        assert one.text.startswith("ca")
        assert "ab" not in one.text
        assert "d" not in one.text
        assert len(one.tokens) > 5
        triples = [one.text[i : i + 3] for i in range(len(one.text) - 2)]
        assert len(set(triples)) == len(triples)


def test_a_stop_text_ends_a_beam_and_is_trimmed() -> None:
    model = tiny("abcd", 2, -3.0)
    free = beam_search(model, PROMPTS, BeamConfig(num_beams=3, max_new_tokens=12))
    stop = free[0].text[1:3]
    assert stop
    got = beam_search(model, PROMPTS, BeamConfig(num_beams=3, num_return_sequences=3, max_new_tokens=12, stop=(stop,)))
    assert "stop" in {one.finish_reason for one in got}
    for one in got:
        written = model.tokenizer.decode(one.tokens)
        assert one.text == written.partition(stop)[0]
        assert (stop in written) == (one.finish_reason == "stop")


@pytest.mark.parametrize("engine", ["numba", "onnxruntime"])
def test_every_engine_finds_the_same(engine: str) -> None:
    config = BeamConfig(num_beams=3, num_return_sequences=3, max_new_tokens=10)
    got, expected = (beam_search(tiny("abcd", 5, -3.0, e), PROMPTS, config) for e in (engine, "numpy"))
    assert [one.tokens for one in got] == [one.tokens for one in expected]
    np.testing.assert_allclose([one.score for one in got], [one.score for one in expected], atol=1e-5)


def test_a_prompt_that_nothing_may_follow_is_named() -> None:
    with pytest.raises(NothingLeftError, match=r"bad_words, suppress_tokens: .* row 1;") as caught:
        beam_search(tiny("ab"), ["a", "b"], BeamConfig(bad_words=("ba", "bb"), suppress_tokens=[EOS]))
    assert caught.value.rows == (1,)
    with pytest.raises(NothingLeftError):
        beam_search(tiny("ab"), ["ab"], BeamConfig(no_repeat_ngram_size=1, suppress_tokens=[EOS]))


def test_a_file_that_shows_no_logits_is_refused(tmp_path: Any) -> None:
    config = models.config("gru", 1, vocab_size=3)
    checkpoint = Checkpoint.of_language_model(config, models.params(config, np.float32), CharTokenizer([EOS, *"ab"]))
    whole = load(export_model(checkpoint, tmp_path / "whole.onnx", "onnx", "generate"))
    with pytest.raises(ModelFileError, match="shows no logits; export --form both"):
        beam_search(whole, ["a"])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("num_beams", 0),
        ("num_beams", 2.0),
        ("length_penalty", math.nan),
        ("length_penalty", "1"),
        ("length_penalty", True),
        ("early_stopping", "always"),
        ("early_stopping", 1),
        ("early_stopping", None),
        ("num_return_sequences", 5),
        ("do_sample", True),
        ("temperature", 0.5),
        ("temperature", 0),
        ("seed", 1),
        ("top_k", 3),
        ("min_p", 0.1),
    ],
)
def test_a_setting_out_of_range_is_named(name: str, value: object) -> None:
    setting: dict[str, Any] = {name: value}
    with pytest.raises(ConfigError, match=rf"^{name}: got "):
        BeamConfig(**setting)


def test_prompts_are_checked() -> None:
    with pytest.raises(ConfigError, match="prompts: got none"):
        beam_search(tiny(), [])
