"""Write small files of format 2, so that a change of the format is seen: python tests/frozen/freeze_format_2.py FOLDER.

``expected.json`` in the folder records what was computed from them: digests, outputs of the tagger for seeded inputs, texts.
The tests in ``test_frozen_format_2.py`` hold every later version against it.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np

from unrolled.engine.models.heads.step_labels import StepLabelsHead
from unrolled.engine.models.initializers import pytorch_params
from unrolled.engine.models.inputs.embedded import CategoriesInput, TokensInput
from unrolled.engine.models.inputs.numeric import StaticInput, ValuesInput
from unrolled.engine.models.language_model_config import LanguageModelConfig
from unrolled.engine.models.layers.core_config import CoreConfig
from unrolled.engine.models.parameters import Params
from unrolled.engine.models.spec import ModelSpec
from unrolled.engine.network.network import Network
from unrolled.engine.storage.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from unrolled.engine.storage.description import text_preprocessing
from unrolled.engine.tokenizers.words import WordTokenizer
from unrolled.export.artifact.golden_runs import random_inputs, run_values
from unrolled.export.formats import export_model
from unrolled.runtime import generate, load

TAGGER = ModelSpec(
    (
        TokensInput(7, 3),
        CategoriesInput(5, 2, "part_of_speech"),
        ValuesInput(2, (1.5, -20.0), (0.25, 30.0), "measured"),
        StaticInput(1, (40.0,), (7.0,)),
    ),
    CoreConfig("lstm", 4, 2, bidirectional=True),
    StepLabelsHead(3),
)
TAGGER_WORDS = ("<unk>", "naïve", "river", "stone", "été", "c'est", "x")
WORDS = ("<unk>", "<bos>", "<eos>", "naïve", "café", "été", "İstanbul".lower(), "river", "stone", "c'est", "한국")
WORD_MODEL = LanguageModelConfig("gru", len(WORDS), 5, 6)
LENGTHS = np.array([3, 6, 1, 5])
PROMPT = "Nai\u0308ve CAFE\u0301 \u1112\u1161\u11ab\u1100\u116e\u11a8 I\u0307stanbul river"  # in NFD
SETTINGS: dict[str, dict[str, Any]] = {"greedy": {"do_sample": False}, "sampled": {"temperature": 1.3, "seed": 5}}


def params_of(spec: ModelSpec) -> Params:
    """Return seeded parameters larger than the usual initial ones."""
    return {name: (value * 2).astype(np.float32) for name, value in pytorch_params(spec, 3, np.float64).items()}


def words(vocabulary: tuple[str, ...]) -> WordTokenizer:
    return WordTokenizer(vocabulary, "replace", True, normalize="NFC")


def tagger_values(model: Any) -> dict[str, list[float]]:
    """Return what a tagger computes from seeded rows of different lengths, as flat lists."""
    values = run_values(model, random_inputs(TAGGER, LENGTHS, 9), LENGTHS)
    return {name: array.reshape(-1).tolist() for name, array in values.items()}


def texts_of(model: Any) -> dict[str, str]:
    return {name: generate(model, PROMPT, max_new_tokens=30, **settings)[0].text for name, settings in SETTINGS.items()}


def freeze() -> dict[str, Any]:
    """Write all files into the current folder; return what ``expected.json`` holds."""
    tagger = Checkpoint(TAGGER, params_of(TAGGER), text_preprocessing(words(TAGGER_WORDS)), {"note": "frozen"})
    save_checkpoint("tagger.safetensors", tagger)
    export_model(tagger, Path("tagger.onnx"), "onnx")
    model = Checkpoint.of_language_model(WORD_MODEL, params_of(WORD_MODEL.spec), words(WORDS))
    save_checkpoint("words.safetensors", model)
    export_model(model, Path("words.onnx"), "onnx", "step")
    opened = load_checkpoint("tagger.safetensors")
    return {
        "tagger": {"digest": opened.digest, "values": tagger_values(Network(opened.spec, opened.params))},
        "words": {
            "digest": model.digest,
            "ids": model.tokenizer.encode(PROMPT).tolist(),
            "texts": texts_of(load("words.safetensors", "numpy")),
        },
    }


def main(folder: str) -> None:
    Path(folder).mkdir(parents=True)
    os.chdir(folder)
    Path("expected.json").write_text(json.dumps(freeze(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
