"""Models, prompts, settings and NumPy's texts for the tests of equal texts, and which differences are faults."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import models
import numpy as np

from unrolled.bench.parity.divergence import Divergence, first_divergences
from unrolled.engine.storage.checkpoint import Checkpoint
from unrolled.engine.tokenizers.characters import CharTokenizer
from unrolled.engine.tokenizers.words import WordTokenizer
from unrolled.runtime import generate
from unrolled.runtime.generation.requests.config import GenerationConfig
from unrolled.runtime.generation.requests.generation import Generation
from unrolled.runtime.generation.requests.prompts import prompt_tokens
from unrolled.runtime.models.engines import make_model

TOKENS = 500
CELLS, LEVELS = ("lstm", "gru", "rnn"), ("char", "word")
LENGTHS = (1, 2, 3, 5, 8, 13, 21, 34)  # tokens of the prompts
Settings = dict[str, Any]
SETTINGS: dict[str, Settings] = {
    "greedy": {"do_sample": False},
    "plain": {"seed": 11},
    "filtered": {"seed": 11, "temperature": 0.8, "top_k": 30, "top_p": 0.9},
}


def make_checkpoint(cell: str, level: str) -> Checkpoint:
    """Return a random checkpoint of 2 layers of 64, with larger weights than usual, so that probabilities differ."""
    V = 90 if level == "char" else 700
    config = models.config(cell, 2, vocab_size=V, embedding_size=32, hidden_size=64)
    words = [chr(0x4E00 + i) if level == "char" else f"w{i}" for i in range(V)]
    tokenizer = CharTokenizer(words) if level == "char" else WordTokenizer(words, "skip")
    return Checkpoint.of_language_model(config, models.params(config, np.float32), tokenizer, {})


def make_prompts(checkpoint: Checkpoint) -> list[str]:
    rng = np.random.default_rng(5)
    V = checkpoint.config.vocab_size
    return [checkpoint.tokenizer.decode(rng.integers(0, V, length).tolist()) for length in LENGTHS]


class Reference:
    """The texts that the NumPy engine generates for prompts, and their differences from another engine's tokens."""

    def __init__(self, checkpoint: Checkpoint, prompts: Sequence[str]) -> None:
        self.checkpoint, self.prompts = checkpoint, list(prompts)
        self.model = make_model(checkpoint, "numpy")
        self._written: dict[Any, list[Generation]] = {}

    def rows(self, config: GenerationConfig, alone: bool = False) -> list[Generation]:
        """Return the texts; with ``alone``, each prompt is generated separately, so its index is 0."""
        if (config, alone) not in self._written:
            asked = [[prompt] for prompt in self.prompts] if alone else [self.prompts]
            self._written[config, alone] = [row for prompts in asked for row in generate(self.model, prompts, config)]
        return self._written[config, alone]

    def divergences(self, got: Sequence[Sequence[int]], settings: Settings, alone: bool = False) -> list[Divergence]:
        """Return the first divergences of the tokens ``got`` from NumPy's: equally many rows per prompt, all of one length."""
        count, length = len(got) // len(self.prompts), len(got[0])
        config = GenerationConfig(**settings, max_new_tokens=length, num_return_sequences=count)
        rows = self.rows(config, alone)
        expected = np.array([row.tokens for row in rows])
        assert expected.shape == (len(got), length)
        ids = [prompt_tokens(self.model.tokenizer, row.prompt) for row in rows]
        indices = np.array([row.index for row in rows])
        return first_divergences(self.model, ids, indices, expected, np.array(got, np.int64), config)

    def faults(self, got: Sequence[Sequence[int]], settings: Settings, alone: bool = False) -> list[Divergence]:
        """Return the divergences that rounding does not explain; with greedy decoding, all of them."""
        greedy = not settings.get("do_sample", True)
        return [one for one in self.divergences(got, settings, alone) if greedy or not one.explained]


@cache
def reference(cell: str, level: str) -> Reference:
    checkpoint = make_checkpoint(cell, level)
    return Reference(checkpoint, make_prompts(checkpoint))
