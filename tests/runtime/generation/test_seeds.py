"""Whole numbers of rows keep all their digits: 64-bit seeds side by side, from files and tables, on every engine."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import models
import numpy as np
import pytest

from unrolled.engine.errors import ConfigError
from unrolled.engine.models.draw_settings import GREEDY, SETTING_DTYPES, DrawSettings
from unrolled.engine.models.step_contract import StepModel
from unrolled.engine.storage.checkpoint import save_checkpoint
from unrolled.runtime import load
from unrolled.runtime.generation import batch_generator
from unrolled.runtime.generation.batch_generator import BatchGenerator
from unrolled.runtime.generation.requests.config import GenerationConfig
from unrolled.runtime.generation.requests.prompts import prompt_tokens
from unrolled.runtime.generation.requests.request import Request
from unrolled.runtime.generation.scheduler.scheduler import write_rows
from unrolled.runtime.jobs.runner import Job, run_job
from unrolled.runtime.models.engines import ENGINES, make_model
from unrolled.runtime.models.onnx_model import open_checkpoint

SEEDS = (0, 2**53 - 1, 2**53, 2**53 + 1, 2**63 - 1, 2**63, 2**63 + 1, 12301807997281171527, 2**64 - 2, 2**64 - 1)
FORMS = ("generate", "both")
CONFIG = GenerationConfig(max_new_tokens=12)


def make(engine: str) -> StepModel:
    if engine.startswith("torch"):
        pytest.importorskip("torch")
    checkpoint = models.checkpoint("gru", 1, hidden_size=12)
    return open_checkpoint(checkpoint, engine) if engine in FORMS else make_model(checkpoint, engine)


def ask(model: StepModel, configs: list[GenerationConfig]) -> list[Request]:
    """Return a row of each config; all have one prompt and one index, so that only settings part them."""
    return [Request("ab", prompt_tokens(model.tokenizer, "ab"), 7, config) for config in configs]


def rows_apart(model: StepModel, configs: list[GenerationConfig]) -> None:
    """Assert that rows side by side, in few slots and in many, are what each is alone."""
    requests = ask(model, configs)
    alone = [next(iter(write_rows(model, [request], 1))).tokens for request in requests]
    for slots in (4, 32):  # with fewer than 16, prompts are read ahead
        assert [text.tokens for text in write_rows(model, requests, slots)] == alone


@pytest.mark.parametrize("engine", [*ENGINES, *FORMS])
def test_a_row_with_a_large_seed_is_what_it_is_alone(engine: str) -> None:
    model = make(engine)
    rows_apart(model, [replace(CONFIG, seed=seed) for seed in SEEDS])
    texts = list(write_rows(model, ask(model, [replace(CONFIG, seed=seed) for seed in SEEDS]), 32))
    assert len({text.tokens for text in texts}) == len(SEEDS)
    reference = make("numpy")
    assert [t.tokens for t in texts] == [
        t.tokens for t in write_rows(reference, ask(reference, [replace(CONFIG, seed=seed) for seed in SEEDS]), 1)
    ]


@pytest.mark.parametrize("engine", [*ENGINES, *FORMS])
def test_numbers_of_other_settings_keep_their_digits_beside_others(engine: str) -> None:
    """Settings whose list NumPy would give another dtype: whole beside broken numbers, tiny beside huge ones."""
    most = 2**63 - 1
    rows_apart(
        make(engine),
        [
            *(replace(CONFIG, top_k=k, seed=2**64 - 1) for k in (0, 2, most - 1, most)),
            *(replace(CONFIG, temperature=t, seed=2**53 + 1) for t in (1, 0.7, 10**30, np.float32(0.3))),
            *(replace(CONFIG, top_p=p, seed=1) for p in (0, 1, 0.5)),
            replace(CONFIG, max_new_tokens=most, stop=("a", "b", "c")),
            replace(CONFIG, do_sample=False, seed=2**63),
        ],
    )


def test_numbers_of_other_types_become_those_of_python() -> None:
    bias = [("a", np.float32(0.5)), (np.array([1, 2]).tolist(), 2**70)]
    config = GenerationConfig(
        seed=np.uint64(2**64 - 1), sequence_bias=tuple(bias), suppress_tokens=(np.int64(3),), bad_words=((np.int64(2),),)
    )  # fmt: skip
    assert (config.seed, config.sequence_bias[0]) == (2**64 - 1, ("a", 0.5))  # type: ignore[index]
    assert json.loads(json.dumps([config.seed, config.sequence_bias, config.suppress_tokens, config.bad_words])) == [
        *(2**64 - 1, [["a", 0.5], [[1, 2], 2**70]], [3], [[2]])
    ]


def test_alarm_an_array_of_mixed_seeds_without_a_dtype_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def rounded(settings: DrawSettings) -> DrawSettings:
        pairs = zip(settings, SETTING_DTYPES, strict=True)
        return DrawSettings(*(np.array(values).astype(dtype) for values, dtype in pairs))

    monkeypatch.setattr(DrawSettings, "as_arrays", rounded)
    with pytest.raises(AssertionError):
        rows_apart(make("numba"), [replace(CONFIG, seed=seed) for seed in SEEDS])


@pytest.mark.parametrize("rows", [[], [GREEDY], [GREEDY, DrawSettings(True, 1, 2**63 - 1, 0, 2**64 - 1)]])
def test_settings_of_rows_have_the_dtypes_of_the_contract(rows: list[DrawSettings]) -> None:
    stacked = DrawSettings.stack(rows)
    twice = DrawSettings.concatenate([stacked, stacked.take(np.arange(len(rows)))])
    assert [column.dtype for column in stacked] == [column.dtype for column in twice] == list(SETTING_DTYPES)
    assert list(zip(*(column.tolist() for column in twice), strict=True)) == [*rows, *rows]


# Files and tables.


@pytest.fixture
def path(tmp_path: Path) -> str:
    file = tmp_path / "model.safetensors"
    save_checkpoint(file, models.checkpoint("gru", 1, hidden_size=12))
    return str(file)


def alone(path: str, index: int, seed: int) -> str:
    model = load(path, "numpy")
    request = Request("ab", prompt_tokens(model.tokenizer, "ab"), index, replace(CONFIG, seed=seed))
    return next(iter(write_rows(model, [request]))).text


ROUNDED = "may be rounded: write all of its digits"


def as_jsonl(seeds: list[str]) -> str:
    return "".join(f'{{"prompt": "ab", "seed": {seed}}}\n' for seed in seeds)


def as_csv(seeds: list[str]) -> str:
    return "prompt,seed\n" + "".join(f"ab,{seed}\n" for seed in seeds)


@pytest.mark.parametrize("engine", ["numpy", "numba", "onnxruntime"])
@pytest.mark.parametrize(("name", "write"), [("in.jsonl", as_jsonl), ("in.csv", as_csv)])
def test_seeds_of_a_file_keep_their_digits_or_are_refused(
    engine: str, name: str, write: Callable[[list[str]], str], path: str, tmp_path: Path
) -> None:
    """``{"prompt": …, "seed": 12301807997281171527}`` beside a row without a seed, and numbers that a parser rounds."""
    rounded = ["1.2301807997281171527e19", "1.2e19", "9007199254740993.0"]
    source, output = tmp_path / name, tmp_path / "out.jsonl"
    source.write_text(write([*map(str, SEEDS), "null", "5.0", "1e3", *rounded]))
    run_job(load(path, engine), Job(str(source), str(output), lanes=32), CONFIG)
    got = [json.loads(line) for line in output.read_text().splitlines()]
    wanted = [*SEEDS, 0, 5, 1000]
    texts = [record["text"] for record in got[: len(wanted)]]
    assert texts == [alone(path, i, seed) for i, seed in enumerate(wanted)]
    assert [ROUNDED in record["error"] for record in got[len(wanted) :]] == [True] * 3


@pytest.mark.parametrize("engine", ["numpy", "numba", "onnxruntime"])
def test_seeds_of_columns_keep_their_digits(engine: str, path: str) -> None:
    """A list in which NumPy would round, arrays of each type that holds them, and gaps."""
    n = len(SEEDS)
    wanted = [alone(path, i, seed) for i, seed in enumerate(SEEDS)]
    generator = BatchGenerator(path, engine, max_new_tokens=12)
    for column in (list(SEEDS), np.array(SEEDS, np.uint64), np.array(SEEDS, object), tuple(SEEDS)):
        got = generator({"prompt": ["ab"] * n, "seed": column})
        assert got["text"].tolist() == wanted
        assert got["seed"].tolist() == list(SEEDS)
    for gap in (None, float("nan"), NotAvailable()):
        got = generator({"prompt": ["ab"] * (n + 1), "seed": [*SEEDS, gap]})
        assert got["text"].tolist() == [*wanted, alone(path, n, 0)]


class NotAvailable:
    """A missing value that is neither equal to itself nor different, as pandas.NA."""

    def __ne__(self, other: object) -> Any:
        return self

    __hash__ = None  # type: ignore[assignment]

    def __bool__(self) -> bool:
        raise TypeError("boolean value of NA is ambiguous")


def test_a_column_that_gaps_made_floats_is_refused_where_it_may_be_rounded(path: str) -> None:
    generator = BatchGenerator(path, "numpy", index_column="i", max_new_tokens=12)
    seeds = np.array([5, np.nan, 2**53 - 1, 2**53, 2**53 + 1, 2**64 - 1])
    got = generator({"prompt": ["ab"] * 6, "seed": seeds, "i": np.arange(6)})
    assert [ROUNDED in error for error in got["error"]] == [False] * 3 + [True] * 3
    assert got["text"].tolist()[:3] == [alone(path, i, seed) for i, seed in enumerate((5, 0, 2**53 - 1))]
    got = generator({"prompt": ["ab"] * 2, "i": np.array([3.0, 2.0**53])})
    assert ["index: got" in error and ROUNDED in error for error in got["error"]] == [False, True]
    with pytest.raises(ConfigError, match=ROUNDED):
        BatchGenerator(path, seed=1.2e19)


def test_a_batch_that_is_no_dictionary_of_columns_is_refused(path: str) -> None:
    batch: Any = [{"prompt": "ab"}]
    with pytest.raises(ConfigError, match=r"batch: got a list, needs a dictionary of columns or a pandas DataFrame"):
        BatchGenerator(path, "numpy")(batch)


def test_alarm_a_list_that_numpy_rounds_is_noticed(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_generator, "_column", np.asarray)
    got = BatchGenerator(path, "numpy", max_new_tokens=12)({"prompt": ["ab"] * 2, "seed": [2**64 - 1, 5]})
    assert [ROUNDED in error for error in got["error"]] == [True, False]
