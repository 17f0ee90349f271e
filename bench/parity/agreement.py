"""Do all engines and files of one model say the same? Each runs in its own process and is held against NumPy's."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unrolled.bench.parity.divergence import Divergence, first_divergences
from unrolled.bench.parity.texts_process import TextsJob, write_texts
from unrolled.engine.errors import ConfigError, ModelFileError
from unrolled.engine.sampling.rules import SamplingConfig, check_whole
from unrolled.engine.storage.checkpoint import CHECKPOINT_SUFFIX, Checkpoint, load_checkpoint, resolve_model_file
from unrolled.engine.tokenizers.contract import Tokenizer
from unrolled.engine.tokenizers.vocabulary import SPECIALS
from unrolled.runtime import ENGINES
from unrolled.runtime.generation.requests.prompts import prompt_tokens
from unrolled.runtime.models.engines import make_model
from unrolled.runtime.models.load import OPENERS

REFERENCE = "numpy"
MATCHES = {"greedy_match": "greedy", "sampled_match": "sampled"}


@dataclass(frozen=True)
class Contestant:
    """One engine on a checkpoint, or one exported file."""

    name: str
    model: str
    engine: str | None


@dataclass(frozen=True)
class Agreement:
    """How far one contestant is from the NumPy engine; matches are shares of tokens that are equal."""

    engine: str
    source: str  # the file that ran
    max_logit_error: float | None = None
    greedy_match: float | None = None
    sampled_match: float | None = None
    equal_texts: float | None = None  # share of the sampled texts that are equal to their end
    divergences: tuple[Divergence, ...] | None = None  # of the others
    first_call_s: float | None = None  # opening the model and its first step
    tokens_per_s_1: float | None = None  # sampled, one stream
    tokens_per_s_64: float | None = None  # sampled, 64 streams at once
    error: str | None = None
    remark: str | None = None  # what should be known about the source

    def to_dict(self) -> dict[str, Any]:
        values = {key: value for key, value in asdict(self).items() if value is not None}
        if self.divergences is not None:
            values["divergences"] = [one.to_dict() for one in self.divergences]
        return values


def contestants(model: str | Path) -> list[Contestant]:
    """Every engine on the checkpoint of ``model``, then the exported files beside it."""
    checkpoint = resolve_model_file(model)
    if checkpoint.suffix != CHECKPOINT_SUFFIX:
        raise ConfigError(f"{model}: compare needs a run folder or a checkpoint, which every engine can run")
    files = sorted(path for path in checkpoint.parent.iterdir() if path.suffix in OPENERS)
    names = [REFERENCE, *(name for name in ENGINES if name != REFERENCE)]
    return [Contestant(name, str(checkpoint), name) for name in names] + [
        Contestant(path.name, str(path), None) for path in files
    ]


def default_prompts(tokenizer: Tokenizer, count: int = 8) -> list[str]:
    """Texts of different lengths that the tokeniser can read, the same at every call."""
    rng = np.random.default_rng(0)
    plain = [i for i, token in enumerate(tokenizer.vocabulary) if token not in SPECIALS]
    return [tokenizer.decode(rng.choice(plain, length).tolist()) for length in range(3, 3 + 4 * count, 4)]


def measure_agreement(got: dict[str, NDArray], reference: dict[str, NDArray]) -> dict[str, float]:
    """Largest logit difference, where there are logits, and shares of equal tokens and texts; NaN is an infinite error."""
    shares = {name: _share_equal(got[kind], reference[kind]) for name, kind in MATCHES.items()}
    shares["equal_texts"] = float((got["sampled"] == reference["sampled"]).all(axis=1).mean())
    if "logits" not in got:
        return shares
    if got["logits"].shape != reference["logits"].shape:
        raise ModelFileError(f"logits {got['logits'].shape}, the reference's are {reference['logits'].shape}")
    difference = np.abs(got["logits"].astype(np.float64) - reference["logits"])
    return {"max_logit_error": float(np.where(np.isnan(difference), np.inf, difference).max()), **shares}


def _share_equal(got: NDArray, expected: NDArray) -> float:
    """Share of equal tokens, where at least one of the two has one: -1 stands behind the end of a text."""
    counted = (got >= 0) | (expected >= 0)
    return float((got == expected)[counted].mean()) if counted.any() else 1.0


def _divergences(
    checkpoint: Checkpoint, prompts: Sequence[str], seed: int, expected: NDArray, got: NDArray
) -> tuple[Divergence, ...]:
    """Where sampled texts (rows, N) of ``got`` first differ; as many rows for each prompt."""
    if np.array_equal(expected, got):
        return ()
    reference = make_model(checkpoint, REFERENCE)
    number = len(expected) // len(prompts)
    ids = [ids for prompt in prompts for ids in [prompt_tokens(checkpoint.tokenizer, prompt)] * number]
    return tuple(first_divergences(reference, ids, np.arange(len(ids)), expected, got, SamplingConfig(seed=seed)))


def compare(
    runners: Sequence[Contestant],
    prompts: Sequence[str] | None = None,
    tokens: int = 200,
    number: int = 1,
    seed: int = 0,
    on_start: Callable[[Contestant], None] = lambda contestant: None,
) -> Iterator[Agreement]:
    """Run every contestant in a process of its own, the reference first, and yield how far each is from it.

    Args:
        runners: from ``contestants``; the first is the reference.
        prompts: texts to write behind; a spread of random ones if left out.
        tokens: written behind each prompt, greedily and sampled.
        number: texts sampled behind each prompt.
        on_start: called before each.

    Raises:
        ModelFileError: the reference itself cannot run.
        ConfigError: ``tokens`` or ``number`` is out of its range.
    """
    check_whole("max_new_tokens", tokens, 1)
    check_whole("num_return_sequences", number, 1)
    checkpoint = load_checkpoint(runners[0].model)
    digest = checkpoint.digest
    texts = list(prompts) if prompts else default_prompts(checkpoint.tokenizer)
    reference: dict[str, NDArray] = {}
    for contestant in runners:
        on_start(contestant)
        job = TextsJob(contestant.model, contestant.engine, texts, tokens, number, seed)
        result, arrays = write_texts(job, reference.get("on"))
        source = Path(contestant.model).name
        if "error" in result:
            if not reference:
                raise ModelFileError(result["error"])
            yield Agreement(contestant.name, source, error=result["error"])
            continue
        reference = reference or arrays
        name = contestant.engine or result["engine"]
        sampled = reference["sampled"], arrays["sampled"]
        try:
            figures: dict[str, Any] = {**measure_agreement(arrays, reference), **result}
        except ModelFileError as error:
            yield Agreement(contestant.name, source, error=str(error))
            continue
        del figures["engine"]
        if figures.pop("digest") != digest:
            figures["remark"] = "made of another checkpoint than the one it is compared with; export again"
        yield Agreement(name, source, divergences=_divergences(checkpoint, texts, seed, *sampled), **figures)
