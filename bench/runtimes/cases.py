"""Exported files of every form and storage, and the calls of the NumPy engine that a runtime must reproduce."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from unrolled.engine.models.initializers import pytorch_params
from unrolled.engine.models.language_model_config import LanguageModelConfig
from unrolled.engine.models.padding import pad_sequences
from unrolled.engine.models.step_contract import zero_state
from unrolled.engine.network.language_model import LanguageModel
from unrolled.engine.sampling import philox
from unrolled.engine.sampling.config import SamplingConfig
from unrolled.engine.sampling.rules import choose
from unrolled.engine.storage.checkpoint import Checkpoint
from unrolled.engine.tokenizers.characters import CharTokenizer
from unrolled.export.artifact.forms import FORMS
from unrolled.export.artifact.weight_storage import FLOAT32_STORAGE, INT8_STORAGE, NUMBER_FORMATS, as_restored
from unrolled.export.formats import export_model

STORED = {name: FLOAT32_STORAGE._replace(storage=name) for name in NUMBER_FORMATS} | {"quantized": INT8_STORAGE}
PROMPT_IDS = [[3, 1, 4, 1, 5], [9], [2, 6]]
GENERATED_STEPS = 48
SAMPLING_SETTINGS = {
    "greedy": SamplingConfig(True, 1.0, 1, 1.0, 7),
    "sampled": SamplingConfig(True, 0.9, 0, 1.0, 7),
    "top-k": SamplingConfig(True, 0.8, 5, 1.0, 7),
    "top-p": SamplingConfig(True, 1.1, 0, 0.9, 7),
}


def model_of(cell: str) -> Checkpoint:
    """Return a seeded model whose logits are as spread as those of a trained one."""
    config = LanguageModelConfig(cell, 65, 48, 96, 2)
    params = {
        name: (2 * value).astype(np.float32) for name, value in pytorch_params(config.spec, 1, np.float64).items()
    }
    params["output.weight"] *= 2
    return Checkpoint.of_language_model(config, params, CharTokenizer([chr(0x100 + token) for token in range(65)]), {})


class ExpectedCall(NamedTuple):
    """Inputs and outputs of one call of the NumPy engine."""

    inputs: dict[str, NDArray]
    outputs: dict[str, NDArray]


def expected_of(checkpoint: Checkpoint, form: str) -> list[ExpectedCall]:
    """Return the calls of a form: logits from the weights, tokens from the sampling rules."""
    model = LanguageModel(checkpoint.config, checkpoint.float32())
    tokens, lengths = pad_sequences(PROMPT_IDS)
    state = zero_state(checkpoint.config, len(PROMPT_IDS))
    logits, _ = model.step(tokens, state)
    step = {"tokens": tokens, "state": state}
    if form == "step":
        return [ExpectedCall(step, {"logits": logits})]
    calls = []
    for config in SAMPLING_SETTINGS.values():
        u = philox.uniforms(config.seed, np.arange(len(PROMPT_IDS)), np.arange(GENERATED_STEPS)[:, None])
        inputs = step | {"lengths": lengths, "uniforms": u, "end_token": np.array(-1)}
        inputs |= {name: np.array(getattr(config, name)) for name in ("temperature", "top_k", "top_p")}
        outputs = {"written": _written(model, config, u)}
        if form == "both":  # no caller reads logits of padded steps
            outputs["logits"] = np.where((np.arange(len(tokens))[:, None] < lengths)[..., None], logits, np.nan)
        calls.append(ExpectedCall(inputs, outputs))
    return calls


def _written(model: LanguageModel, config: SamplingConfig, u: NDArray) -> NDArray[np.int64]:
    """Return the tokens (N, B) that the uniforms ``u`` (N, B) choose after each prompt."""
    rows = []
    for b, prompt in enumerate(PROMPT_IDS):
        row: list[int] = []
        logits, state = model.step(np.array(prompt)[:, None], zero_state(model.config, 1))
        for step in range(GENERATED_STEPS):
            row.append(int(choose(logits[-1], config, u[step, b : b + 1])[0]))
            logits, state = model.step(np.array([row[-1:]]), state)
        rows.append(row)
    return np.array(rows).T


class ExportedFile(NamedTuple):
    """An exported file and the calls that it must reproduce."""

    path: Path
    about: tuple[str, str, str]  # cell, form, storage
    expected: list[ExpectedCall]


def export_files(folder: Path, cells: Sequence[str]) -> Iterator[ExportedFile]:
    """Export each form and storage of each cell to a folder."""
    for cell in cells:
        for form in FORMS:
            for storage, weights in STORED.items():
                checkpoint = model_of(cell)
                path = folder / f"{cell}-{form}-{storage}.onnx"
                export_model(checkpoint, path, "onnx", form, weights=weights)
                yield ExportedFile(
                    path, (cell, form, storage), expected_of(as_restored(checkpoint, weights.storage), form)
                )
