"""Generation inside exported files: large vocabularies, texts that end, and weights that are stored once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import models
import numpy as np
import onnx
import pytest
from exports import exported
from numpy.typing import NDArray

from unrolled.engine.models.draw_settings import DrawSettings
from unrolled.engine.models.padding import pad_sequences
from unrolled.engine.models.step_contract import Draws, zero_state
from unrolled.engine.network.language_model import LanguageModel
from unrolled.engine.sampling.config import SamplingConfig
from unrolled.engine.sampling.philox import uniforms
from unrolled.engine.sampling.rules import choose
from unrolled.engine.storage.checkpoint import Checkpoint
from unrolled.export.onnx.reader import read_onnx
from unrolled.export.onnx.token_draw import PARTIAL_SORT
from unrolled.runtime import load
from unrolled.runtime.models.onnx_model import open_checkpoint

LARGE = 700
SEED = 5


def reference(
    checkpoint: Checkpoint, prompts: list[list[int]], steps: int, config: SamplingConfig
) -> tuple[NDArray[np.int64], NDArray]:
    """Return tokens (steps, B) by the NumPy engine and the sampling rules, and the logits (steps, B, V) they are drawn from."""
    model = LanguageModel(checkpoint.config, checkpoint.float32())
    written, shown = [], []
    for b, prompt in enumerate(prompts):
        row, seen = [], []
        state, tokens = zero_state(checkpoint.config, 1), np.array(prompt)[:, None]
        for step in range(steps):
            logits, state = model.step(tokens, state)
            seen.append(logits[-1, 0])
            row.append(int(choose(logits[-1], config, uniforms(config.seed, np.array([b]), step))[0]))
            tokens = np.array([[row[-1]]])
        written.append(row)
        shown.append(seen)
    return np.array(written).T, np.array(shown).swapaxes(0, 1)


def needed(logits: NDArray, config: SamplingConfig) -> NDArray[np.int64]:
    """Return how many of the most probable tokens reach ``top_p``, given logits (..., V)."""
    scores = logits.astype(np.float64) / config.temperature
    p = np.exp(scores - scores.max(axis=-1, keepdims=True))
    p = np.sort(p / p.sum(axis=-1, keepdims=True), axis=-1)[..., ::-1]
    return (np.cumsum(p, axis=-1) < config.top_p).sum(axis=-1) + 1


def spread(flat: slice) -> Checkpoint:
    """Return a model with a large vocabulary: after tokens of ``flat`` all are about equally probable, after others a few."""
    checkpoint = models.checkpoint("rnn", 1, vocab_size=LARGE)
    params = checkpoint.params
    for name in ("rnn.bias_ih_l0", "rnn.bias_hh_l0", "rnn.weight_hh_l0"):
        params[name][:] = 0
    params["embedding.weight"][flat] = 0  # h becomes 0, so only the bias of the output remains
    params["output.weight"] *= 20
    params["output.bias"] *= 0.1
    return checkpoint


@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p"),
    [(1.0, 0, 0.9), (0.7, 0, 0.95), (1.3, 0, 0.6), (1.0, 300, 0.9), (1.0, 5, 0.9), (1.0, 300, 1.0)],
)
@pytest.mark.parametrize(
    ("kind", "flat"), [("peaked", slice(0, 0)), ("flat", slice(None)), ("mixed", slice(None, None, 2))]
)
def test_large_vocabularies_are_drawn_by_the_rules(
    kind: str, flat: slice, temperature: float, top_k: int, top_p: float
) -> None:
    checkpoint = spread(flat)
    config = SamplingConfig(True, temperature, top_k, top_p, SEED)
    prompts, steps = [[1], [2, 4], [3, 8, 699], [6], [5, 7]], 12
    expected, logits = reference(checkpoint, prompts, steps, config)
    if top_k == 0:  # the part that is sorted first suffices for all rows, none, or some
        few = needed(logits, config) <= PARTIAL_SORT
        assert {"peaked": few.all(), "flat": not few.any(), "mixed": (few.any(1) & ~few.all(1)).any()}[kind]
    tokens, lengths = pad_sequences(prompts)
    draws = Draws(steps, 0, np.arange(len(prompts)), DrawSettings(True, temperature, top_k, top_p, SEED))
    writer: Any = open_checkpoint(checkpoint, "generate")
    written, _ = writer.write(tokens, lengths, zero_state(checkpoint.config, len(prompts)), draws)
    np.testing.assert_array_equal(written, expected)
    assert len(np.unique(written)) >= 5


# --- texts that end

PROMPTS = [[0], [1, 2, 3], [5, 6]]
STEPS = 40


def run(path: Path, config: SamplingConfig, prompts: list[list[int]], end: int) -> NDArray[np.int64]:
    """Return the tokens of a file's own generation, with every input as a host passes it."""
    tokens, lengths = pad_sequences(prompts)
    u = uniforms(config.seed, np.arange(len(prompts)), np.arange(STEPS)[:, None])
    settings = {"temperature": config.temperature, "top_k": config.top_k, "top_p": config.top_p, "end_token": end}
    if path.suffix == ".pt":
        import torch

        from unrolled.export.torch.torchscript import read_torchscript

        module, info = read_torchscript(path)
        state = zero_state(info.config, len(prompts))
        arrays = [torch.from_numpy(value) for value in (tokens, lengths, state, u)]
        written: NDArray[np.int64] = module.generate(*arrays, *settings.values())[0].numpy()
        return written
    model: Any = load(path)
    kinds = {"temperature": np.float64, "top_k": np.int64, "top_p": np.float64, "end_token": np.int64}
    inputs = {"tokens": tokens, "lengths": lengths, "uniforms": u, "state": zero_state(model.config, len(prompts))}
    inputs |= {name: np.array(value, kinds[name]) for name, value in settings.items()}
    result: NDArray[np.int64] = model.session.run(["written"], inputs)[0]
    return result


@pytest.mark.parametrize("settings", [(1.0, 0, 1.0), (0.9, 6, 0.9), (1.2, 0, 0.8)])
@pytest.mark.parametrize("kind", ["onnx generate", "onnx both", "torchscript"])
def test_writing_stops_with_the_last_row_that_ends(
    tmp_path: Path, kind: str, settings: tuple[float, int, float]
) -> None:
    checkpoint = models.checkpoint("gru")
    path = exported(checkpoint, tmp_path, kind)
    config = SamplingConfig(True, *settings, SEED)
    free, _ = reference(checkpoint, PROMPTS, STEPS, config)
    np.testing.assert_array_equal(run(path, config, PROMPTS, -1), free)
    stops = 0
    for end in range(models.V):
        ended = np.maximum.accumulate(free == end)
        count = STEPS if not ended[-1].all() else int(ended.all(axis=1).argmax()) + 1
        expected = np.where(ended, end, free)[:count]  # a row repeats its end token
        np.testing.assert_array_equal(run(path, config, PROMPTS, end), expected)
        stops += 1 < count < STEPS and len(set(ended.argmax(axis=0).tolist())) > 1
    assert stops >= 3  # rows end at different steps, the last of them before the requested number


@pytest.mark.parametrize("kind", ["onnx generate", "onnx both", "torchscript"])
def test_a_text_may_end_with_its_first_token(tmp_path: Path, kind: str) -> None:
    checkpoint = models.checkpoint("lstm")
    config = SamplingConfig(True, 1.0, 1, 1.0, SEED)
    free, _ = reference(checkpoint, PROMPTS[:1], 1, config)
    assert run(exported(checkpoint, tmp_path, kind), config, PROMPTS[:1], int(free[0, 0])).tolist() == free.tolist()


# --- weights


def initializers(graph: onnx.GraphProto) -> list[onnx.TensorProto]:
    """Return the tensors of a graph and of the graphs inside its nodes, constants included."""
    found = list(graph.initializer)
    for node in graph.node:
        for attribute in node.attribute:
            found += [attribute.t] if attribute.HasField("t") else []
            if attribute.HasField("g"):
                found += initializers(attribute.g)
    return found


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("form", ["step", "generate", "both"])
def test_weights_are_in_a_file_once(tmp_path: Path, form: str, tied: bool) -> None:
    checkpoint = models.checkpoint("lstm", 2, hidden_size=96, vocab_size=300, tie_weights=tied)
    path = exported(checkpoint, tmp_path, f"onnx {form}")
    data, model, _ = read_onnx(path)
    weights = sum(value.nbytes for value in checkpoint.params.values())
    tensors = initializers(model.graph)
    stored = [tensor for tensor in tensors if tensor.data_type == onnx.TensorProto.FLOAT]
    assert sum(len(tensor.raw_data) for tensor in stored) == weights
    for tensor in tensors:
        if len(tensor.raw_data) >= 64:
            assert data.count(tensor.raw_data) == 1, tensor.name
    texts = sum(len(prop.key) + len(prop.value.encode()) for prop in model.metadata_props)
    assert weights < path.stat().st_size < weights + texts + 32_000  # nodes, names and small numbers
