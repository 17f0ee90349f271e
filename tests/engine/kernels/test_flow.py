"""Rows that flow through slots: the compiled loop writes the tokens that each row writes alone, whatever its neighbours."""

from __future__ import annotations

import models
import numpy as np
import pytest

from unrolled.engine.errors import ModelFileError
from unrolled.engine.kernels.decode.decoder import Decoder
from unrolled.engine.models.draw_settings import DrawSettings
from unrolled.engine.models.step_contract import Flow
from unrolled.engine.sampling.config import SamplingConfig
from unrolled.engine.sampling.philox import uniforms
from unrolled.engine.sampling.rules import choose
from unrolled.runtime.generation.requests.config import GenerationConfig
from unrolled.runtime.generation.requests.request import Request
from unrolled.runtime.generation.scheduler.scheduler import FEW_SLOTS, write_rows
from unrolled.runtime.models.engines import make_model

ROWS, STEPS = 41, 30
SETTINGS = (
    DrawSettings(True, 1.0, 0, 1.0, 3),
    DrawSettings(True, 0.7, 4, 0.9, 2**63 + 1),
    DrawSettings(False, 1.0, 0, 1.0, 0),
)


def unread(count: int, longest: int) -> list[np.ndarray]:
    rng = np.random.default_rng(1)
    return [rng.integers(0, models.V, rng.integers(1, longest + 1)) for _ in range(count)]


def start(prompts: list[np.ndarray], left: np.ndarray, steps: int) -> Flow:
    count = len(prompts)
    settings = DrawSettings.stack([SETTINGS[e % len(SETTINGS)] for e in range(count)])
    return Flow.of(
        prompts, steps, remaining=left.copy(), first_draw=np.arange(count, dtype=np.uint64) % 3,
        indices=np.arange(count, dtype=np.uint64) + 2**33, settings=settings, started=np.zeros(count, np.bool_),
    )  # fmt: skip


def alone(decoder: Decoder, prompt: np.ndarray, state: np.ndarray, e: int, steps: int) -> tuple[list[int], np.ndarray]:
    """Return the tokens of row e, read and chosen one by one, and the state before the last of them."""
    logits, moved = decoder.read(prompt[:, None], np.ascontiguousarray(state[:, :, e : e + 1]))
    written: list[int] = []
    for n in range(steps):
        before, settings = moved, SETTINGS[e % len(SETTINGS)]
        u = uniforms(settings.seed, np.array([e + 2**33]), e % 3 + n)
        token = choose(logits, SamplingConfig(*settings), u)
        logits, moved = decoder.read(token[None], moved)
        written.append(int(token[0]))
    return written, before


@pytest.mark.parametrize("cell", models.ALL_CELLS)
@pytest.mark.parametrize("slots", [1, 3, 16, 200])
def test_rows_that_flow_write_what_each_writes_alone(cell: str, slots: int) -> None:
    config = models.config(cell, 2, hidden_size=37)
    decoder = Decoder(config, models.params(config, np.float32))
    prompts, state = unread(ROWS, 9), models.state(config, ROWS, np.float32)
    left = np.random.default_rng(2).integers(1, STEPS, ROWS)
    begun, flow = state.copy(), start(prompts, left, 2000)
    decoder.flow(state, flow, -1, slots)
    assert flow.started.all()
    np.testing.assert_array_equal(flow.counts, left)
    np.testing.assert_array_equal(flow.remaining, 0)
    for e, prompt in enumerate(prompts):
        assert flow.written[e, : left[e]].tolist() == alone(decoder, prompt, begun, e, left[e])[0]


def test_rows_stop_where_the_steps_end_and_keep_their_states() -> None:
    config = models.config("lstm", 2)
    decoder = Decoder(config, models.params(config, np.float32))
    prompts, state = [row[:1] for row in unread(5, 1)], models.state(config, 5, np.float32)
    begun, flow = state.copy(), start(prompts, np.full(5, 100), 7)
    decoder.flow(state, flow, -1, 3)
    assert flow.started.tolist() == [True, True, True, False, False]
    assert flow.counts.tolist() == [7, 7, 7, 0, 0]
    assert flow.remaining.tolist() == [93, 93, 93, 100, 100]
    for e in range(3):
        tokens, before = alone(decoder, prompts[e], begun, e, 7)
        assert flow.written[e].tolist() == tokens
        assert flow.last_drawn[e] == tokens[-1]
        np.testing.assert_array_equal(state[:, :, e], before[:, :, 0])
    np.testing.assert_array_equal(state[:, :, 3:], begun[:, :, 3:])  # those that wait


def test_with_few_rows_left_it_comes_back_for_more() -> None:
    config = models.config("gru")
    decoder = Decoder(config, models.params(config, np.float32))
    left = np.array([4, 4, 50, 50])
    for least, steps in ((0.0, 50), (0.75, 4)):
        flow = start([row[:1] for row in unread(4, 1)], left, 60)
        decoder.flow(models.state(config, 4, np.float32), flow, -1, 4, least)
        assert flow.counts.tolist() == [4, 4, steps, steps]


def test_a_row_ends_with_its_end() -> None:
    config = models.config("gru")
    decoder = Decoder(config, models.params(config, np.float32))
    prompts, state = unread(ROWS, 5), models.state(config, ROWS, np.float32)
    whole, cut = start(prompts, np.full(ROWS, STEPS), 2000), start(prompts, np.full(ROWS, STEPS), 2000)
    decoder.flow(state.copy(), whole, -1, 8)
    decoder.flow(state.copy(), cut, 4, 8)
    for e in range(ROWS):
        tokens = whole.written[e, :STEPS].tolist()
        end = tokens.index(4) + 1 if 4 in tokens else STEPS
        assert cut.written[e, : cut.counts[e]].tolist() == tokens[:end]
    assert (cut.counts < STEPS).any()


def test_alarm_weights_that_are_damaged_are_told_with_their_row() -> None:
    config = models.config("lstm")
    params = models.params(config, np.float32)
    params["output.bias"][:] = np.nan
    flow = start(unread(2, 3), np.array([3, 3]), 5)
    with pytest.raises(ModelFileError, match=f"row {2**33}: .* not finite"):
        Decoder(config, params).flow(models.state(config, 2, np.float32), flow, -1, 2)


CONFIGS = (
    GenerationConfig(max_new_tokens=40, seed=3),
    GenerationConfig(max_new_tokens=1, seed=3),
    GenerationConfig(max_new_tokens=7, seed=4, temperature=0.7, top_k=4),
    GenerationConfig(max_new_tokens=25, do_sample=False),
    GenerationConfig(max_new_tokens=33, seed=5, stop=("ab", "k")),
    GenerationConfig(max_new_tokens=20, seed=6, repetition_penalty=1.3, logprobs=True),
    GenerationConfig(max_new_tokens=13, seed=7, min_p=0.1),
)


@pytest.mark.parametrize("cell", ["lstm", "rnn"])
@pytest.mark.parametrize("engine", ["numpy", "numba", "onnxruntime", "torch"])
@pytest.mark.parametrize("configs", [CONFIGS[:1], CONFIGS], ids=["one", "mixed"])
def test_prompts_that_are_read_in_slots_and_ahead_of_them_say_the_same(engine: str, cell: str, configs: tuple) -> None:
    if engine == "torch":
        pytest.importorskip("torch")
    model = make_model(models.checkpoint(cell, 2, hidden_size=37), engine)
    requests = [
        Request("", prompt, index, configs[index % len(configs)]) for index, prompt in enumerate(unread(90, 40))
    ]
    texts = list(write_rows(model, requests, FEW_SLOTS - 13))  # read ahead
    assert [text.index for text in texts] == list(range(90))
    for slots in (FEW_SLOTS, 40, 70, 128):
        assert list(write_rows(model, requests, slots)) == texts
