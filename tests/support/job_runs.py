"""Jobs for tests: rows, complete runs and interrupted runs."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import models
import numpy as np

from unrolled.engine.models.step_contract import StepModel
from unrolled.runtime import GenerationConfig
from unrolled.runtime.jobs.runner import Job, Progress, run_job

LANES = 2  # blocks of 64 rows
CONFIG = GenerationConfig(max_new_tokens=6, stop=("b",), seed=5)


def prompts(count: int, seed: int = 3) -> list[dict[str, Any]]:
    """Return rows of different lengths, some with settings of their own."""
    rng = np.random.default_rng(seed)
    made: list[dict[str, Any]] = []
    for i in range(count):
        letters = rng.integers(0, models.V, rng.integers(1, 9))
        made.append({"id": f"r{i}", "prompt": "".join(chr(ord("a") + letter) for letter in letters)})
        if i % 7 == 0:
            made[-1]["temperature"] = 0.5
    return made


def write_input(folder: Path, rows: list[Any], name: str = "in.jsonl") -> str:
    path = folder / name
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return str(path)


def mixed(count: int) -> list[Any]:
    """Return rows with bad ones among them, also at both ends."""
    rows: list[Any] = prompts(count)
    for place, bad in ((0, "{"), (count // 2, {"prompt": "Ω"}), (count // 2 + 1, {"id": 1, "prompt": "a", "top_p": 2})):
        rows.insert(place, bad)
    return [*rows, {"id": "last"}]


def records(path: str | Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]


def is_complete(output: Path) -> bool:
    """Return whether the job file has digests of whole blocks only, and is marked complete."""
    _, _, rest = Path(f"{output}.job").read_bytes().partition(b"\n}\n")
    return re.fullmatch(rb"([0-9a-f]{64}\n)*complete\n", rest) is not None


def done(model: StepModel, folder: Path, rows: list[Any], name: str = "out.jsonl", **settings: Any) -> Path:
    """Run a job without interruption, and return its output."""
    output = folder / name
    run_job(model, Job(write_input(folder, rows), str(output), **{"lanes": LANES, **settings}), CONFIG)
    return output


class Stop:
    """Observer that interrupts the job, as Ctrl-C would, after a number of rows."""

    def __init__(self, rows: int) -> None:
        self.rows = rows

    def __call__(self, progress: Progress) -> None:
        if progress.rows >= self.rows and not progress.interrupted:
            raise KeyboardInterrupt


def interrupted(model: StepModel, folder: Path, rows: list[Any], at: int, **settings: Any) -> tuple[Path, Job]:
    """Run a job that is interrupted after ``at`` rows; return its output and the job."""
    output = folder / "part.jsonl"
    source = write_input(folder, rows)
    job = Job(source, str(output), lanes=LANES, resume=True, **settings)
    assert run_job(model, job, CONFIG, Stop(at)).interrupted
    return output, job
