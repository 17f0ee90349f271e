"""What every exported file says of itself: one set of texts, the same keys and values in every format.

ONNX keeps them as ``metadata_props``, TorchScript as the JSON object in the extra file ``unrolled.json``.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import metadata as package_metadata
from typing import Any, NamedTuple

import numpy as np

from unrolled.engine.checkpoint import Checkpoint
from unrolled.engine.config import ModelConfig
from unrolled.engine.contract import Stepper, zero_state
from unrolled.engine.errors import ConfigError, ModelFileError
from unrolled.engine.jsontext import parse_json, to_json
from unrolled.engine.model import LanguageModel
from unrolled.engine.text import Tokenizer, tokenizer_from_dict

FORMAT_VERSION = "1"
PREFIX = "unrolled."
KEYS = (
    "format_version",
    "producer",
    "config",
    "tokenizer",
    "state",
    "training",
    "checkpoint_digest",
    "golden",
)

# The step form's names and axes; frozen: hosts rely on them.
STEP_INPUTS = {"tokens": ("time", "batch"), "state": (None, None, "batch", None)}
STEP_OUTPUTS = {"logits": ("time", "batch", None), "next_state": (None, None, "batch", None)}

GOLDEN_LENGTHS, GOLDEN_GREEDY, GOLDEN_LOGITS = (1, 5, 17), 32, 64
MARGIN = 1e-3  # a greedy token counts while the best logit leads by more than engines may differ


class FileInfo(NamedTuple):
    """The parsed metadata of an exported file."""

    config: ModelConfig
    tokenizer: Tokenizer
    training: dict[str, Any]
    checkpoint_digest: str
    golden: list[dict[str, Any]]


def greedy_tokens(model: Stepper, prompt: list[int], count: int, margin: float = 0.0) -> list[int]:
    """Up to ``count`` tokens, each the lowest index among the largest logits, while the largest leads by ``margin``."""
    logits, state = model.step(np.array(prompt, np.int64)[:, None], zero_state(model.config, 1))
    tokens: list[int] = []
    for _ in range(count):
        last = logits[-1, 0]
        best, second = np.partition(last, -2)[[-1, -2]]
        if best - second < margin:
            break
        tokens.append(int(last.argmax()))
        logits, state = model.step(np.array([[tokens[-1]]], np.int64), state)
    return tokens


def golden_cases(checkpoint: Checkpoint) -> list[dict[str, Any]]:
    """Prompts with the reference's logits after them (a spread of at most 64, and their log-sum-exp) and greedy tokens."""
    model = LanguageModel(checkpoint.config, checkpoint.float32())
    V = checkpoint.config.vocab_size
    rng = np.random.default_rng(0)
    cases = []
    for length in GOLDEN_LENGTHS:
        prompt = rng.integers(0, V, length).tolist()
        logits, _ = model.step(np.array(prompt, np.int64)[:, None], zero_state(checkpoint.config, 1))
        last = logits[-1, 0].astype(np.float64)
        indices = np.unique(np.linspace(0, V - 1, min(V, GOLDEN_LOGITS)).astype(int))
        cases.append(
            {
                "prompt": prompt,
                "logit_indices": indices.tolist(),
                "logits": [float(np.float32(value)) for value in last[indices]],
                "logsumexp": float(last.max() + np.log(np.exp(last - last.max()).sum())),
                "greedy": greedy_tokens(model, prompt, GOLDEN_GREEDY, MARGIN),
            }
        )
    return cases


def producer() -> str:
    """Name and version of what writes the file."""
    return f"unrolled {package_metadata.version('unrolled')}"


def file_metadata(checkpoint: Checkpoint, golden: bool = True) -> dict[str, str]:
    """All keys, prefixed, each a text or JSON; ``golden=False`` leaves the cases out, for models that stay in memory."""
    config = checkpoint.config
    state = {
        "input": "state",
        "output": "next_state",
        "axes": ["states", "layers", "batch", "hidden"],
        "shape": [config.spec.states, config.num_layers, None, config.hidden_size],
        "initial": "zeros",
        "index_0": "h",
    }
    values = {
        "format_version": FORMAT_VERSION,
        "producer": producer(),
        "config": to_json(config.to_dict()),
        "tokenizer": to_json(checkpoint.tokenizer.to_dict()),
        "state": to_json(state),
        "training": to_json(checkpoint.training),
        "checkpoint_digest": checkpoint.digest,
        "golden": to_json(golden_cases(checkpoint) if golden else []),
    }
    return {PREFIX + key: values[key] for key in KEYS}


def parse_metadata(metadata: Mapping[str, str], where: str) -> FileInfo:
    """The inverse of ``file_metadata``.

    Raises:
        ModelFileError: not one of our files, of another version, or damaged.
    """
    if PREFIX + "format_version" not in metadata:
        raise ModelFileError(
            f"{where}: not one of unrolled's exported files; its metadata has no {PREFIX}format_version"
        )
    version = metadata[PREFIX + "format_version"]
    if version != FORMAT_VERSION:
        raise ModelFileError(f"{where}: export format {version!r}; this release reads {FORMAT_VERSION}")
    if missing := [PREFIX + key for key in KEYS if PREFIX + key not in metadata]:
        raise ModelFileError(f"{where}: its metadata has no {', '.join(missing)}")
    try:
        config = ModelConfig.from_dict(parse_json(metadata[PREFIX + "config"], "config"))
        tokenizer = tokenizer_from_dict(parse_json(metadata[PREFIX + "tokenizer"], "tokenizer"))
        training = parse_json(metadata[PREFIX + "training"], "training")
        golden = parse_json('{"cases": ' + metadata[PREFIX + "golden"] + "}", "golden")["cases"]
        _check_golden(golden, config.vocab_size)
    except (ConfigError, ModelFileError) as error:
        raise ModelFileError(f"{where}: {error}") from error
    if len(tokenizer.vocabulary) != config.vocab_size:
        raise ModelFileError(
            f"{where}: the tokeniser has {len(tokenizer.vocabulary)} tokens, the model {config.vocab_size}"
        )
    return FileInfo(config, tokenizer, training, metadata[PREFIX + "checkpoint_digest"], golden)


def _check_golden(cases: Any, vocab_size: int) -> None:
    """Golden cases come from a file: lists of ids and numbers, nothing else, before anything is computed with them."""

    def ids(value: Any) -> bool:
        return isinstance(value, list) and all(type(i) is int and 0 <= i < vocab_size for i in value)

    def numbers(value: Any) -> bool:
        return isinstance(value, list) and all(type(x) in (int, float) for x in value)

    good = isinstance(cases, list) and all(
        isinstance(case, dict)
        and ids(case.get("prompt"))
        and case["prompt"]
        and ids(case.get("greedy"))
        and ids(case.get("logit_indices"))
        and numbers(case.get("logits"))
        and numbers([case.get("logsumexp")])
        and len(case["logits"]) == len(case["logit_indices"])
        for case in cases
    )
    if not good:
        raise ModelFileError("golden: not a list of cases")
