"""Generation for batches of columns, as Ray Data, pandas, Spark and the like call it in processes of their own."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unrolled.engine.checks import EXACT_LIMIT, check_choice, check_whole
from unrolled.engine.errors import ConfigError, NothingLeftError, UnrolledError
from unrolled.engine.models.step_contract import StepModel
from unrolled.engine.network.backends import FLOAT32
from unrolled.engine.storage.checkpoint import resolve_model_file
from unrolled.runtime.generation.requests.config import GenerationConfig
from unrolled.runtime.generation.requests.generation import NOTHING_LEFT, Generation
from unrolled.runtime.generation.requests.request import Request, resolve
from unrolled.runtime.generation.requests.row_settings import (
    MAX_PROMPT_TOKENS,
    ROW_SETTINGS,
    make_config,
    row_requests,
    whole_number,
)
from unrolled.runtime.generation.scheduler.scheduler import write_rows
from unrolled.runtime.models.argument_checks import check_text, shown
from unrolled.runtime.models.engines import ENGINES
from unrolled.runtime.models.load import load_language_model

ColumnArrays = dict[str, NDArray[Any]]

# The models that this process has loaded, each with the stamp of its file.
_models: dict[tuple[str, str | None, str], tuple[object, StepModel]] = {}
_load_lock = threading.Lock()


def shared_model(path: str, engine: str | None = None, precision: str = FLOAT32) -> StepModel:
    """Return the model of a file, loaded once a process, and again when the file was replaced; safe for threads.

    Raises:
        ModelFileError, ConfigError, MissingDependencyError: as for ``load``.
    """
    file = resolve_model_file(path)
    status = file.stat()
    # A copy may keep the time, and another training may write a file of the same size.
    stamp = (str(file), status.st_ino, status.st_ctime_ns, status.st_mtime_ns, status.st_size)
    with _load_lock:
        known = _models.get((path, engine, precision))
        if known is None or known[0] != stamp:
            known = _models[path, engine, precision] = stamp, load_language_model(path, engine, precision)
        return known[1]


class BatchGenerator:
    """A callable that adds texts to batches of columns; its pickle is small, and the process that calls it loads the model.

        write = BatchGenerator("model.onnx", index_column="row", temperature=0.7, seed=1)
        batch = write({"prompt": np.array(["Once ", "The "]), "row": np.array([0, 1])})
        batch["text"]

    A batch is a dictionary of arrays (n,), or a table such as a pandas DataFrame. The result has its columns, and

        text            str
        finish_reason   as of ``Generation``, or "error"
        tokens          the number of tokens, int64
        error           the reason why the row cannot be served, or its settings leave its text no next token; else ""
        logprobs        lists of float, on request
        sample          the number of the text among those of its prompt, int64, if ``num_return_sequences`` is above 1:
                        each row is then repeated as often

    Columns with the name of a setting hold settings of their rows; None and NaN mean that it is not given. A text depends on
    its prompt, settings and index, and on nothing else of the batch; without ``index_column`` the index is the position in
    the batch, so batches of other sizes give other texts.

    Args:
        model_path: a model file or run folder that every process can read.
        engine: the engine of a checkpoint; None as for ``load``.
        prompt_column: the column of the prompts.
        index_column: the column of the rows' indices, whole numbers from 0; row i of a file has i.
        lanes: the most texts that are written side by side.
        precision: as for ``load``.
        max_prompt_tokens: a longer prompt cannot be served.
        strict: raise an error for a row that cannot be served, or a text without a next token.
        settings: those of ``GenerationConfig``, for all rows.

    Raises:
        ConfigError: a setting is unknown or out of its range.
    """

    def __init__(
        self,
        model_path: str | Path,
        engine: str | None = None,
        prompt_column: str = "prompt",
        index_column: str | None = None,
        lanes: int = 256,
        precision: str = FLOAT32,
        max_prompt_tokens: int = MAX_PROMPT_TOKENS,
        strict: bool = False,
        **settings: Any,
    ) -> None:
        if engine is not None:
            check_choice("engine", engine, ENGINES)
        if not isinstance(model_path, str | os.PathLike):
            raise ConfigError(
                f"model_path: got {shown(model_path)}, needs the path of a model, which each process loads by itself"
            )
        check_whole("lanes", lanes, 1)
        check_whole("max_prompt_tokens", max_prompt_tokens, 1)
        self.model_path, self.engine, self.precision = str(model_path), engine, precision
        self.prompt_column, self.index_column = prompt_column, index_column
        self.lanes, self.max_prompt_tokens, self.strict = lanes, max_prompt_tokens, strict
        self.config = make_config(settings)

    def __repr__(self) -> str:
        return f"BatchGenerator({self.model_path!r}, engine={self.engine!r}, {asdict(self.config)})"

    def __call__(self, batch: Mapping[str, Any]) -> ColumnArrays:
        """Return the batch with its texts.

        Raises:
            ConfigError: there is no prompt column, the columns differ in length, an index is not a whole number, or the
                batch is neither a dictionary nor a table with such keys.
            UnrolledError: a row cannot be served, and ``strict``; or no row can, as the settings do not fit the model.
            NothingLeftError: the settings leave no token for the text of this index, and ``strict``.
            ModelFileError: the model cannot be loaded.
        """
        try:
            names = list(batch.keys())
        except AttributeError as error:  # for instance an Arrow table, whose gaps turn whole numbers into floats
            raise ConfigError(
                f"batch: got {shown(batch)}, needs a dictionary of columns or a pandas DataFrame; "
                'in Ray, map_batches(…, batch_format="numpy")'
            ) from error
        columns = {name: _column(batch[name]) for name in names}
        count = self._check(columns)
        if count == 0:
            return self._with_texts(columns, [], [])
        model = shared_model(self.model_path, self.engine, self.precision)
        requests, errors = self._requests(model, resolve(model, self.config), columns, count)
        return self._with_texts(columns, errors, self._write(model, requests))

    def _write(self, model: StepModel, requests: list[Request]) -> list[Generation | str]:
        """Return the texts, or for each the reason why it cannot be completed."""
        written: list[Generation | str] = []
        for request, text in zip(requests, write_rows(model, requests, self.lanes), strict=True):
            if text.finish_reason != NOTHING_LEFT:
                written.append(text)
                continue
            error = NothingLeftError(request.config.rules.extras, (text.index,))
            if self.strict:
                raise error
            written.append(str(error))
        return written

    @property
    def _added(self) -> tuple[str, ...]:
        """Return the names of the columns that are added."""
        sample = ("sample",) if self.config.num_return_sequences > 1 else ()
        logprobs = ("logprobs",) if self.config.logprobs else ()
        return (*sample, "text", "finish_reason", "tokens", "error", *logprobs)

    def _check(self, columns: ColumnArrays) -> int:
        """Check the columns, and return the number of rows."""
        for name in (self.prompt_column, *([self.index_column] if self.index_column else [])):
            if name not in columns:
                raise ConfigError(f"batch: no column {name!r}; there are {', '.join(columns) or 'none'}")
        if taken := [name for name in self._added if name in columns]:
            raise ConfigError(f"batch: a column {taken[0]!r} is there already; rename it, as one of that name is added")
        lengths = {name: len(column) if column.ndim else None for name, column in columns.items()}
        if len(set(lengths.values())) > 1 or None in lengths.values():
            raise ConfigError(f"batch: the columns need one length each; they have {lengths}")
        return len(columns[self.prompt_column])

    def _requests(
        self, model: StepModel, config: GenerationConfig, columns: ColumnArrays, count: int
    ) -> tuple[list[Request], list[str]]:
        """Return requests for all texts of the rows that can be served, and for each row why it cannot be served, or ""."""
        prompts = columns[self.prompt_column].tolist()
        indices = columns[self.index_column].tolist() if self.index_column else range(count)
        own = (self.prompt_column, self.index_column)
        settings = {name: columns[name] for name in ROW_SETTINGS if name in columns and name not in own}
        requests: list[Request] = []
        errors = [""] * count
        for i, (prompt, index) in enumerate(zip(prompts, indices, strict=True)):
            overrides = {name: column[i] for name, column in settings.items()}
            try:
                requests += self._row(model, config, prompt, index, overrides)
            except UnrolledError as error:
                if self.strict:
                    raise
                errors[i] = str(error)
        return requests, errors

    def _row(
        self, model: StepModel, config: GenerationConfig, prompt: Any, index: Any, overrides: dict[str, Any]
    ) -> list[Request]:
        """Return the requests of one row, checked."""
        check_text("prompt", prompt)
        index = whole_number(index)
        check_whole("index", index, 0, (2**63 - 1) // config.num_return_sequences)
        return row_requests(model, prompt, index, config, overrides, self.max_prompt_tokens)

    def _with_texts(self, columns: ColumnArrays, errors: list[str], written: list[Generation | str]) -> ColumnArrays:
        """Return the columns, each row repeated once a text, with the texts and their columns."""
        repeats = self.config.num_return_sequences
        waiting = iter(written)
        found: list[Generation | str] = []
        for error in errors:
            found += [error] * repeats if error else [next(waiting) for _ in range(repeats)]
        rows = [None if isinstance(one, str) else one for one in found]
        made = {name: np.repeat(column, repeats, axis=0) for name, column in columns.items()}
        if "sample" in self._added:
            made["sample"] = np.tile(np.arange(repeats), len(errors))
        made["text"] = _objects([row.text if row else "" for row in rows])
        made["finish_reason"] = _objects([row.finish_reason if row else "error" for row in rows])
        made["tokens"] = np.array([len(row.tokens) if row else 0 for row in rows], np.int64)
        made["error"] = _objects([one if isinstance(one, str) else "" for one in found])
        if "logprobs" in self._added:
            made["logprobs"] = _objects([list(row.logprobs or ()) if row else [] for row in rows])
        return made


def _column(values: Any) -> NDArray[Any]:
    """Return an array (n,) of a column, with all digits of its whole numbers.

    NumPy makes float64 of a list with 5 and 2⁶³, which rounds both; such a list becomes an array of Python's integers.
    """
    array = np.asarray(values)
    if array.dtype.kind != "f" or not isinstance(values, list | tuple):
        return array
    rounded = any(isinstance(value, int | np.integer) and abs(int(value)) >= EXACT_LIMIT for value in values)
    return _objects(list(values)) if rounded else array


def _objects(values: list[Any]) -> NDArray[np.object_]:
    """Return an array (n,) of Python objects, which may be lists."""
    array = np.empty(len(values), object)
    array[:] = values
    return array
