"""Describe a job: what is asked for, how far it is, and what identifies it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from unrolled.engine.canonical import canonical, described
from unrolled.engine.checks import check_choice
from unrolled.engine.data.readers.table_format import TableFormat
from unrolled.engine.errors import ConfigError
from unrolled.engine.network.backends import FLOAT32
from unrolled.engine.sampling.rules import check_whole
from unrolled.export.artifact.weight_storage import WeightStorage
from unrolled.runtime.generation.requests.config import GenerationConfig
from unrolled.runtime.generation.requests.row_settings import MAX_PROMPT_TOKENS
from unrolled.runtime.jobs.job_file import FORMAT
from unrolled.runtime.jobs.prompt_files import PROMPT_FORMATS, PromptFile
from unrolled.runtime.jobs.result_files import STDOUT


@dataclass(frozen=True)
class Job:
    """Describe what is read and written, and how.

    Args:
        input: a file of prompts, or "-" for standard input.
        output: a file of results, or "-" for standard output.
        format: of the input, one of ``PROMPT_FORMATS``; None: the one of its ending.
        lanes: texts that are written side by side.
        shard: (I, N): only the rows whose index leaves I when divided by N.
        token_ids: say also which tokens were drawn.
        max_prompt_tokens: a longer prompt cannot be served.
        precision: of the model's products, so that a job is not resumed with another.
        strict: end with an error at the first row that cannot be served, after the results of those before it.
        resume: go on with what an earlier process left.
        overwrite: begin anew though the output exists.
        table: how the input is written, if it is CSV or TSV.
        keep_columns: carry columns and fields that are neither id, prompt nor a setting to the results.
    """

    input: str
    output: str = STDOUT
    format: str | None = None
    lanes: int = 256
    shard: tuple[int, int] = (0, 1)
    token_ids: bool = False
    max_prompt_tokens: int = MAX_PROMPT_TOKENS
    precision: str = FLOAT32
    strict: bool = False
    resume: bool = False
    overwrite: bool = False
    table: TableFormat = field(default_factory=TableFormat)
    keep_columns: bool = False

    def __post_init__(self) -> None:
        if self.format is not None:
            check_choice("format", self.format, PROMPT_FORMATS)
        check_whole("lanes", self.lanes, 1)
        check_whole("max_prompt_tokens", self.max_prompt_tokens, 1)
        which, of = self.shard
        check_whole("shard", of, 1)
        check_whole("shard", which, 0, of - 1)
        if self.resume and self.overwrite:
            raise ConfigError("resume, overwrite: one goes on, the other begins anew; say one of them")


@dataclass
class Progress:
    """Count how far a job is."""

    rows: int = 0  # that are over, of this shard, those kept from before included
    errors: int = 0  # of the rows, those that cannot be served or one of whose texts cannot be written to its end
    kept: int = 0  # of the rows
    texts: int = 0  # written by this process, errors not counted
    tokens: int = 0  # of them
    seconds: float = 0.0
    total: int | None = None  # rows, about; None where that is not known
    interrupted: bool = False
    complete: bool = False  # whether there was nothing left to do
    blank_lines: int = 0  # of the input, passed over
    quoted: int = 0  # prompts of the input that stand in quotes, because a TSV has no quoting


Observer = Callable[[Progress], None]


def _weights_text(weights: WeightStorage | None) -> str:
    """Return how an ONNX file holds its weights as the text that 0.1.0 wrote, later fields only where they are used."""
    if weights is None:
        return "None"
    return f"Weights({', '.join(f'{name}={value!r}' for name, value in canonical(WeightStorage, weights._asdict()).items())})"


def identity(model: Any, job: Job, config: GenerationConfig, prompts: PromptFile) -> dict[str, Any]:
    """Return all that decides what a job writes, besides what is in the input.

    What 0.1.0 did not have is there only where it is used.
    """
    # 0.1.0 read every table with CSV's quotes: its jobs have no key for that, and rows that differ have other digests
    table = {name: value for name, value in asdict(job.table).items() if value not in (None, "csv", True)}
    return {
        **FORMAT,
        "model": model.digest,
        "engine": model.engine,
        "form": getattr(model, "form", None),  # of an ONNX file, like the next
        "weights": _weights_text(getattr(model, "weights", None)),
        "input": prompts.name,
        "format": prompts.format,
        **({"table": table} if table else {}),
        **({"keep_columns": True} if job.keep_columns else {}),
        **{name: getattr(job, name) for name in ("lanes", "shard", "token_ids", "max_prompt_tokens", "precision")},
        "settings": described(replace(config, batch_size=1)),  # the lanes stand in its place
    }
