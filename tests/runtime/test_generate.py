"""Tests of the generation loop (rows, batches, prompts, stops, errors) and of the modules that the runtime imports."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import models
import numpy as np
import pytest
from numpy.typing import NDArray
from tolerances import assert_close

from unrolled.engine.errors import ConfigError, ModelFileError, ShapeError, UnknownTokenError
from unrolled.engine.models.initializers import pytorch_params
from unrolled.engine.models.language_model_config import LanguageModelConfig
from unrolled.engine.models.step_contract import STEP, StepModel, zero_state
from unrolled.engine.sampling.philox import uniforms
from unrolled.engine.storage.checkpoint import Checkpoint, save_checkpoint
from unrolled.engine.tokenizers.byte_pairs import BYTE_SIGNS, BpeTokenizer
from unrolled.engine.tokenizers.characters import CharTokenizer
from unrolled.engine.tokenizers.contract import Tokenizer
from unrolled.engine.tokenizers.vocabulary import BOS, EOS, UNK
from unrolled.engine.tokenizers.words import WordTokenizer
from unrolled.export.formats import export_model
from unrolled.runtime import Generation, GenerationConfig, generate, load, stream
from unrolled.runtime.generation.requests.prompts import prompt_tokens, read_prompts
from unrolled.runtime.models.batch_invariance import RowModel
from unrolled.runtime.models.engines import make_model

PROMPTS = ["a", "cafe", "bad", "hi", "deadbeef", "k", "face", "jig"]  # letters a … k; lengths 1 to 8, some twice
CELLS_AND_LAYERS = [(cell, layers) for cell in models.ALL_CELLS for layers in (1, 2)]
ENGINES = ("numpy", "onnxruntime", "torch", "torchscript")


def checkpoint(cell: str, layers: int) -> Checkpoint:
    """Return a random model with weights larger than usual, so that its texts depend on its prompts."""
    config = LanguageModelConfig(cell, models.V, 8, 12, layers)
    params = pytorch_params(config.spec, 0)
    params["output.weight"] *= 8
    for layer in range(layers):
        params[f"rnn.weight_ih_l{layer}"] *= 2
        params[f"rnn.weight_hh_l{layer}"] *= 1 if cell == "rnn_relu" else 2
    return Checkpoint.of_language_model(config, params, CharTokenizer("abcdefghijk"))


def make(cell: str = "gru", layers: int = 1, engine: str = "numpy") -> StepModel:
    if engine.startswith("torch"):
        pytest.importorskip("torch")
    return make_model(checkpoint(cell, layers), engine)


def texts(generations: Sequence[Generation]) -> list[str]:
    return [generation.text for generation in generations]


class Recorder:
    """A model that keeps the shapes of the tokens it was asked to read."""

    capabilities = STEP

    def __init__(self, model: StepModel) -> None:
        self.model, self.config, self.tokenizer, self.engine = model, model.config, model.tokenizer, model.engine
        self.shapes: list[tuple[int, ...]] = []

    def step(self, tokens: NDArray[np.int64], state: NDArray) -> tuple[NDArray, NDArray]:
        self.shapes.append(tokens.shape)
        return self.model.step(tokens, state)


class Script:
    """A model that writes given tokens; the first token that a row reads selects its script.

    ``state[0, 0, :, 0]`` counts the tokens read and ``state[0, 0, :, 1]`` keeps the first of them.
    """

    engine = "script"
    capabilities = STEP

    def __init__(self, tokenizer: Tokenizer, scripts: dict[str, Sequence[str]]) -> None:
        vocabulary = tokenizer.vocabulary
        self.tokenizer = tokenizer
        self.config = LanguageModelConfig("rnn", len(vocabulary), 1, 2)
        self.scripts = {
            vocabulary.index(first): [vocabulary.index(token) for token in tokens] for first, tokens in scripts.items()
        }

    def step(self, tokens: NDArray[np.int64], state: NDArray) -> tuple[NDArray, NDArray]:
        T, B = tokens.shape
        state = state.copy()
        logits = np.full((T, B, self.config.vocab_size), -50.0, np.float32)
        for t in range(T):
            for b in range(B):
                if state[0, 0, b, 0] == 0:
                    state[0, 0, b, 1] = tokens[t, b]
                script = self.scripts[int(state[0, 0, b, 1])]
                logits[t, b, script[int(state[0, 0, b, 0]) % len(script)]] = 50.0
                state[0, 0, b, 0] += 1
        return logits, state


LETTERS = CharTokenizer([EOS, *"abcdefgh .\n"])


def write(script: Sequence[str], tokenizer: Tokenizer = LETTERS, **settings: Any) -> Generation:
    """Return the text of one row that draws ``script`` after the prompt "a"."""
    model = Script(tokenizer, {"a": script})
    return generate(model, ["a"], GenerationConfig(**{"max_new_tokens": 12, **settings}))[0]


def slow_generation(model: StepModel, prompt: str, index: int, config: GenerationConfig) -> list[int]:
    """Generate one row alone, one token at a time, with a draw that walks a list."""
    state = zero_state(model.config, 1)
    for token in model.tokenizer.encode(prompt).tolist():
        logits, state = model.step(np.array([[token]]), state)
    written: list[int] = []
    for step in range(config.max_new_tokens):
        scores = [float(logit) / config.temperature for logit in logits[0, 0]]
        weights = [math.exp(score - max(scores)) for score in scores]
        goal = float(uniforms(config.seed, np.array([index]), step)[0]) * sum(weights)
        walked, token = 0.0, 0
        for token, weight in enumerate(weights):  # noqa: B007
            walked += weight
            if walked > goal:
                break
        written.append(token if config.do_sample else scores.index(max(scores)))
        logits, state = model.step(np.array([[written[-1]]]), state)
    return written


@pytest.mark.parametrize("engine", [*ENGINES, "numba"])
def test_temperature_0_is_greedy_alone_beside_others_and_step_by_step(engine: str) -> None:
    model = make(engine=engine)
    greedy = [one.tokens for one in generate(model, ["a", "bc"], do_sample=False, max_new_tokens=12)]
    for own in ({}, {"top_k": 3, "seed": 5}, {"min_p": 0.2}, {"logprobs": True}, {"stop": ("zz",)}):
        settings = {"temperature": 0, "max_new_tokens": 12, **own}
        assert [one.tokens for one in generate(model, ["a", "bc"], **settings)] == greedy
        assert generate(model, ["a"], **settings)[0].tokens == greedy[0]
    assert generate(model, ["a"] * 70, temperature=-0.0, max_new_tokens=12)[69].tokens == greedy[0]
    assert "".join(stream(model, "a", temperature=0, max_new_tokens=12)) == model.tokenizer.decode(greedy[0])


@pytest.mark.parametrize(
    ("name", "format", "form"),
    [("a.onnx", "onnx", "generate"), ("b.onnx", "onnx", "both"), ("c.pt", "torchscript", "both")],
)
def test_temperature_0_is_greedy_in_files_that_draw_inside(tmp_path: Path, name: str, format: str, form: str) -> None:
    if format == "torchscript":
        pytest.importorskip("torch")
    model = load(export_model(models.checkpoint("lstm"), tmp_path / name, format, form if format == "onnx" else None))
    greedy, zero = (
        [one.tokens for one in generate(model, ["a", "bc"], max_new_tokens=12, **settings)]
        for settings in ({"do_sample": False}, {"temperature": 0, "top_p": 0.4, "seed": 2})
    )
    assert zero == greedy


@pytest.mark.parametrize("temperature", [-1, -1e-9, 1e-7, float("nan"), float("inf"), "0", None, True, 10**400])
def test_any_other_temperature_below_the_least_is_refused(temperature: Any) -> None:
    with pytest.raises(ConfigError, match=r"^temperature: got .*, needs 0, which is greedy, or a number from 1e-06$"):
        GenerationConfig(temperature=temperature)


@pytest.mark.parametrize(("cell", "layers"), CELLS_AND_LAYERS)
@pytest.mark.parametrize("do_sample", [True, False], ids=["sampled", "greedy"])
def test_a_batch_writes_what_a_slow_loop_writes_row_by_row(cell: str, layers: int, do_sample: bool) -> None:
    model = make(cell, layers)
    config = GenerationConfig(do_sample=do_sample, temperature=0.8, seed=2**40 + 3, max_new_tokens=12)
    got = generate(model, PROMPTS, config)
    assert [list(g.tokens) for g in got] == [slow_generation(model, p, i, config) for i, p in enumerate(PROMPTS)]
    assert [g.prompt for g in got] == PROMPTS
    assert [g.index for g in got] == list(range(len(PROMPTS)))
    assert {g.finish_reason for g in got} == {"length"}
    assert texts(got) == [model.tokenizer.decode(g.tokens) for g in got]


def test_alarm_the_slow_loop_notices_another_seed_index_and_temperature() -> None:
    model = make()
    config = GenerationConfig(seed=5, max_new_tokens=12)
    got = list(generate(model, ["cafe"], config)[0].tokens)
    assert got == slow_generation(model, "cafe", 0, config)
    assert got != slow_generation(model, "cafe", 1, config)
    assert got != slow_generation(model, "cafe", 0, GenerationConfig(seed=6, max_new_tokens=12))
    assert got != slow_generation(model, "cafe", 0, GenerationConfig(seed=5, max_new_tokens=12, temperature=0.3))
    assert got != slow_generation(model, "cafe", 0, GenerationConfig(do_sample=False, max_new_tokens=12))


@pytest.mark.parametrize(("cell", "layers"), CELLS_AND_LAYERS)
def test_greedy_rows_are_what_each_prompt_alone_gives(cell: str, layers: int) -> None:
    model = make(cell, layers)
    together = generate(model, PROMPTS, do_sample=False, max_new_tokens=25)
    alone = [generate(model, [prompt], do_sample=False, max_new_tokens=25)[0] for prompt in PROMPTS]
    assert texts(together) == texts(alone)
    assert len(set(texts(together))) >= 4


@pytest.mark.parametrize(("cell", "layers"), CELLS_AND_LAYERS)
def test_a_sampled_row_does_not_see_its_neighbours(cell: str, layers: int) -> None:
    model = make(cell, layers)
    first = generate(model, ["a", "cafe", "deadbeef"], seed=3, max_new_tokens=25)
    second = generate(model, ["kick", "cafe", "b", "high", "a"], seed=3, max_new_tokens=25)
    assert first[1] == second[1]
    assert first[0].text != second[0].text
    assert first[2].text != second[2].text


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(("cell", "layers"), [("gru", 2), ("lstm", 1), ("rnn", 2), ("rnn_relu", 1)])
def test_the_batch_size_changes_nothing(cell: str, layers: int, engine: str) -> None:
    model = make(cell, layers, engine)
    settings: dict[str, Any] = {"num_return_sequences": 2, "seed": 9, "max_new_tokens": 15}
    expected = generate(model, PROMPTS, batch_size=256, **settings)
    assert generate(model, PROMPTS, batch_size=1, **settings) == expected
    assert generate(model, PROMPTS, batch_size=3, **settings) == expected
    assert [g.index for g in expected] == list(range(16))


def test_no_batch_is_wider_than_the_batch_size() -> None:
    model = Recorder(make(engine="onnxruntime"))
    generate(model, PROMPTS, batch_size=3, max_new_tokens=4)
    assert max(B for _, B in model.shapes) == 3


@pytest.mark.parametrize("cell", models.ALL_CELLS)
def test_all_engines_write_the_same(cell: str) -> None:
    pytest.importorskip("torch")
    for settings in ({"do_sample": False}, {"seed": 4}, {"seed": 4, "temperature": 0.7, "top_k": 6, "top_p": 0.9}):
        written = {e: generate(make(cell, 2, e), PROMPTS, max_new_tokens=15, **settings) for e in ENGINES}
        for engine in ENGINES[1:]:
            assert written[engine] == written["numpy"], (engine, settings)


@pytest.mark.parametrize(("cell", "layers"), CELLS_AND_LAYERS)
@pytest.mark.parametrize("engine", ENGINES)
def test_read_prompts_equals_single_tokens_and_a_single_call(cell: str, layers: int, engine: str) -> None:
    model = make(cell, layers, engine)
    prompts = [model.tokenizer.encode(prompt) for prompt in PROMPTS]
    logits, state = read_prompts(RowModel(model), prompts)
    assert logits.shape == (len(PROMPTS), models.V)
    assert state.shape == model.config.state_shape(len(PROMPTS))
    assert logits.dtype == state.dtype == np.float32
    for row, ids in enumerate(prompts):
        whole, after = model.step(ids[:, None], zero_state(model.config, 1))
        assert_close(logits[row], whole[-1, 0], "invariant", np.float32, f"logits of {PROMPTS[row]!r}, one call")
        assert_close(state[:, :, row], after[:, :, 0], "invariant", np.float32, f"state of {PROMPTS[row]!r}, one call")
        single = zero_state(model.config, 1)
        for token in ids.tolist():
            last, single = model.step(np.array([[token]]), single)
        assert_close(logits[row], last[-1, 0], "invariant", np.float32, f"logits of {PROMPTS[row]!r}, single steps")
        assert_close(state[:, :, row], single[:, :, 0], "invariant", np.float32, f"state of {PROMPTS[row]!r}, steps")


def test_alarm_a_padded_row_would_be_noticed() -> None:
    model = make("gru")
    right = read_prompts(RowModel(model), [model.tokenizer.encode("bad")])
    padded = read_prompts(RowModel(model), [model.tokenizer.encode("bada")])
    for got, expected in zip(padded, right, strict=True):
        with pytest.raises(AssertionError, match="difference"):
            assert_close(got, expected, "invariant", np.float32)


def test_read_prompts_reads_what_prompts_share_once_and_no_padding() -> None:
    model = Recorder(make(engine="onnxruntime"))
    read_prompts(RowModel(model), [model.tokenizer.encode(prompt) for prompt in PROMPTS])
    beginnings = {prompt[:n] for prompt in PROMPTS for n in range(1, len(prompt) + 1)}
    assert sum(T * B for T, B in model.shapes) == len(beginnings)
    assert model.shapes == [(1, 8), (1, 6), (1, 5), (1, 3), (4, 1)]


def test_each_prompt_gets_its_sequences_in_order() -> None:
    model = make("lstm", 2)
    got = generate(model, ["cafe", "bad"], num_return_sequences=3, seed=1, max_new_tokens=20)
    assert [(g.prompt, g.index) for g in got] == [("cafe", 0), ("cafe", 1), ("cafe", 2)] + [
        ("bad", 3),
        ("bad", 4),
        ("bad", 5),
    ]
    assert len(set(texts(got))) == 6
    assert got == generate(model, ["cafe"] * 3 + ["bad"] * 3, seed=1, max_new_tokens=20)


def test_greedy_sequences_of_one_prompt_are_equal() -> None:
    got = generate(make(), ["cafe"], num_return_sequences=3, do_sample=False, max_new_tokens=10)
    assert len(set(texts(got))) == 1
    assert [g.index for g in got] == [0, 1, 2]


def test_the_seed_decides_the_text() -> None:
    model = make()
    settings: dict[str, Any] = {"max_new_tokens": 20}
    once = texts(generate(model, PROMPTS, seed=2**64 - 1, **settings))
    assert once == texts(generate(model, PROMPTS, seed=2**64 - 1, **settings))
    assert once != texts(generate(model, PROMPTS, seed=2**32 - 1, **settings))


@pytest.mark.parametrize("count", [1, 2, 30])
def test_max_new_tokens_is_the_number_written(count: int) -> None:
    model = Recorder(make())
    got = generate(model, ["cafe", "a"], max_new_tokens=count)
    assert [len(g.tokens) for g in got] == [count, count]
    assert [len(g.text) for g in got] == [count, count]
    assert [g.finish_reason for g in got] == ["length", "length"]


def test_longer_texts_begin_with_the_shorter_ones() -> None:
    model = make("lstm")
    long = texts(generate(model, PROMPTS, seed=8, max_new_tokens=30))
    short = texts(generate(model, PROMPTS, seed=8, max_new_tokens=7))
    assert [text[:7] for text in long] == short


def test_a_script_is_written_as_it_stands() -> None:
    got = write("bcdefgh .\nab")
    assert got == Generation("a", "bcdefgh .\nab", (2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 1, 2), "length", 0)


def test_eos_ends_a_row_and_is_left_out_of_its_text() -> None:
    got = write(["b", "c", EOS, "d"])
    assert got == Generation("a", "bc", (2, 3, 0), "eos", 0)


def test_eos_as_the_first_token_leaves_nothing() -> None:
    assert write([EOS]) == Generation("a", "", (0,), "eos", 0)


def test_eos_as_the_last_token_allowed_is_eos_and_not_length() -> None:
    assert write(["b", EOS], max_new_tokens=2) == Generation("a", "b", (2, 0), "eos", 0)


def test_rows_that_end_leave_the_batch_and_the_others_go_on() -> None:
    scripts = {"a": ["b", EOS], "c": "defgh.", "d": ["e", "f", "g", EOS], "e": ["h", " ", "h", ".", "a"]}
    model = Recorder(Script(LETTERS, scripts))
    got = generate(model, ["a", "c", "d", "e"], max_new_tokens=6, stop=" h")
    assert [(g.text, g.finish_reason) for g in got] == [
        ("b", "eos"),
        ("defgh.", "length"),
        ("efg", "eos"),
        ("h", "stop"),
    ]
    assert [B for _, B in model.shapes] == [4, 4, 3, 2, 1, 1]


def test_no_step_is_made_once_all_rows_are_over() -> None:
    model = Recorder(Script(LETTERS, {"a": ["a", "c", "b", EOS]}))
    generate(model, ["aac", "aac"], max_new_tokens=50)
    assert model.shapes == [(2, 1), (1, 2), (1, 2)]  # "aa" for both, read once; then "c", and the "b" that was drawn


def test_a_stop_text_across_tokens_is_trimmed() -> None:
    assert write("bcdef", stop=("de",)) == Generation("a", "bc", (2, 3, 4, 5), "stop", 0)


def test_a_stop_text_may_be_given_alone() -> None:
    assert write("bcdef", stop="cde") == write("bcdef", stop=("cde",)) == Generation("a", "b", (2, 3, 4, 5), "stop", 0)


def test_of_several_stop_texts_the_earliest_ends_the_text() -> None:
    assert write("bcdefgh", stop=("gh", "ef", "zz")).text == "bcd"
    assert write("bcdefgh", stop=("d", "bcd")) == Generation("a", "", (2, 3, 4), "stop", 0)
    assert write("bcdefgh", stop=("cdefg", "fg")).text == "b"


def test_a_stop_text_as_the_last_tokens_allowed_is_a_stop() -> None:
    assert write("bcd", stop="cd", max_new_tokens=3) == Generation("a", "b", (2, 3, 4), "stop", 0)


def test_a_stop_text_that_begins_twice_is_found() -> None:
    assert write("bbbbc", stop="bbc") == Generation("a", "bb", (2, 2, 2, 2, 3), "stop", 0)


def test_a_stop_text_does_not_reach_back_into_the_prompt() -> None:
    model = Script(LETTERS, {"a": "bcdeab"})
    got = generate(model, ["a"], do_sample=False, max_new_tokens=6, stop="ab")
    assert (got[0].text, got[0].finish_reason) == ("bcde", "stop")


def test_a_stop_text_that_never_comes_changes_nothing() -> None:
    assert write("bcd", stop="h.", max_new_tokens=5) == Generation("a", "bcdbc", (2, 3, 4, 2, 3), "length", 0)


def test_stop_texts_of_word_models_are_looked_for_in_the_text_and_not_in_the_words() -> None:
    words = WordTokenizer([UNK, EOS, "a", "cat", "sat", ".", "the"], punctuation=True)
    script = ["the", "cat", "sat", ".", "the", "cat"]
    assert write(script, words, stop="t.").text == "the cat sa"
    assert write(script, words, stop="cat s") == Generation("a", "the ", (6, 3, 4), "stop", 0)
    assert write(script, words, stop="t s").text == "the ca"
    assert write(script, words, stop=" ").text == "the"
    assert write(script, words, stop=". the cat").text == "the cat sat"
    assert write(script, words, max_new_tokens=6).text == "the cat sat. the cat"


def test_stop_texts_of_byte_pairs_are_looked_for_in_the_text_and_not_in_the_tokens() -> None:
    joined = [*BYTE_SIGNS, "cd", "cde"]
    pairs = BpeTokenizer(joined, [(BYTE_SIGNS.index("c"), BYTE_SIGNS.index("d")), (256, BYTE_SIGNS.index("e"))])
    face = [BYTE_SIGNS[byte] for byte in "😀".encode()]
    script = ["b", "cde", *face, "cde"]
    assert write(script, pairs, stop="d") == Generation("a", "bc", (98, 257), "stop", 0)
    assert write(script, pairs, stop="😀").text == "bcde"
    assert write(script, pairs, stop="e😀c").text == "bcd"
    assert len(write(script, pairs, stop="e😀c").tokens) == 7
    assert write(script, pairs, stop="\ufffd", max_new_tokens=7).text == "bcde😀cde"
    assert write(script, pairs, stop="zz", max_new_tokens=4) == Generation(
        "a", "bcde\ufffd", (98, 257, 0xF0, 0x9F), "length", 0
    )
    assert pairs.start_prompt() == "\n"


def test_bos_tokens_inside_a_stop_text_do_not_hide_it() -> None:
    tokenizer = CharTokenizer([BOS, *"abcd"])
    model = Script(tokenizer, {BOS: ["c", "c", "a", BOS, BOS, BOS, "b", "d", "d"]})
    got = generate(model, [""], do_sample=False, max_new_tokens=9, stop="ab")[0]
    assert (got.text, got.finish_reason, got.tokens) == ("cc", "stop", (3, 3, 1, 0, 0, 0, 2))


def test_stop_on_a_real_model_equals_cutting_the_text_without_stop() -> None:
    model = make("lstm", 2)
    free = texts(generate(model, PROMPTS, seed=6, max_new_tokens=60))
    stops = (free[0][20:22], free[1][10:13])
    for text, got in zip(free, generate(model, PROMPTS, seed=6, max_new_tokens=60, stop=stops), strict=True):
        cuts = [text.find(stop) for stop in stops if stop in text]
        assert got.text == (text[: min(cuts)] if cuts else text)
        assert got.finish_reason == ("stop" if cuts else "length")
        assert text.startswith(model.tokenizer.decode(got.tokens))


def test_an_empty_prompt_starts_at_bos() -> None:
    tokenizer = CharTokenizer([EOS, BOS, *"abc"])
    assert prompt_tokens(tokenizer, "").tolist() == [1]
    assert prompt_tokens(tokenizer, "ab").tolist() == [1, 2, 3]
    got = generate(Script(tokenizer, {BOS: ["c", "a", EOS]}), [""])
    assert got == [Generation("", "ca", (4, 2, 0), "eos", 0)]


def test_an_empty_prompt_without_bos_says_what_to_begin_with() -> None:
    with pytest.raises(UnknownTokenError, match=r"prompt: '' has no token .* no <bos>.* '\\n'"):
        generate(Script(LETTERS, {"a": "b"}), ["a", ""])
    with pytest.raises(UnknownTokenError, match=r"for instance 'a'"):
        generate(make(), [""])


def test_a_prompt_whose_characters_are_all_skipped_is_an_empty_one() -> None:
    tokenizer = CharTokenizer("abc", unknown="skip")
    assert prompt_tokens(tokenizer, "xbz").tolist() == [1]
    with pytest.raises(UnknownTokenError, match=r"prompt: 'xyz' has no token"):
        generate(Script(tokenizer, {"a": "b"}), ["xyz"])


def test_start_prompt_is_nothing_a_line_end_or_the_first_word() -> None:
    assert CharTokenizer([BOS, *"ab\n"]).start_prompt() == ""
    assert CharTokenizer([UNK, *"ab\n"], unknown="replace").start_prompt() == "\n"
    assert WordTokenizer([UNK, EOS, "the", "a"]).start_prompt() == "the"


@pytest.mark.parametrize(
    ("prompt", "named"), [("café", "'é' (U+00E9"), ("aXb", "'X' (U+0058"), ("a\tb", r"'\t' (U+0009")]
)
def test_an_unknown_character_is_named(prompt: str, named: str) -> None:
    with pytest.raises(UnknownTokenError) as caught:
        generate(make(), ["a", prompt])
    assert named in str(caught.value)
    assert "Known: a b c d e f g h i j k" in str(caught.value)


def test_unknown_characters_are_replaced_where_the_model_says_so() -> None:
    tokenizer = CharTokenizer([UNK, *"abc"], unknown="replace")
    got = generate(Script(tokenizer, {UNK: "abc"}), ["Z"], max_new_tokens=3)
    assert got == [Generation("Z", "abc", (1, 2, 3), "length", 0)]


def test_a_text_instead_of_a_list_is_one_prompt() -> None:
    assert generate(make(), "cafe", seed=2) == generate(make(), ["cafe"], seed=2)


@pytest.mark.parametrize("prompts", [[], ()])
def test_no_prompt_is_refused(prompts: Sequence[str]) -> None:
    with pytest.raises(ConfigError, match=r"prompts: got none"):
        generate(make(), prompts)


@pytest.mark.parametrize("bad", [3, None, b"cafe", ["a"]])
def test_a_prompt_that_is_no_text_is_refused(bad: object) -> None:
    prompts: Any = ["a", bad]
    with pytest.raises(ConfigError, match=r"prompt"):
        generate(make(), prompts)


def test_unknown_settings_are_named_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"no setting beams, temprature; there are do_sample, temperature, "):
        generate(make(), ["a"], temprature=0.5, beams=3)


def test_a_config_and_settings_together_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"not both"):
        generate(make(), ["a"], GenerationConfig(), seed=1)


def test_settings_by_name_equal_a_config() -> None:
    model = make()
    config = GenerationConfig(temperature=0.6, top_k=4, top_p=0.8, seed=12, max_new_tokens=18, stop=("ab",))
    by_name = generate(model, PROMPTS, temperature=0.6, top_k=4, top_p=0.8, seed=12, max_new_tokens=18, stop="ab")
    assert generate(model, PROMPTS, config) == by_name


def test_a_setting_out_of_range_is_refused_before_anything_runs() -> None:
    model = Recorder(make())
    with pytest.raises(ConfigError, match=r"^max_new_tokens: got 0"):
        generate(model, ["a"], max_new_tokens=0)
    assert model.shapes == []


def test_a_stop_text_of_white_space_is_found_between_words() -> None:
    tokenizer = WordTokenizer(["<unk>", "one", "two", "three"])
    config = LanguageModelConfig("gru", 4, 3, 5)
    model = make_model(Checkpoint.of_language_model(config, pytorch_params(config.spec, 0), tokenizer), "numpy")
    (row,) = generate(model, ["one"], stop=[" "], max_new_tokens=50, seed=3)
    assert (row.finish_reason, len(row.tokens)) == ("stop", 2)
    assert row.text == tokenizer.decode(row.tokens[:1])


def test_damaged_weights_are_told_of() -> None:
    class Damaged(Recorder):
        def step(self, tokens: NDArray[np.int64], state: NDArray) -> tuple[NDArray, NDArray]:
            logits, state = super().step(tokens, state)
            logits[:, 1] = np.nan
            return logits, state

    with pytest.raises(ModelFileError, match=r"row 1: .*not finite"):
        generate(Damaged(make()), ["a", "b"])


def step_case(name: str, model: LanguageModelConfig) -> tuple[Any, Any, str]:
    """Return tokens and state, one of them wrong, and words of the error."""
    V, fits = model.vocab_size, zero_state(model, 2)
    good = np.zeros((3, 2), np.int64)
    S, L, _, H = fits.shape

    def ids(value: int) -> NDArray[np.int64]:
        tokens = good.copy()
        tokens[2, 1] = value
        return tokens

    cases: dict[str, tuple[Any, Any, str]] = {
        "no step": (np.zeros((0, 2), np.int64), fits, r"tokens: got shape \(T, B\) = \(0, 2\)"),
        "no row": (
            np.zeros((3, 0), np.int64),
            np.zeros((S, L, 0, H), np.float32),
            r"tokens: got shape \(T, B\) = \(3, 0\)",
        ),
        "one axis": (np.zeros(2, np.int64), fits, r"tokens: got shape \(2,\)"),
        "three axes": (np.zeros((3, 2, 1), np.int64), fits, r"tokens: got shape \(3, 2, 1\)"),
        "a list": ([[0, 1]], fits, r"tokens: got list"),
        "int32": (good.astype(np.int32), fits, r"tokens: got dtype int32, needs int64"),
        "float tokens": (good.astype(np.float64), fits, r"tokens: got dtype float64, needs int64"),
        "swapped bytes": (good.astype(">i8"), fits, r"tokens: got dtype >i8, needs int64"),
        "id V": (ids(V), fits, rf"tokens: ids from 0 to {V}; the vocabulary has 0 … {V - 1}"),
        "id -1": (ids(-1), fits, rf"tokens: ids from -1 to 0; the vocabulary has 0 … {V - 1}"),
        "huge id": (ids(2**62), fits, rf"tokens: ids from 0 to {2**62}; "),
        "rows": (good, zero_state(model, 3), rf"state: got shape \({S}, {L}, 3, {H}\), needs .*\({S}, {L}, 2, {H}\)"),
        "states": (good, np.zeros((S + 1, L, 2, H), np.float32), rf"state: got shape \({S + 1}, "),
        "layers": (good, np.zeros((S, L + 1, 2, H), np.float32), rf"state: got shape \({S}, {L + 1}, "),
        "width": (good, np.zeros((S, L, 2, H + 1), np.float32), rf"state: got shape \({S}, {L}, 2, {H + 1}\)"),
        "state axes": (good, fits[0], rf"state: got shape \({L}, 2, {H}\)"),
        "no state": (good, None, r"state: got NoneType"),
        "float64": (good, fits.astype(np.float64), r"state: got dtype float64, needs float32"),
        "swapped state": (good, fits.astype(">f4"), r"state: got dtype >f4, needs float32"),
    }
    return cases[name]


STEP_CASES = (
    *("no step", "no row", "one axis", "three axes", "a list", "int32", "float tokens", "swapped bytes"),
    *("id V", "id -1", "huge id", "rows", "states", "layers", "width", "state axes", "no state"),
    *("float64", "swapped state"),
)


@pytest.fixture(scope="module")
def engines() -> dict[tuple[str, str], StepModel]:
    return {}


def cached(engines: dict[tuple[str, str], StepModel], engine: str, cell: str) -> StepModel:
    if (engine, cell) not in engines:
        engines[engine, cell] = make(cell, 2, engine)
    return engines[engine, cell]


@pytest.mark.parametrize("case", STEP_CASES)
@pytest.mark.parametrize("cell", ["rnn", "gru", "lstm"])
@pytest.mark.parametrize("engine", ENGINES)
def test_a_step_with_bad_input_is_refused(
    engine: str, cell: str, case: str, engines: dict[tuple[str, str], StepModel]
) -> None:
    model = cached(engines, engine, cell)
    tokens, state, message = step_case(case, model.config)
    with pytest.raises(ShapeError, match=message):
        model.step(tokens, state)


@pytest.mark.parametrize("engine", ENGINES)
def test_views_are_read_as_their_copies(engine: str, engines: dict[tuple[str, str], StepModel]) -> None:
    model = cached(engines, engine, "lstm")
    rng = np.random.default_rng(6)
    tokens = rng.integers(0, models.V, (4, 3))
    state = rng.uniform(-1, 1, model.config.state_shape(3)).astype(np.float32)
    expected = model.step(np.ascontiguousarray(tokens[::-1, ::-1]), np.ascontiguousarray(state[:, :, ::-1]))
    assert_close(
        model.step(np.asfortranarray(tokens), state)[0], model.step(tokens, state)[0], "invariant", np.float32, "order"
    )
    got = model.step(tokens[::-1, ::-1], state[:, :, ::-1])
    for name, a, b in zip(("logits", "state"), got, expected, strict=True):
        assert_close(a, b, "invariant", np.float32, name)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_step_leaves_its_input_as_it_was(engine: str, engines: dict[tuple[str, str], StepModel]) -> None:
    model = cached(engines, engine, "gru")
    tokens = np.array([[1, 2], [3, 4]])
    state = np.random.default_rng(7).uniform(-1, 1, model.config.state_shape(2)).astype(np.float32)
    kept_tokens, kept_state = tokens.copy(), state.copy()
    model.step(tokens, state)
    np.testing.assert_array_equal(tokens, kept_tokens)
    np.testing.assert_array_equal(state, kept_state)


@pytest.mark.parametrize("engine", ENGINES)
def test_read_only_arrays_can_be_read(engine: str, engines: dict[tuple[str, str], StepModel]) -> None:
    model = cached(engines, engine, "gru")
    tokens, state = np.array([[1, 2], [3, 4]]), zero_state(model.config, 2)
    expected = model.step(tokens, state)[0]
    tokens.flags.writeable = state.flags.writeable = False
    np.testing.assert_array_equal(model.step(tokens, state)[0], expected)


def test_an_unknown_engine_is_named() -> None:
    with pytest.raises(ConfigError, match=r"engine: got 'jax', choose one of numpy, "):
        make_model(checkpoint("rnn", 1), "jax")


HEAVY = ("torch", "numba", "onnx", "onnxruntime")


def loaded_after(code: str, tmp_path: Path) -> tuple[set[str], Any]:
    """Return the modules of HEAVY that a new process has loaded after ``code``, and the value of its ``result``."""
    ending = f"import json, sys; print(json.dumps([[m for m in {HEAVY} if m in sys.modules], result]))"
    done = subprocess.run(
        [sys.executable, "-c", f"result = None\n{code}\n{ending}"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    names, result = json.loads(done.stdout.splitlines()[-1])
    return set(names), result


def test_importing_the_runtime_loads_no_engine(tmp_path: Path) -> None:
    assert loaded_after("import unrolled.runtime", tmp_path)[0] == set()


def test_alarm_a_loaded_library_would_be_noticed(tmp_path: Path) -> None:
    assert loaded_after("import unrolled.runtime, onnx", tmp_path)[0] == {"onnx"}


def test_an_onnx_file_runs_without_torch_and_numba(tmp_path: Path) -> None:
    lstm = checkpoint("lstm", 2)
    export_model(lstm, tmp_path / "model.onnx", "onnx")
    code = (
        "from unrolled.runtime import generate, load\n"
        "result = [g.text for g in generate(load('model.onnx'), ['cafe', 'a'], seed=3, max_new_tokens=20)]"
    )
    loaded, result = loaded_after(code, tmp_path)
    assert loaded == {"onnx", "onnxruntime"}  # onnx checks the file before the native library reads it
    assert result == texts(generate(make_model(lstm, "numpy"), ["cafe", "a"], seed=3, max_new_tokens=20))


def test_a_checkpoint_on_numpy_runs_without_any_other_engine(tmp_path: Path) -> None:
    gru = checkpoint("gru", 2)
    save_checkpoint(tmp_path / "model.safetensors", gru)
    code = (
        "from unrolled.runtime import generate, load\n"
        "model = load('model.safetensors', 'numpy')\n"
        "result = [g.text for g in generate(model, ['cafe', 'a'], seed=3, max_new_tokens=20)]"
    )
    loaded, result = loaded_after(code, tmp_path)
    assert loaded == set()
    assert result == texts(generate(make_model(gru, "numpy"), ["cafe", "a"], seed=3, max_new_tokens=20))
