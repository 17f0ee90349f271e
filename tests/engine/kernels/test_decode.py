"""The compiled generation path: its sampler against the reference's, its texts against the step loop's, its rows alone."""

from __future__ import annotations

from typing import Any

import models
import numba
import numpy as np
import pytest
from tolerances import assert_close

from unrolled.engine.errors import ModelFileError
from unrolled.engine.kernels.decode.decoder import Decoder
from unrolled.engine.kernels.decode.sampling import NOT_FINITE, SIDE_BY_SIDE, exp_float64, uniform
from unrolled.engine.kernels.decode.sampling import choose as choose_compiled
from unrolled.engine.kernels.jit.compilation import compiled
from unrolled.engine.models.draw_settings import DrawSettings
from unrolled.engine.models.step_contract import Flow
from unrolled.engine.network.language_model import LanguageModel
from unrolled.engine.sampling.config import SamplingConfig
from unrolled.engine.sampling.philox import uniforms
from unrolled.engine.sampling.rules import choose
from unrolled.runtime.generation.generate import generate
from unrolled.runtime.generation.requests.config import GenerationConfig
from unrolled.runtime.models.engines import make_model


def chosen(logits: np.ndarray, config: SamplingConfig, u: np.ndarray) -> np.ndarray:
    (R, V), rows = logits.shape, np.arange(len(logits))
    settings = [
        np.full(R, value) for value in (config.do_sample, config.temperature, config.top_k, config.top_p)
    ]  # fmt: skip
    tokens = np.empty(R, np.int64)
    choose_compiled(logits, rows, u, *settings, np.empty((SIDE_BY_SIDE, V)), np.empty((SIDE_BY_SIDE, V)), tokens)
    return tokens


SETTINGS: list[dict[str, Any]] = [
    {},
    {"do_sample": False},
    {"temperature": 0.3},
    {"temperature": 1e-6},
    {"temperature": 50.0},
    {"top_k": 1},
    {"top_k": 5},
    {"top_k": 10_000},
    {"top_p": 0.0},
    {"top_p": 0.5},
    {"top_p": 0.999},
    {"top_k": 7, "top_p": 0.8, "temperature": 0.7},
]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("V", [2, 11, 100, 1000])
def test_the_compiled_sampler_chooses_what_the_reference_chooses(V: int, settings: dict[str, Any]) -> None:
    rng = np.random.default_rng(V)
    logits = (rng.standard_normal((300, V)) * rng.choice([0.1, 3, 30], (300, 1))).astype(np.float32)
    logits[:50] = np.round(logits[:50])  # ties
    logits[50, 1:] = -np.inf
    u = rng.random(300)
    u[:5] = 0.0
    u[5:10] = np.nextafter(1.0, 0)
    config = SamplingConfig(**settings)
    np.testing.assert_array_equal(chosen(logits, config, u), choose(logits, config, u))


@pytest.mark.parametrize(
    "settings", [{"top_k": 40}, {"top_p": 0.9}, {"top_k": 300, "top_p": 0.5}, {"top_k": 20, "temperature": 30}], ids=str
)
def test_the_compiled_sampler_finds_the_largest_of_scores_that_bisection_tells_apart_badly(
    settings: dict[str, Any],
) -> None:
    V, rng = 5000, np.random.default_rng(7)
    even = rng.permutation(V) / V
    logits = np.stack([
        np.zeros(V),  # all equal
        np.where(even < 0.5, 1.0, 0.0),  # two values
        even * 1e-38,  # next to each other, and far from anything else
        -np.exp(60 * even),  # a few near 0, the others at all distances
        np.where(even < 0.01, 0.0, -np.inf),
        np.where(even == 0, 80.0, -80.0),
        np.round(3 * rng.standard_normal(V)),  # many equal ones at any bound
        3 * rng.standard_normal(V),
    ]).astype(np.float32)  # fmt: skip
    for u in (0.0, 0.3, 0.999):
        config = SamplingConfig(**settings)
        us = np.full(len(logits), u)
        np.testing.assert_array_equal(chosen(logits, config, us), choose(logits, config, us))


def test_the_comparison_of_samplers_can_fail() -> None:
    rng = np.random.default_rng(0)
    logits, u = rng.standard_normal((50, 11)).astype(np.float32), rng.random(50)
    assert (chosen(logits, SamplingConfig(), u) != choose(logits, SamplingConfig(), (u + 0.3) % 1)).any()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_logits_that_are_not_finite_are_seen(bad: float) -> None:
    logits = np.zeros((1, 40), np.float32)
    logits[0, 33] = bad
    for settings in ({}, {"do_sample": False}):
        assert chosen(logits, SamplingConfig(**settings), np.array([0.5]))[0] == NOT_FINITE


def test_compiled_uniforms_are_the_reference() -> None:
    for seed in (0, 1, 2**40 + 7, 2**64 - 1):
        for sequence in (0, 3, 2**33 + 1):
            expected = uniforms(seed, np.array([sequence] * 4), np.arange(4) * 2**31)
            got = [uniform(np.uint64(seed), np.uint64(sequence), np.uint64(n * 2**31)) for n in range(4)]
            np.testing.assert_array_equal(got, expected)


def test_the_exponential_is_within_two_units_in_the_last_place() -> None:
    @compiled
    def apply(x: np.ndarray) -> np.ndarray:
        out = np.empty_like(x)
        for i in range(len(x)):
            out[i] = exp_float64(x[i])
        return out

    x = np.concatenate([-np.geomspace(1e-300, 707, 200_000), [0.0, -709.0, -1e4, -np.inf]])
    expected = np.exp(x)
    got = apply(x)
    assert (np.abs(got - expected)[:-3] / np.spacing(expected[:-3])).max() <= 2
    np.testing.assert_array_equal(got[-4:], [1.0, 0.0, 0.0, 0.0])


SAMPLED = DrawSettings(True, 0.9, 0, 1.0, 5)


def start(config: Any, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Return a token (B,) that each row reads first, and the state before it."""
    return np.random.default_rng(9).integers(0, config.vocab_size, rows), models.state(config, rows, np.float32)


def written(
    decoder: Decoder, first: np.ndarray, state: np.ndarray, steps: int, settings: DrawSettings, indices: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return tokens (steps, B) drawn after ``first`` (B,), and the logits and the state after the last of them."""
    rows, moved = len(first), state.copy()
    flow = Flow.of(
        list(first[:, None]), steps, remaining=np.full(rows, steps + 1), first_draw=np.zeros(rows, np.uint64),
        indices=indices.astype(np.uint64), settings=DrawSettings.stack([settings] * rows),
        started=np.zeros(rows, np.bool_),
    )  # fmt: skip
    decoder.flow(moved, flow, -1, rows)
    tokens = np.ascontiguousarray(flow.written.T)
    return tokens, *decoder.read(tokens[-1:], moved)


@pytest.mark.parametrize(
    "sizes", [{}, {"hidden_size": 64, "embedding_size": 9, "vocab_size": 50}], ids=["odd", "whole"]
)
@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("cell", models.ALL_CELLS)
def test_decoding_equals_choosing_and_stepping(cell: str, layers: int, sizes: dict[str, int]) -> None:
    config = models.config(cell, layers, **sizes)
    params = models.params(config, np.float32)
    model, decoder = LanguageModel(config, params, "numpy"), Decoder(config, params)
    first, state = start(config, 5)
    settings = SAMPLED._replace(top_k=6)
    tokens, end_logits, end_state = written(decoder, first, state, 12, settings, np.arange(5))
    read, state = model.step(first[None], state)
    logits, settings = read[0], SamplingConfig(*settings)
    for n in range(12):
        expected = choose(logits, settings, uniforms(5, np.arange(5), n))
        np.testing.assert_array_equal(tokens[n], expected)
        stepped, state = model.step(expected[None], state)
        logits = stepped[0]
    assert_close(end_logits, logits, "engine", np.float32, "logits")
    assert_close(end_state, state, "engine", np.float32, "state")


@pytest.mark.parametrize("cell", models.ALL_CELLS)
def test_a_row_is_bitwise_the_same_alone_in_any_batch_and_on_any_number_of_threads(cell: str) -> None:
    config = models.config(cell, 2, hidden_size=37)
    decoder = Decoder(config, models.params(config, np.float32))
    first, state = start(config, 77)
    whole = written(decoder, first, state, 9, SAMPLED, np.arange(77))
    threads = numba.get_num_threads()
    for rows in (slice(0, 1), slice(3, 16), slice(60, 77)):
        part = first[rows], np.ascontiguousarray(state[:, :, rows])
        try:
            numba.set_num_threads(1)
            tokens, end, moved = written(decoder, *part, 9, SAMPLED, np.arange(77)[rows])
        finally:
            numba.set_num_threads(threads)
        np.testing.assert_array_equal(tokens, whole[0][:, rows])
        np.testing.assert_array_equal(end, whole[1][rows])
        np.testing.assert_array_equal(moved, whole[2][:, :, rows])


def test_damaged_weights_are_named() -> None:
    config = models.config("gru", 1)
    params = models.params(config, np.float32)
    params["output.bias"][3] = np.inf
    with pytest.raises(ModelFileError, match=r"row 0: .*not finite"):
        written(Decoder(config, params), *start(config, 2), 4, SAMPLED, np.arange(2))


CASES: list[dict[str, Any]] = [
    {"max_new_tokens": 1},
    {"max_new_tokens": 300},
    {"max_new_tokens": 40, "do_sample": False},
    {"max_new_tokens": 150, "stop": ("ab", "c"), "num_return_sequences": 4},
    {"max_new_tokens": 130, "num_return_sequences": 7, "batch_size": 5, "temperature": 1.7, "seed": 3},
    {"max_new_tokens": 20, "top_k": 3, "top_p": 0.9},
]


@pytest.mark.parametrize("settings", CASES, ids=str)
@pytest.mark.parametrize("cell", models.ALL_CELLS)
def test_texts_are_those_of_the_step_loop(cell: str, settings: dict[str, Any]) -> None:
    checkpoint = models.checkpoint(cell)
    prompts = ["a", "bcd", "abcdefgh"]
    expected = generate(make_model(checkpoint, "numpy"), prompts, GenerationConfig(**settings))
    assert generate(make_model(checkpoint, "numba"), prompts, GenerationConfig(**settings)) == expected
