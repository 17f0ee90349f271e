"""Hold exported ONNX files against the NumPy engine in every runtime: which form and storage runs where, and how near.

Each runtime has a process of its own, in an interpreter or npm package that need not be those of this one.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from unrolled.engine.errors import ConfigError, UnrolledError
from unrolled.engine.models.config import ModelConfig
from unrolled.engine.models.parameters import initial_params
from unrolled.engine.models.step_contract import pad_prompts, zero_state
from unrolled.engine.network.language_model import LanguageModel
from unrolled.engine.sampling import philox
from unrolled.engine.sampling.rules import SamplingConfig, choose
from unrolled.engine.storage.checkpoint import Checkpoint
from unrolled.engine.tokenizers.characters import CharTokenizer
from unrolled.export.artifact.metadata import FORMS
from unrolled.export.artifact.weight_storage import FLOAT32_STORAGE, INT8_STORAGE, NUMBER_FORMATS, as_restored
from unrolled.export.formats import export_model

HERE = Path(__file__).resolve().parent
HOSTS = HERE.parents[1] / "runtime" / "hosts"
# The evaluator's own RNN, GRU and LSTM ignore the lengths of prompts, and its RNN has no Relu.
OPERATORS = HERE.parents[1] / "tests" / "support" / "onnx_operators.py"
STORED = {name: FLOAT32_STORAGE._replace(storage=name) for name in NUMBER_FORMATS} | {"quantized": INT8_STORAGE}
PROMPTS = [[3, 1, 4, 1, 5], [9], [2, 6]]
STEPS = 48
SETTINGS = {
    "greedy": SamplingConfig(True, 1.0, 1, 1.0, 7),
    "sampled": SamplingConfig(True, 0.9, 0, 1.0, 7),
    "top-k": SamplingConfig(True, 0.8, 5, 1.0, 7),
    "top-p": SamplingConfig(True, 1.1, 0, 0.9, 7),
}


@dataclass(frozen=True)
class Runtime:
    """A runtime as the table names it.

    Args:
        worker: its name in ``graph_process.py``; empty: an npm package.
        package: the npm package, in a host's folder ``node_modules``.
        options: of OpenVINO.
    """

    title: str
    worker: str = ""
    package: str = ""
    options: dict[str, str] = field(default_factory=dict)


_UNQUANTIZED, _FLOAT32 = {"DYNAMIC_QUANTIZATION_GROUP_SIZE": "0"}, {"INFERENCE_PRECISION_HINT": "f32"}
_FIXED = {"fixed shapes": "yes"}  # of our worker: the shapes are those of the call, set before the model is compiled
RUNTIMES = (
    Runtime("onnxruntime", "onnxruntime"),
    Runtime("onnxruntime-node", package="node"),
    Runtime("onnxruntime-web", package="web"),
    Runtime("onnx, reference evaluator", "onnx"),
    Runtime("OpenVINO", "openvino"),
    Runtime("OpenVINO, DYNAMIC_QUANTIZATION_GROUP_SIZE=0", "openvino", options=_UNQUANTIZED),
    Runtime("OpenVINO, INFERENCE_PRECISION_HINT=f32", "openvino", options=_FLOAT32),
    Runtime("OpenVINO, both settings", "openvino", options=_UNQUANTIZED | _FLOAT32),
    Runtime("OpenVINO, both settings, fixed shapes", "openvino", options=_UNQUANTIZED | _FLOAT32 | _FIXED),
    Runtime("tract", "tract"),
)


def select_runtimes(only: str | None) -> list[Runtime]:
    """Return those whose title contains ``only``, in any case.

    Raises:
        ConfigError: none does.
    """
    chosen = [runtime for runtime in RUNTIMES if only is None or only.lower() in runtime.title.lower()]
    if not chosen:
        raise ConfigError(f"only: got {only!r}; there are {'; '.join(runtime.title for runtime in RUNTIMES)}")
    return chosen


class Finding(NamedTuple):
    """Report what one runtime made of one file.

    Args:
        logits: largest difference of a logit from the NumPy engine's, in forms that have logits.
        tokens: share of the written tokens up to each row's first difference, in forms that write; 1 is equality.
        error: why it did not run.
    """

    runtime: str
    version: str
    cell: str
    form: str
    storage: str
    logits: float | None = None
    tokens: float | None = None
    error: str | None = None


class _Gone(UnrolledError):
    """A runtime's process ended or is not installed."""


class _Process:
    """A runtime's process."""

    def __init__(self, runtime: Runtime, command: Sequence[str]) -> None:
        self._options = runtime.options
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        try:
            hello = self._answer()
            if "missing" in hello:
                raise _Gone(hello["missing"])
        except BaseException:
            self._end()
            raise
        self.version: str = hello["version"]

    def __enter__(self) -> _Process:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def _end(self) -> None:
        self._process.kill()
        self._process.communicate()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise _Gone(f"the process ended with code {self._process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def run(self, path: Path, form: str, inputs: list[dict[str, NDArray]]) -> list[dict[str, NDArray]] | str:
        """Return the outputs of each call, or the error."""
        job = {
            "path": str(path),
            "options": self._options,
            "inputs": [_plain(arrays) for arrays in inputs],
            "outputs": list(FORMS[form].outputs),
        }
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # what became of the process shows as it is asked for its answer
            self._process.stdin.write(json.dumps(job) + "\n")
            self._process.stdin.flush()
        answer = self._answer()
        if "error" in answer:
            return str(answer["error"])
        return [
            {name: np.array(v["data"], v["dtype"]).reshape(v["shape"]) for name, v in outputs.items()}
            for outputs in answer["outputs"]
        ]


def _plain(arrays: dict[str, NDArray]) -> dict[str, Any]:
    return {
        name: {"dtype": array.dtype.name, "shape": list(array.shape), "data": array.reshape(-1).tolist()}
        for name, array in arrays.items()
    }


def command_of(runtime: Runtime, python: str, hosts: Path) -> list[str]:
    """Return what starts the runtime's process.

    Raises:
        _Gone: its npm package is not installed.
    """
    if runtime.worker:
        operators = str(OPERATORS) if OPERATORS.exists() else ""
        return [python, str(HERE / "graph_process.py"), runtime.worker, operators]
    folder = hosts / runtime.package / "node_modules" / f"onnxruntime-{runtime.package}"
    if not folder.exists():
        raise _Gone(f"{folder} is not there: npm install in {folder.parents[1]}")
    return ["node", str(HERE / "graph_process.mjs"), str(folder)]


def model_of(cell: str) -> Checkpoint:
    """Return a seeded model whose logits spread as those of a trained one do."""
    config = ModelConfig(cell, 65, 48, 96, 2)
    params = {name: (2 * value).astype(np.float32) for name, value in initial_params(config, 1, np.float64).items()}
    params["output.weight"] *= 2
    return Checkpoint(config, params, CharTokenizer([chr(0x100 + token) for token in range(65)]), {})


class Expected(NamedTuple):
    """Hold inputs and outputs of one call of the NumPy engine."""

    inputs: dict[str, NDArray]
    outputs: dict[str, NDArray]


def expected_of(checkpoint: Checkpoint, form: str) -> list[Expected]:
    """Return calls of a form, with logits from the weights and tokens by the sampling rules."""
    model = LanguageModel(checkpoint.config, checkpoint.float32())
    tokens, lengths = pad_prompts(PROMPTS)
    state = zero_state(checkpoint.config, len(PROMPTS))
    logits, _ = model.step(tokens, state)
    step = {"tokens": tokens, "state": state}
    if form == "step":
        return [Expected(step, {"logits": logits})]
    calls = []
    for config in SETTINGS.values():
        u = philox.uniforms(config.seed, np.arange(len(PROMPTS)), np.arange(STEPS)[:, None])
        inputs = step | {"lengths": lengths, "uniforms": u, "end_token": np.array(-1)}
        inputs |= {name: np.array(getattr(config, name)) for name in ("temperature", "top_k", "top_p")}
        outputs = {"written": _written(model, config, u)}
        if form == "both":  # logits of padded steps are nobody's
            outputs["logits"] = np.where((np.arange(len(tokens))[:, None] < lengths)[..., None], logits, np.nan)
        calls.append(Expected(inputs, outputs))
    return calls


def _written(model: LanguageModel, config: SamplingConfig, u: NDArray) -> NDArray[np.int64]:
    rows = []
    for b, prompt in enumerate(PROMPTS):
        row: list[int] = []
        logits, state = model.step(np.array(prompt)[:, None], zero_state(model.config, 1))
        for step in range(STEPS):
            row.append(int(choose(logits[-1], config, u[step, b : b + 1])[0]))
            logits, state = model.step(np.array([row[-1:]]), state)
        rows.append(row)
    return np.array(rows).T


def compared(got: list[dict[str, NDArray]], expected: list[Expected]) -> dict[str, float | str]:
    """Return the figures of a ``Finding``."""
    worst: list[Any] = []
    equal: list[NDArray] = []
    for outputs, (_, wanted) in zip(got, expected, strict=True):
        for name, value in wanted.items():
            if outputs[name].shape != value.shape:
                return {"error": f"{name} has shape {outputs[name].shape}, must have {value.shape}"}
            if name == "written":
                equal.append(np.minimum.accumulate(outputs[name] == value))
            else:
                known = np.isfinite(value)
                worst.append(np.abs(outputs[name].astype(np.float64) - value)[known].max())
    figures: dict[str, float | str] = {}
    if worst:
        figures["logits"] = float(np.max(worst))  # NaN where one is
    if equal:
        figures["tokens"] = float(np.mean(equal))
    return figures


class _File(NamedTuple):
    """An exported file and what it has to say."""

    path: Path
    about: tuple[str, str, str]  # cell, form, storage
    expected: list[Expected]


def _export(folder: Path, cells: Sequence[str]) -> Iterator[_File]:
    for cell in cells:
        for form in FORMS:
            for storage, weights in STORED.items():
                checkpoint = model_of(cell)
                path = folder / f"{cell}-{form}-{storage}.onnx"
                export_model(checkpoint, path, "onnx", form, weights=weights)
                yield _File(path, (cell, form, storage), expected_of(as_restored(checkpoint, weights.storage), form))


def findings(
    folder: Path, python: str, hosts: Path, runtimes: Sequence[Runtime], cells: Sequence[str]
) -> Iterator[Finding]:
    """Export each form and storage of each cell to ``folder``, and run every file in every runtime.

    Args:
        python: the interpreter that has the Python packages of the runtimes.
        hosts: a folder with ``node`` and ``web``, in which npm installed onnxruntime's packages.
    """
    files = list(_export(folder, cells))
    for runtime in runtimes:
        left = list(files)
        while left:  # a process that dies of a file is started again for the next one
            try:
                with _Process(runtime, command_of(runtime, python, hosts)) as process:
                    yield from _findings(runtime, process, left)
            except _Gone as error:
                yield Finding(runtime.title, "", "", "", "", error=f"skipped: {error}")
                break


def _findings(runtime: Runtime, process: _Process, left: list[_File]) -> Iterator[Finding]:
    """Run the files that are left, and take them from the list, up to one of which the process dies."""
    while left:
        file = left.pop(0)
        about = (runtime.title, process.version, *file.about)
        try:
            got = process.run(file.path, file.about[1], [call.inputs for call in file.expected])
        except _Gone as error:
            yield Finding(*about, error=str(error))
            return
        figures: Any = {"error": got} if isinstance(got, str) else compared(got, file.expected)
        yield Finding(*about, **figures)


def table_of(found: Sequence[Finding]) -> list[list[str]]:
    """Return the rows of the table, its head first: runtime, form, and what became of each storage."""
    rows = [["runtime", "form", *STORED]]
    for title in dict.fromkeys(finding.runtime for finding in found):
        of = [finding for finding in found if finding.runtime == title]
        if not of[0].form:  # not installed
            rows.append([title, "skipped", *[""] * len(STORED)])
            continue
        for form in FORMS:
            cells = [_cell([one for one in of if (one.form, one.storage) == (form, storage)]) for storage in STORED]
            name, comma, setting = title.partition(",")
            rows.append([f"{name} {of[0].version}{comma}{setting}", form, *cells])
    return rows


FAR = 1000.0  # times the smallest difference: a cell that is as far off computes something else, and is named


def _cell(found: list[Finding]) -> str:
    """Return what all cells came to, and by name those that failed or are far off."""
    ran = [one for one in found if not one.error]
    logits = {one.cell: one.logits for one in ran if one.logits is not None}
    far = {cell: value for cell, value in logits.items() if value > FAR * min(logits.values())}
    parts = []
    if near := [value for cell, value in logits.items() if cell not in far]:
        parts.append(f"{np.max(near):.0e}")
    if tokens := [one.tokens for one in ran if one.tokens is not None]:
        parts.append("equal" if min(tokens) == 1 else f"{min(tokens):.0%} equal")
    parts += [f"{cell} {value:.0e}" for cell, value in far.items()]
    failed = [one.cell for one in found if one.error]
    if failed:
        parts.append("fails" if not ran else f"fails: {', '.join(failed)}")
    return ", ".join(parts)


def errors_of(found: Sequence[Finding]) -> list[str]:
    """Return what was said where a file did not run, each kind once, with the files that it was said of."""
    said: dict[str, tuple[str, list[str]]] = {}
    for one in found:
        if one.error:
            text = re.split("stack backtrace", " ".join(one.error.split()), flags=re.IGNORECASE)[0].strip()
            kind = f"{one.runtime}: {re.sub('[0-9]+', '0', text)}"
            said.setdefault(kind, (f"{one.runtime}: {text[:240]}", []))[1].append(
                f"{one.cell} {one.form} {one.storage}"
            )
    lines = []
    for text, files in said.values():
        more = f" and {len(files) - 1} more" if files[1:] else ""
        lines.append(f"{text} ({files[0]}{more})" if files[0] else text)
    return lines
