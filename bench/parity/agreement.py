"""Agreement of all engines and exported files of one model with the NumPy engine, each in a process of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unrolled.bench.parity.divergence import Divergence, first_divergences
from unrolled.bench.parity.texts_process import TextsJob, write_texts
from unrolled.engine.checks import check_whole
from unrolled.engine.errors import ConfigError, ModelFileError
from unrolled.engine.sampling.config import SamplingConfig
from unrolled.engine.storage.checkpoint import CHECKPOINT_SUFFIX, Checkpoint, load_checkpoint, resolve_model_file
from unrolled.engine.tokenizers.contract import Tokenizer
from unrolled.engine.tokenizers.vocabulary import SPECIALS
from unrolled.runtime import ENGINES
from unrolled.runtime.generation.requests.prompts import prompt_tokens
from unrolled.runtime.models.engines import make_model
from unrolled.runtime.models.load import OPENERS

REFERENCE_ENGINE = "numpy"
MATCHES = {"greedy_match": "greedy", "sampled_match": "sampled"}
OTHER_CHECKPOINT = "made of another checkpoint than the one it is compared with; export again"


@dataclass(frozen=True)
class Implementation:
    """One engine on a checkpoint, or one exported file."""

    name: str
    model: str  # path
    engine: str | None  # of a checkpoint


@dataclass(frozen=True)
class Agreement:
    """Distance of one implementation from the NumPy engine; matches are shares of tokens that are equal."""

    engine: str
    source: str  # name of the file that ran
    max_logit_error: float | None = None
    greedy_match: float | None = None
    sampled_match: float | None = None
    equal_texts: float | None = None  # share of the sampled texts that are equal to their end
    divergences: tuple[Divergence, ...] | None = None  # of the others
    first_call_s: float | None = None  # opening the model and its first step
    tokens_per_s_1: float | None = None  # sampled, one stream
    tokens_per_s_64: float | None = None  # sampled, 64 streams at once
    error: str | None = None
    remark: str | None = None  # a warning about the source

    def to_dict(self) -> dict[str, Any]:
        """Return the values that were measured, as JSON values."""
        values = {key: value for key, value in asdict(self).items() if value is not None}
        if self.divergences is not None:
            values["divergences"] = [one.to_dict() for one in self.divergences]
        return values


def implementations(model: str | Path) -> list[Implementation]:
    """Return every engine on the checkpoint of ``model``, the reference first, then the exported files beside it.

    Raises:
        ConfigError: the model is an exported file.
    """
    checkpoint = resolve_model_file(model)
    if checkpoint.suffix != CHECKPOINT_SUFFIX:
        raise ConfigError(f"{model}: compare needs a run folder or a checkpoint, which every engine can run")
    files = sorted(path for path in checkpoint.parent.iterdir() if path.suffix in OPENERS)
    names = [REFERENCE_ENGINE, *(name for name in ENGINES if name != REFERENCE_ENGINE)]
    return [Implementation(name, str(checkpoint), name) for name in names] + [
        Implementation(path.name, str(path), None) for path in files
    ]


def default_prompts(tokenizer: Tokenizer, count: int = 8) -> list[str]:
    """Return texts of different lengths that the tokenizer can read, the same at every call."""
    rng = np.random.default_rng(0)
    plain = [i for i, token in enumerate(tokenizer.vocabulary) if token not in SPECIALS]
    return [tokenizer.decode(rng.choice(plain, length).tolist()) for length in range(3, 3 + 4 * count, 4)]


def measure_agreement(got: Mapping[str, NDArray], reference: Mapping[str, NDArray]) -> dict[str, float]:
    """Return the largest logit difference, if there are logits, and the shares of equal tokens and texts.

    NaN is an infinite difference.

    Raises:
        ModelFileError: the logits have another shape.
    """
    shares = {name: _share_equal(got[kind], reference[kind]) for name, kind in MATCHES.items()}
    shares["equal_texts"] = float((got["sampled"] == reference["sampled"]).all(axis=1).mean())
    if "logits" not in got:
        return shares
    if got["logits"].shape != reference["logits"].shape:
        raise ModelFileError(f"logits {got['logits'].shape}, the reference's are {reference['logits'].shape}")
    difference = np.abs(got["logits"].astype(np.float64) - reference["logits"])
    return {"max_logit_error": float(np.where(np.isnan(difference), np.inf, difference).max()), **shares}


def _share_equal(got: NDArray, expected: NDArray) -> float:
    """Return the share of equal tokens where at least one side has a token: -1 stands after the end of a text."""
    counted = (got >= 0) | (expected >= 0)
    return float((got == expected)[counted].mean()) if counted.any() else 1.0


def compare(
    compared: Sequence[Implementation],
    prompts: Sequence[str] | None = None,
    tokens: int = 200,
    number: int = 1,
    seed: int = 0,
    on_start: Callable[[Implementation], None] = lambda implementation: None,
) -> Iterator[Agreement]:
    """Run every implementation in a process of its own, the reference first, and yield the distance of each from it.

    Args:
        compared: from ``implementations``; the first is the reference.
        prompts: texts to continue; None: ``default_prompts``.
        tokens: generated after each prompt, greedily and sampled.
        number: texts sampled after each prompt.
        seed: of the sampled texts.
        on_start: called before each.

    Raises:
        ModelFileError: the reference itself cannot run.
        ConfigError: ``tokens`` or ``number`` is out of its range, or the model writes no texts.
    """
    check_whole("max_new_tokens", tokens, 1)
    check_whole("num_return_sequences", number, 1)
    checkpoint = load_checkpoint(compared[0].model)
    checkpoint.spec.require("generate")
    texts = list(prompts) if prompts else default_prompts(checkpoint.tokenizer)
    reference: dict[str, NDArray] = {}
    for one in compared:
        on_start(one)
        job = TextsJob(one.model, one.engine, texts, tokens, number, seed)
        figures, arrays = write_texts(job, reference.get("on"))
        if "error" in figures and not reference:
            raise ModelFileError(figures["error"])
        reference = reference or arrays
        yield _agreement(one, checkpoint, job, reference, figures, arrays)


def _agreement(
    one: Implementation,
    checkpoint: Checkpoint,
    job: TextsJob,
    reference: Mapping[str, NDArray],
    figures: Mapping[str, Any],
    arrays: Mapping[str, NDArray],
) -> Agreement:
    source = Path(one.model).name
    if "error" in figures:
        return Agreement(one.name, source, error=figures["error"])
    try:
        distance: dict[str, Any] = measure_agreement(arrays, reference)
    except ModelFileError as error:
        return Agreement(one.name, source, error=str(error))
    measured = {key: value for key, value in figures.items() if key not in ("engine", "digest")}
    return Agreement(
        one.engine or figures["engine"],
        source,
        divergences=_divergences(checkpoint, job, reference["sampled"], arrays["sampled"]),
        remark=None if figures["digest"] == checkpoint.digest else OTHER_CHECKPOINT,
        **distance,
        **measured,
    )


def _divergences(checkpoint: Checkpoint, job: TextsJob, expected: NDArray, got: NDArray) -> tuple[Divergence, ...]:
    """Return where sampled texts (rows, N) of ``got`` first differ from the reference's."""
    if np.array_equal(expected, got):
        return ()
    reference = make_model(checkpoint, REFERENCE_ENGINE)
    ids = [ids for prompt in job.prompts for ids in [prompt_tokens(checkpoint.tokenizer, prompt)] * job.number]
    config = SamplingConfig(seed=job.seed)
    return tuple(first_divergences(reference, ids, np.arange(len(ids)), expected, got, config))
