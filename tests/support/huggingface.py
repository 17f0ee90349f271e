"""Answers of Hugging Face's ``generate`` for this package's models: an independent implementation of the same rules.

    python tests/support/huggingface.py                  # writes huggingface.json; from the repository root, with transformers
    python tests/support/huggingface.py --random 6000    # compares as many random settings, and prints the different ones

huggingface.json contains the texts and scores of transformers 5.24.0 for each of ``cases``, so the tests need neither
transformers nor torch. ``run`` computes them anew if transformers is installed.
"""

from __future__ import annotations

import itertools
import json
import random
import sys
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import models
import numpy as np
from numpy.typing import NDArray

from unrolled.engine.models.step_contract import StepModel, zero_state
from unrolled.engine.sampling.config import SamplingConfig
from unrolled.engine.sampling.filters import FILTERS
from unrolled.engine.sampling.processors import History
from unrolled.engine.sampling.rules import process
from unrolled.engine.storage.checkpoint import Checkpoint
from unrolled.engine.tokenizers.characters import CharTokenizer
from unrolled.engine.tokenizers.vocabulary import EOS
from unrolled.runtime.generation.beam_search import BeamConfig, beam_search
from unrolled.runtime.models.engines import make_model

FILE = Path(__file__).with_suffix(".json")
LETTERS = "abcdefgh"
PROMPTS = ("a", "fade", "badcafehead")
# Hugging Face computes in float32, so a total of some tens has a rounding error of 1e-5.
SCORE_RTOL, SCORE_ATOL = 2e-5, 2e-5
Answer = list[tuple[list[int], float]]  # tokens and score of each text, the best first


class Case(NamedTuple):
    """One call: a model, a prompt, and settings by this package's names."""

    cell: str
    seed: int
    bias: float  # of <eos>
    eos: bool  # true if the vocabulary has <eos>
    prompt: str
    settings: dict[str, Any]


@cache
def model_of(cell: str, seed: int, bias: float, eos: bool) -> StepModel:
    """Return a random model of a few letters; ``bias`` makes <eos> more probable."""
    vocabulary = [*([EOS] if eos else []), *LETTERS]
    config = models.config(cell, 1, vocab_size=len(vocabulary))
    params = models.params(config, np.float32, seed)
    params["output.weight"] *= 3
    params["output.bias"][0] += bias if eos else 0.0
    return make_model(Checkpoint.of_language_model(config, params, CharTokenizer(vocabulary)), "numpy")


def cases() -> list[Case]:
    """Return beam searches over models, prompts, numbers of beams, stopping rules, length penalties and processors."""
    found = []
    stopping: list[Any] = [False, True, "never"]
    grid = itertools.product(models.ALL_CELLS, (2, 3, 5), stopping, (-1.0, 0.0, 0.6, 1.0, 2.0))
    for place, (cell, beams, early, power) in enumerate(grid):
        settings = {"num_beams": beams, "early_stopping": early, "length_penalty": power}
        for seed, bias, length in ((1, 0.0, 12), (2, -2.0, 20), (3, 1.0, 6)):
            prompt = PROMPTS[(place + seed) % len(PROMPTS)]
            own = {"max_new_tokens": length, "num_return_sequences": 1 + (place + seed) % beams}
            found.append(Case(cell, seed, bias, True, prompt, settings | own))
    rules: list[dict[str, Any]] = [
        {"repetition_penalty": 1.3},
        {"repetition_penalty": 0.8},
        {"no_repeat_ngram_size": 2},
        {"bad_words": [[1], [3, 4], [2, 2, 5]]},
        {"min_new_tokens": 5},
        {"suppress_tokens": [2, 7]},
        {"sequence_bias": [[[4], 1.5], [[5, 6], -3.0]]},
        {"repetition_penalty": 1.2, "no_repeat_ngram_size": 3, "bad_words": [[8]], "min_new_tokens": 4},
        {"max_new_tokens": 1},
        {"max_new_tokens": 2},
    ]
    for place, (rule, early, power) in enumerate(itertools.product(rules, stopping, (-0.5, 0.0, 1.0))):
        beams = 2 + place % 3
        settings = {"num_beams": beams, "num_return_sequences": beams, "early_stopping": early, "length_penalty": power}
        prompt = PROMPTS[place % len(PROMPTS)]
        for cell, bias in (("gru", 0.0), ("lstm", -1.0)):
            found.append(Case(cell, 4 + place, bias, True, prompt, {"max_new_tokens": 10} | settings | rule))
    for beams, early, power in itertools.product((2, 4), stopping, (0.0, 1.0)):
        settings = {"num_beams": beams, "num_return_sequences": 2, "early_stopping": early, "length_penalty": power}
        found.append(Case("lstm", 5, 0.0, False, "cab", {"max_new_tokens": 8} | settings))
    return found


def _random_processors(draw: random.Random, share: float) -> dict[str, Any]:
    """Return settings of processors, each of them with the given probability."""
    token = lambda: draw.randint(1, len(LETTERS) - 1)  # noqa: E731
    every: dict[str, Any] = {
        "repetition_penalty": draw.choice([0.7, 1.1, 1.5, 3.0]),
        "no_repeat_ngram_size": draw.choice([2, 3, 4]),
        "bad_words": [[token() for _ in range(draw.randint(1, 3))] for _ in range(draw.randint(1, 2))],
        "min_new_tokens": draw.randint(1, 8),
        "suppress_tokens": draw.sample(range(1, len(LETTERS)), 2),
        "sequence_bias": [[[token()], draw.uniform(-3, 3)]],
    }
    return {name: value for name, value in every.items() if draw.random() < share}


def random_cases(count: int, seed: int) -> Iterator[Case]:
    """Yield beam searches with random models, prompts, numbers and lengths."""
    draw = random.Random(seed)
    for _ in range(count):
        settings = _random_processors(draw, 0.1)
        beams, length = draw.choice([2, 3, 4, 6, 8]), draw.choice([1, 2, 3, 5, 8, 13, 25, 40])
        settings |= {
            "num_beams": beams,
            "num_return_sequences": draw.randint(1, beams),
            "length_penalty": draw.choice([-3.0, -1.0, -0.3, 0.0, 0.3, 1.0, 1.5, 4.0]),
            "early_stopping": draw.choice([True, False, "never"]),
            "max_new_tokens": max(length, settings.get("min_new_tokens", 1)),
        }
        prompt = "".join(draw.choices(LETTERS, k=draw.choice([1, 2, 5, 17])))
        cell, bias = draw.choice(models.ALL_CELLS), draw.choice([-3.0, -1.0, 0.0, 1.0, 2.0])
        yield Case(cell, draw.randint(1, 60), bias, draw.random() < 0.9, prompt, settings)


def random_scores(count: int, seed: int) -> Iterator[tuple[dict[str, Any], NDArray, NDArray]]:
    """Yield random settings of a draw with the scores (B, V) after processors and filters: here, and Hugging Face's."""
    import torch
    from transformers import GenerationConfig

    draw, rng, model = random.Random(seed), np.random.default_rng(seed), model_of("gru", 1, 0.0, True)
    wrapped, B, V = _wrapped(model), 3, model.config.vocab_size
    for _ in range(count):
        settings = _random_processors(draw, 0.3)
        filters = {"temperature": 0.3, "top_k": draw.choice([1, 2, 5, 50]), "top_p": draw.choice([0.1, 0.8, 0.99])}
        filters |= {"min_p": draw.choice([0.01, 0.1, 0.9]), "typical_p": draw.choice([0.1, 0.7, 0.9])}
        settings |= {name: value for name, value in filters.items() if draw.random() < 0.4}
        T = rng.integers(3, 14)
        prompt = rng.integers(1, T + 1)
        tokens = rng.integers(1, V, (B, T))
        logits = (rng.normal(size=(B, V)) * 3).astype(np.float32)
        config = SamplingConfig(**settings).resolved(model.tokenizer)
        ours = process(logits.astype(np.float64), config, History(tokens.tolist(), np.full(B, T - prompt)))
        if np.isneginf(ours).all(axis=-1).any():
            continue  # no token is left, which is an error in this package
        for keep in FILTERS.values():
            ours = keep(ours, config)
        theirs = GenerationConfig(
            do_sample=True, eos_token_id=0, pad_token_id=0, **{"top_k": 0} | _their_names(settings)
        )
        theirs._eos_token_tensor = torch.tensor([0])
        processors = wrapped._get_logits_processor(theirs, input_ids_seq_length=int(prompt), device="cpu")
        yield settings, ours, processors(torch.from_numpy(tokens), torch.from_numpy(logits)).numpy()


def _their_names(settings: dict[str, Any]) -> dict[str, Any]:
    """Return settings by Hugging Face's names."""
    named = {"bad_words_ids" if name == "bad_words" else name: value for name, value in settings.items()}
    if "sequence_bias" in named:
        named["sequence_bias"] = {tuple(ids): value for ids, value in named["sequence_bias"]}
    return named


def run(case: Case) -> Answer:
    """Return the texts that Hugging Face's ``generate`` gives for the prompt, without the prompt."""
    import torch

    model = model_of(case.cell, case.seed, case.bias, case.eos)
    eos = model.tokenizer.eos_id
    prompt = torch.tensor([model.tokenizer.encode(case.prompt).tolist()])
    out = _wrapped(model).generate(
        prompt, attention_mask=torch.ones_like(prompt), do_sample=False, use_cache=False, eos_token_id=eos,
        pad_token_id=-1 if eos is None else eos, output_scores=True, return_dict_in_generate=True,
        **_their_names(case.settings),
    )  # fmt: skip
    rows = []
    for row, score in zip(out.sequences.tolist(), out.sequences_scores.tolist(), strict=True):
        tokens = [token for token in row[prompt.shape[1] :] if token >= 0]
        rows.append((tokens[: tokens.index(eos) + 1] if eos in tokens else tokens, score))
    return rows


def _wrapped(model: StepModel) -> Any:
    """Return a Hugging Face model whose logits are this model's, computed from the first token at each step."""
    import torch
    from transformers import GenerationMixin, PretrainedConfig, PreTrainedModel
    from transformers.modeling_outputs import CausalLMOutput

    class Wrapped(PreTrainedModel, GenerationMixin):
        config_class = PretrainedConfig
        main_input_name = "input_ids"

        def __init__(self, config: PretrainedConfig) -> None:
            super().__init__(config)
            self.nothing = torch.nn.Parameter(torch.zeros(1))
            self.post_init()

        def forward(self, input_ids: Any, attention_mask: Any = None, **_: Any) -> CausalLMOutput:
            tokens = np.ascontiguousarray(input_ids.numpy().T)
            logits, _ = model.step(tokens, zero_state(model.config, tokens.shape[1]))
            return CausalLMOutput(logits=torch.from_numpy(logits).transpose(0, 1))

        def prepare_inputs_for_generation(self, input_ids: Any, attention_mask: Any = None, **_: Any) -> dict[str, Any]:
            return {"input_ids": input_ids}

    config = PretrainedConfig(is_encoder_decoder=False)
    config.vocab_size = model.config.vocab_size
    return Wrapped(config).eval()


def load() -> list[tuple[Case, Answer]]:
    """Return the cases with the answers of Hugging Face; in the file, a digit is a token."""
    answers = json.loads(FILE.read_text())["answers"]
    return [
        (case, [([int(token) for token in text], score) for text, score in answer])
        for case, answer in zip(cases(), answers, strict=True)
    ]


def differences(case: Case, expected: Answer, **other: Any) -> list[str]:
    """Return ["texts"] or ["scores"] if those of ``beam_search`` differ, else []; ``other`` overrides settings of the case."""
    model = model_of(case.cell, case.seed, case.bias, case.eos)
    found = beam_search(model, [case.prompt], BeamConfig(**{**case.settings, **other}))
    if [list(text.tokens) for text in found] != [tokens for tokens, _ in expected]:
        return ["texts"]
    scores = [text.score for text in found], [score for _, score in expected]
    return [] if np.allclose(*scores, rtol=SCORE_RTOL, atol=SCORE_ATOL) else ["scores"]


def compare(count: int) -> None:
    """Print how many of ``count`` random settings agree, and those that differ."""
    found: Counter[str] = Counter()
    for case in random_cases(count, 1):
        for what in differences(case, expected := run(case)):
            found[what] += 1
            print(what, case, expected)
    print(f"beams: {count} settings, other texts {found['texts']}, the same texts with other scores {found['scores']}")
    scores = [np.allclose(ours, theirs, rtol=1e-5, atol=1e-5) for _, ours, theirs in random_scores(count, 1)]
    print(f"processors and filters: {len(scores)} settings, other scores {scores.count(False)}")


def main() -> None:
    """Write the file anew, or compare."""
    import transformers

    if sys.argv[1:2] == ["--random"]:
        compare(int(sys.argv[2]))
        return

    lines = []
    for case in cases():
        answer = [["".join(map(str, tokens)), round(score, 5)] for tokens, score in run(case)]
        lines.append(json.dumps(answer, separators=(",", ":")))
    version = json.dumps(transformers.__version__)
    FILE.write_text('{"transformers": ' + version + ', "answers": [\n' + ",\n".join(lines) + "\n]}\n")
    print(f"{FILE}: {len(lines)} cases of transformers {transformers.__version__}", file=sys.stderr)


if __name__ == "__main__":
    main()
