"""Rows in slots: a text does not depend on its neighbours, the number of slots, or when its slot became free."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import models
import numpy as np
import pytest
from numpy.typing import NDArray

from unrolled.engine.models.step_contract import Flow, StepModel
from unrolled.runtime.generation.requests.config import GenerationConfig
from unrolled.runtime.generation.requests.prompts import prompt_tokens, read_prompts
from unrolled.runtime.generation.requests.request import Request
from unrolled.runtime.generation.scheduler.scheduler import HELD_PER_SLOT, write_rows
from unrolled.runtime.models.batch_invariance import RowModel
from unrolled.runtime.models.engines import ENGINES, make_model
from unrolled.runtime.models.onnx_model import open_checkpoint

H = 37  # no multiple of a register's or a tile's width
WORDS = ("a", "abba", "cab", "cabbage", "cafe", "dead", "deadbeef", "fad", "fade", "jig", "k", "kid")


def make(engine: str, cell: str = "lstm", layers: int = 1) -> StepModel:
    if engine.startswith("torch"):
        pytest.importorskip("torch")
    checkpoint = models.checkpoint(cell, layers, hidden_size=H)
    if engine == "onnx-generate":
        return open_checkpoint(checkpoint, "generate")
    return make_model(checkpoint, engine)


def run(model: RowModel, rows: NDArray, tokens: NDArray, state: NDArray) -> tuple[NDArray, NDArray]:
    """Return logits (T, n, V) and state of some of the rows, step by step."""
    some, logits = np.ascontiguousarray(state[:, :, rows]), []
    for now in tokens[:, rows]:
        made, some = model.step(now, some)
        logits.append(made)
    return np.stack(logits), some


@pytest.mark.parametrize("cell", models.ALL_CELLS)
@pytest.mark.parametrize("engine", ["numpy", "numba", "onnxruntime"])
def test_a_row_is_bitwise_the_same_alone_and_in_any_company(engine: str, cell: str) -> None:
    model = RowModel(make(engine, cell, 2))
    rng = np.random.default_rng(1)
    tokens, state = rng.integers(0, models.V, (5, 70)), models.state(model.config, 70, np.float32)
    logits, moved = run(model, np.arange(70), tokens, state)
    for n in (1, 2, 3, 8, 13, 64):
        rows = rng.permutation(70)[:n]
        some, after = run(model, rows, tokens, state)
        np.testing.assert_array_equal(some, logits[:, rows])
        np.testing.assert_array_equal(after, moved[:, :, rows])
        last, read = model.read(np.ascontiguousarray(tokens[:, rows]), np.ascontiguousarray(state[:, :, rows]))
        np.testing.assert_array_equal(last, logits[-1][rows])
        np.testing.assert_array_equal(read, moved[:, :, rows])


def test_alarm_products_of_other_sizes_round_differently() -> None:
    """Without the blocks the reference's rows depend on their number, and the comparison notices."""
    model = make("numpy", "gru", 2)
    tokens, state = np.arange(70)[None] % models.V, models.state(model.config, 70, np.float32)
    whole, _ = model.step(tokens, state)
    alone = [model.step(tokens[:, b : b + 1], np.ascontiguousarray(state[:, :, b : b + 1]))[0] for b in range(70)]
    with pytest.raises(AssertionError):
        np.testing.assert_array_equal(np.concatenate(alone, axis=1), whole)


CONFIGS = (
    GenerationConfig(max_new_tokens=40, seed=3),
    GenerationConfig(max_new_tokens=7, seed=4, temperature=0.7, top_k=4),
    GenerationConfig(max_new_tokens=90, do_sample=False),
    GenerationConfig(max_new_tokens=60, seed=5, top_p=0.8, stop=("ab", "k")),
)


def ask(model: StepModel, count: int, configs: tuple[GenerationConfig, ...] = CONFIGS) -> list[Request]:
    prompts = [WORDS[i * 7 % len(WORDS)] for i in range(count)]
    return [
        Request(prompt, prompt_tokens(model.tokenizer, prompt), index, configs[index % len(configs)])
        for index, prompt in enumerate(prompts)
    ]


@pytest.mark.parametrize("engine", [*ENGINES, "onnx-generate"])
def test_texts_do_not_depend_on_slots_or_order(engine: str) -> None:
    model = make(engine, "gru", 2)
    requests = ask(model, 41)
    texts = list(write_rows(model, requests, 16))
    assert [text.index for text in texts] == list(range(41))
    assert {text.finish_reason for text in texts} == {"length", "stop"}
    assert all(
        len(t.tokens) == r.config.max_new_tokens for t, r in zip(texts, requests, strict=True) if not r.config.stop
    )
    for slots in (1, 3, 64):
        assert list(write_rows(model, requests, slots)) == texts
    shuffled = [requests[i] for i in np.random.default_rng(1).permutation(41)]
    assert sorted(write_rows(model, shuffled, 5), key=lambda text: text.index) == texts


@pytest.mark.parametrize("engine", ["numba", "onnxruntime"])
def test_engines_write_what_the_reference_writes(engine: str) -> None:
    reference, model = make("numpy", "lstm"), make(engine, "lstm")
    assert list(write_rows(model, ask(model, 23), 8)) == list(write_rows(reference, ask(reference, 23), 8))


def test_alarm_another_seed_or_index_writes_another_text() -> None:
    model = make("onnxruntime")
    first, again = ask(model, 1)[0], GenerationConfig(max_new_tokens=40, seed=33)
    texts = write_rows(
        model,
        [first, Request(first.prompt, first.tokens, 1, first.config), Request(first.prompt, first.tokens, 0, again)],
    )
    assert len({text.text for text in texts}) == 3


def test_requests_are_read_as_slots_become_free() -> None:
    model, asked = make("onnxruntime"), 0

    def endless() -> Iterator[Request]:
        nonlocal asked
        for index in itertools.count():
            asked += 1
            # the first row is the longest: all others wait for it with their results
            config = GenerationConfig(max_new_tokens=3000 if index == 0 else 1)
            yield Request("a", prompt_tokens(model.tokenizer, "a"), index, config)

    texts = write_rows(model, endless(), 4)
    assert len(next(texts).tokens) == 3000
    assert asked == 4 * HELD_PER_SLOT
    assert [len(text.tokens) for text in itertools.islice(texts, 200)] == [1] * 200
    assert asked <= 4 * HELD_PER_SLOT + 200


@pytest.mark.parametrize(
    ("engine", "rows", "stop", "steps"),
    [
        ("numba", 1, (), 128), ("numba", 1, ("ab",), 128), ("numba", 4, ("ab",), 64), ("numba", 40, ("ab",), 16),
        ("numba", 200, (), 81), ("numba", 2000, (), 16), ("onnx-generate", 40, ("ab",), 51), ("onnx-generate", 40, (), 128),
    ],
)  # fmt: skip
def test_the_tokens_of_a_call_depend_on_the_rows_and_on_ends_that_the_model_cannot_see(
    engine: str, rows: int, stop: tuple[str, ...], steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model: Any = make(engine)
    asked: list[int] = []

    def flow(state: NDArray, flow: Flow, slots: int, least: float = 0.0) -> None:
        asked.append(flow.written.shape[1])
        flow.started[:] = True
        flow.last_drawn[:] = flow.written[:, 0] = 0
        flow.counts[:] = flow.position[:] = flow.remaining[:] = 1

    monkeypatch.setattr(model, "flow", flow)
    config = GenerationConfig(max_new_tokens=1, stop=stop)
    assert len(list(write_rows(model, ask(model, rows, (config,)), 2000))) == rows
    assert asked == [steps]


def test_nothing_asked_nothing_written() -> None:
    assert list(write_rows(make("onnxruntime"), [])) == []


@pytest.mark.parametrize("engine", ["numpy", "numba", "onnxruntime"])
def test_reading_prompts_that_begin_alike_is_reading_each_alone(engine: str) -> None:
    model = RowModel(make(engine, "lstm", 2))
    rng = np.random.default_rng(5)
    prompts = [rng.integers(0, 2, rng.integers(1, 9)) for _ in range(60)]  # of two letters: much is shared
    logits, state = read_prompts(model, prompts)
    for row, prompt in enumerate(prompts):
        alone, after = read_prompts(model, [prompt])
        np.testing.assert_array_equal(logits[row], alone[0])
        np.testing.assert_array_equal(state[:, :, row], after[:, :, 0])
