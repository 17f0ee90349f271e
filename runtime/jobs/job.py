"""Settings, progress and identity of a job."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from typing import Annotated, Any

from unrolled.engine.canonical import canonical, canonical_settings
from unrolled.engine.checks import check_whole
from unrolled.engine.data.readers.table_format import TableFormat
from unrolled.engine.errors import ConfigError
from unrolled.engine.models.step_contract import StepModel
from unrolled.engine.network.backends import FLOAT32
from unrolled.engine.settings import COUNT, JOBS_PANEL, Setting, Typed, check_settings
from unrolled.export.artifact.weight_storage import WeightStorage
from unrolled.runtime.generation.requests.config import GenerationConfig
from unrolled.runtime.generation.requests.row_settings import MAX_PROMPT_TOKENS
from unrolled.runtime.jobs.job_file import JOB_FORMAT
from unrolled.runtime.jobs.prompt_files import PromptFile
from unrolled.runtime.jobs.prompt_readers import ENDINGS, PROMPT_FORMATS
from unrolled.runtime.jobs.result_files import STDOUT
from unrolled.runtime.models.onnx_model import OnnxModel


def parse_shard(text: str) -> tuple[int, int]:
    """Return the two numbers of "I/N".

    Raises:
        ConfigError: the text has another form.
    """
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if match is None:
        raise ConfigError(f"shard: got {text!r}, needs I/N with I from 0 to N - 1, for instance 0/4")
    return int(match[1]), int(match[2])


@dataclass(frozen=True)
class Job:
    """Settings of a job: its input, its output, and how rows are served.

    Args:
        input: a file of prompts, or "-" for standard input.
        output: a file of results, or "-" for standard output.
        format: format of the input, a key of ``PROMPT_FORMATS``; None: taken from its ending.
        lanes: number of texts that are generated side by side.
        shard: (I, N): serve only the rows whose index is I modulo N.
        token_ids: add the ids of the drawn tokens to the results.
        max_prompt_tokens: maximal length of a prompt; a longer one becomes an error record.
        precision: precision of the model's products, so that a job is not resumed with another one.
        strict: stop with an error at the first row that cannot be served, after the results of the rows before it.
        resume: continue the output of an earlier process.
        overwrite: start a new output even if one exists.
        table: delimiter, quoting and header of a CSV or TSV input.
        keep_columns: carry columns and fields that are neither id, prompt nor a setting to the results.
    """

    input: Annotated[
        str,
        Setting(
            "input",
            f"Prompts: {', '.join(ENDINGS)}, each also .gz or .zst, or - for standard input. "
            "Fields beside prompt and id are settings of the row; others need --keep-columns. Not with beams.",
            JOBS_PANEL,
            flags=("--input", "-i"),
            metavar="FILE",
        ),
    ]
    output: Annotated[
        str,
        Setting(
            "output",
            "Results, a JSON object a line; - is standard output.",
            JOBS_PANEL,
            flags=("--output", "-o"),
            metavar="FILE",
        ),
    ] = STDOUT
    format: Annotated[
        str | None,
        Setting(
            "format",
            "Of the input.",
            JOBS_PANEL,
            choices=PROMPT_FORMATS,
            default="by its ending; of standard input jsonl",
        ),
    ] = None
    lanes: Annotated[int, Setting("lanes", "Texts written side by side.", JOBS_PANEL, COUNT)] = 256
    shard: Annotated[
        tuple[int, int],
        Setting(
            "shard",
            "Only the rows whose number from 0 leaves I when divided by N; the texts are those of the whole.",
            JOBS_PANEL,
            typed=Typed(str, parse_shard, lambda shard: "/".join(map(str, shard))),
            metavar="I/N",
        ),
    ] = (0, 1)
    token_ids: Annotated[
        bool, Setting("token_ids", "Also say which tokens were drawn.", JOBS_PANEL, flags=("--token-ids",))
    ] = False
    max_prompt_tokens: Annotated[
        int, Setting("max_prompt_tokens", "A row with a longer prompt becomes an error record.", JOBS_PANEL, COUNT)
    ] = MAX_PROMPT_TOKENS
    precision: str = FLOAT32
    strict: Annotated[
        bool,
        Setting(
            "strict",
            "End at the first row that cannot be served, exit code 2.",
            JOBS_PANEL,
            flags=("--strict",),
        ),
    ] = False
    resume: Annotated[
        bool, Setting("resume", "Go on where an earlier run stopped, or begin.", JOBS_PANEL, flags=("--resume",))
    ] = False
    overwrite: Annotated[
        bool, Setting("overwrite", "Begin anew though the output exists.", JOBS_PANEL, flags=("--overwrite",))
    ] = False
    table: TableFormat = field(default_factory=TableFormat)
    keep_columns: Annotated[
        bool,
        Setting(
            "keep_columns",
            "Carry columns and fields that are neither id, prompt nor a setting to the results.",
            JOBS_PANEL,
            flags=("--keep-columns",),
        ),
    ] = False

    def __post_init__(self) -> None:
        check_settings(self)
        which, of = self.shard
        check_whole("shard", of, 1)
        check_whole("shard", which, 0, of - 1)
        if self.resume and self.overwrite:
            raise ConfigError("resume, overwrite: one goes on, the other begins anew; say one of them")


@dataclass
class Progress:
    """Counters of a running job."""

    rows: int = 0  # finished rows of this shard, including those kept from an earlier process
    errors: int = 0  # finished rows that cannot be served, or one of whose texts cannot be finished
    kept: int = 0  # finished rows from an earlier process
    texts: int = 0  # texts that this process wrote, without errors
    tokens: int = 0  # tokens of these texts
    seconds: float = 0.0
    total: int | None = None  # approximate number of rows; None if unknown
    interrupted: bool = False
    complete: bool = False  # an earlier process had finished the job
    blank_lines: int = 0  # blank lines of the input, skipped
    quoted: int = 0  # prompts whose quotes are part of them, because a TSV has no quoting


JobObserver = Callable[[Progress], None]


def _weights_text(weights: WeightStorage | None) -> str:
    """Return how an ONNX file stores its weights, in the notation of 0.1.0; later fields only if they are in use."""
    if weights is None:
        return "None"
    return f"Weights({', '.join(f'{name}={value!r}' for name, value in canonical(WeightStorage, weights._asdict()).items())})"


def identity(model: StepModel, job: Job, config: GenerationConfig, prompts: PromptFile) -> dict[str, Any]:
    """Return everything that decides a job's results, besides the rows of the input.

    Keys that 0.1.0 did not write are present only if their settings are in use.
    """
    # 0.1.0 read every table with CSV quoting: its jobs have no key for it, and rows that differ have other digests.
    table = {name: value for name, value in asdict(job.table).items() if value not in (None, "csv", True)}
    exported = model if isinstance(model, OnnxModel) else None
    return {
        **JOB_FORMAT,
        "model": model.digest,
        "engine": model.engine,
        "form": None if exported is None else exported.form,
        "weights": _weights_text(None if exported is None else exported.weights),
        "input": prompts.name,
        "format": prompts.format,
        **({"table": table} if table else {}),
        **({"keep_columns": True} if job.keep_columns else {}),
        "lanes": job.lanes,
        "shard": job.shard,
        "token_ids": job.token_ids,
        "max_prompt_tokens": job.max_prompt_tokens,
        "precision": job.precision,
        # batch_size has no effect on a job, whose lanes are compared instead.
        "settings": canonical_settings(replace(config, batch_size=1)),
    }
