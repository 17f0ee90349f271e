"""Check an exported file against itself and against its checkpoint: names -> axes -> shapes -> values -> tokens -> weights.

The file says what it should be (config, tokeniser, golden cases); a checkpoint, where there is one, says it again from
the weights. Checks run in order, and the first that fails says what is wrong; the ones behind it are left out, because
they would only say so again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from unrolled.engine.errors import MissingDependencyError, ModelFileError, first_line
from unrolled.engine.models.config import ModelConfig
from unrolled.engine.models.parameters import Params, parameter_shapes
from unrolled.engine.models.step_contract import StepModel, Stepper, zero_state
from unrolled.engine.network.language_model import LanguageModel
from unrolled.engine.storage.checkpoint import (
    BEST_CHECKPOINT,
    CHECKPOINT_SUFFIX,
    LAST_CHECKPOINT,
    Checkpoint,
    load_checkpoint,
    model_digest,
)
from unrolled.export.artifact.golden_cases import MARGIN, Draw, greedy_tokens, recorded_draws, sampled_tokens
from unrolled.export.artifact.golden_cases import draw as rules_draw
from unrolled.export.artifact.metadata import FORMS, FileInfo
from unrolled.export.artifact.weight_storage import FLOAT32_STORAGE, WeightStorage
from unrolled.export.verification.checks import Check, Failed, close, need, random_tokens
from unrolled.export.verification.writing_checks import check_goes_on, check_own_step, check_written

if TYPE_CHECKING:
    from unrolled.export.onnx.reader import OnnxFile
    from unrolled.export.torch.torchscript import ScriptedModel

GREEDY_TOKENS = 200
METHODS = ("forward", "step", "choose", "generate")  # of a scripted module
SHAPES = ((1, 1), (1, 3), (7, 1), (13, 5))  # (T, B) that were never traced


class _ModelFile:
    """A file that is checked, read once for all checks."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @cached_property
    def onnx(self) -> OnnxFile:
        from unrolled.export.onnx.reader import read_onnx

        return read_onnx(self.path)

    @cached_property
    def torchscript(self) -> tuple[Any, FileInfo]:
        try:
            from unrolled.export.torch.torchscript import read_torchscript
        except ImportError as error:
            needed = f'{self.path}: a TorchScript file needs torch: pip install "unrolled[torch]"'
            raise MissingDependencyError(needed) from error

        return read_torchscript(self.path)

    @property
    def scripted(self) -> ScriptedModel:
        from unrolled.export.torch.torchscript import ScriptedModel

        return ScriptedModel(*self.torchscript)

    @cached_property
    def info(self) -> FileInfo | None:
        """Metadata of an exported file; None for a checkpoint, which is checked whole as it is read."""
        if self.path.suffix == ".onnx":
            return self.onnx.info
        return self.torchscript[1] if self.path.suffix == ".pt" else None

    def params(self, config: ModelConfig) -> Params:
        """The parameters that an exported file holds."""
        if self.path.suffix == ".onnx":
            from unrolled.export.onnx.weights import read_params

            return read_params(self.onnx.model, config)
        stored = {name: value.detach().numpy() for name, value in self.torchscript[0].state_dict().items()}
        return {name: stored[name] for name in parameter_shapes(config)}


def _check_onnx_names(file: _ModelFile, info: FileInfo) -> str:
    import onnx

    model = file.onnx.model
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise Failed(f"not a valid ONNX model: {first_line(error)}") from error
    form = FORMS[info.form]
    for kind, values, expected in (
        ("inputs", model.graph.input, form.inputs),
        ("outputs", model.graph.output, form.outputs),
    ):
        names = [value.name for value in values]
        need(names == list(expected), f"{kind} are {', '.join(names)}; form {info.form} has {', '.join(expected)}")
    return f"{', '.join(form.inputs)} -> {', '.join(form.outputs)}; opset {model.opset_import[0].version}"


def _check_onnx_axes(file: _ModelFile, info: FileInfo) -> str:
    model, form = file.onnx.model, FORMS[info.form]
    free = set()
    for value in (*model.graph.input, *model.graph.output):
        axes = (form.inputs | form.outputs)[value.name]
        dims = value.type.tensor_type.shape.dim
        need(len(dims) == len(axes), f"{value.name} has {len(dims)} axes, needs {len(axes)}")
        for place, (dim, axis) in enumerate(zip(dims, axes, strict=True)):
            if axis is not None:
                free.add(axis)
                need(
                    dim.dim_param == axis and not dim.HasField("dim_value"),
                    f"{value.name}, axis {place}: {axis} is frozen at {dim.dim_value}",
                )
    return f"{', '.join(sorted(free))} are free"


def _check_specification(file: _ModelFile, info: FileInfo) -> str:
    """The graph keeps to rules of the ONNX specification that neither its checker nor onnxruntime enforces."""
    from unrolled.export.onnx.specification import violations

    found = violations(file.onnx.model)
    need(
        not found,
        f"the graph breaks the ONNX specification: {'; '.join(found)}; onnxruntime runs it all the same, other runtimes "
        "fail or write other tokens: export it again",
    )
    return "the rules of the ONNX specification that its checker leaves out"


def _check_torchscript_names(file: _ModelFile, info: FileInfo) -> str:
    module, _ = file.torchscript
    missing = [name for name in METHODS if not hasattr(module, name)]
    need(not missing, f"the module has no {', '.join(missing)}")
    return ", ".join(METHODS)


def _check_digest(file: _ModelFile, info: FileInfo) -> str:
    """The weights, config and tokeniser in the file are those it was written with, to the bit."""
    need(
        model_digest(info.config, info.tokenizer, file.params(info.config)) == info.weights.digest,
        "weights, config or tokenizer are not those the file was written with",
    )
    return "weights, config and tokenizer as written, to the bit"


# Checks that need the file itself and not only a model of it.
STRUCTURE: dict[str, list[tuple[str, Callable[[_ModelFile, FileInfo], str]]]] = {
    ".onnx": [("names", _check_onnx_names), ("axes", _check_onnx_axes), ("specification", _check_specification)],
    ".pt": [("names", _check_torchscript_names)],
}


def _check_shapes(model: StepModel) -> str:
    config = model.config
    for T, B in SHAPES:
        tokens, state = random_tokens(config, T, B)
        logits, after = model.step(tokens, state)
        wanted = (T, B, config.vocab_size)
        need(logits.shape == wanted, f"logits at (T, B) = ({T}, {B}): {logits.shape}, needs {wanted}")
        need(
            after.shape == state.shape,
            f"next_state at (T, B) = ({T}, {B}): {after.shape}, needs {state.shape}",
        )
    return f"{len(SHAPES)} sizes of (T, B)"


def _check_chunks(model: StepModel, weights: WeightStorage) -> str:
    """A sequence equals its chunks; a state that is dropped or mixed up between rows shows here."""
    tokens, state = random_tokens(model.config, 9, 3)
    whole, end = model.step(tokens, state)
    first, middle = model.step(np.ascontiguousarray(tokens[:4]), state)
    second, after = model.step(np.ascontiguousarray(tokens[4:]), middle)
    for s, layer in np.ndindex(state.shape[:2]):
        other = state.copy()
        other[s, layer] = 0
        moved, _ = model.step(tokens, other)
        need(bool((moved != whole).any()), f"the state that goes in makes no difference (state {s} of layer {layer})")
    if weights.quantized:  # whose scale is that of all numbers of a call, so that pieces are rounded otherwise
        return "the state makes a difference"
    worst = close(np.concatenate([first, second]), whole, "a sequence in two chunks")
    close(after, end, "the state after two chunks")
    return f"a sequence is its chunks, within {worst:.1e}"


def _check_golden_values(model: StepModel, golden: list[dict[str, Any]], tolerance: float) -> str:
    need(bool(golden), "the file has no golden cases")
    worst = 0.0
    for number, case in enumerate(golden):
        logits, _ = model.step(np.array(case["prompt"], np.int64)[:, None], zero_state(model.config, 1))
        last = logits[-1, 0].astype(np.float64)
        total = last.max() + np.log(np.exp(last - last.max()).sum())
        got = np.append(last[case["logit_indices"]], total)
        expected = np.append(np.array(case["logits"], np.float64), case["logsumexp"])
        worst = max(worst, close(got, expected, f"golden case {number + 1}", tolerance))
    return f"{len(golden)} golden cases, within {worst:.1e}"


def _check_golden_tokens(model: Stepper, golden: list[dict[str, Any]], draw: Draw = rules_draw) -> str:
    greedy, drawn = 0, 0
    for number, case in enumerate(golden):
        got = greedy_tokens(model, case["prompt"], len(case["greedy"]))
        need(got == case["greedy"], f"golden case {number + 1}: other greedy tokens than recorded")
        greedy += len(got)
        for settings, tokens in recorded_draws(case):
            got = sampled_tokens(model, case["prompt"], len(tokens), settings, draw=draw)
            need(got == tokens, f"golden case {number + 1}: other draws than recorded at {settings}")
            drawn += len(got)
    return f"{greedy} recorded greedy tokens, {drawn} drawn ones"


def _check_sizes(config: ModelConfig, other: ModelConfig) -> str:
    need(
        config.state_shape(1) == other.state_shape(1) and config.vocab_size == other.vocab_size,
        f"the file is a {_size(config)}, the checkpoint a {_size(other)}",
    )
    return _size(config)


def _size(config: ModelConfig) -> str:
    return f"{config.cell} {config.num_layers} × {config.hidden_size} with {config.vocab_size} tokens"


def _check_against_values(model: StepModel, checkpoint: Checkpoint) -> str:
    reference = _reference(checkpoint)
    worst = 0.0
    for T, B in SHAPES:
        tokens, state = random_tokens(model.config, T, B)
        expected, expected_state = reference.step(tokens, state)
        logits, after = model.step(tokens, state)
        worst = max(worst, close(logits, expected, f"logits at (T, B) = ({T}, {B})"))
        close(after, expected_state, f"next_state at (T, B) = ({T}, {B})")
    return f"logits and states of the checkpoint, within {worst:.1e}"


def _check_against_tokens(model: StepModel, checkpoint: Checkpoint) -> str:
    expected = greedy_tokens(_reference(checkpoint), [0], GREEDY_TOKENS, MARGIN)
    got = greedy_tokens(model, [0], len(expected))
    need(got == expected, "other greedy tokens than the checkpoint's")
    return f"{len(expected)} greedy tokens of the checkpoint"


def _reference(checkpoint: Checkpoint) -> LanguageModel:
    return LanguageModel(checkpoint.config, checkpoint.float32())


def find_checkpoint(path: Path, digest: str) -> tuple[Checkpoint, Path] | None:
    """The checkpoint that an exported file was made of, if it lies beside it."""
    for name in (path.stem + CHECKPOINT_SUFFIX, BEST_CHECKPOINT, LAST_CHECKPOINT):
        beside = path.parent / name
        if beside.is_file():
            try:
                checkpoint = load_checkpoint(beside)
            except ModelFileError:
                continue  # a damaged neighbour says nothing about this file
            if checkpoint.digest == digest:
                return checkpoint, beside
    return None


def verify(path: Path, open_model: Callable[[Path], StepModel], against: Checkpoint | None = None) -> Iterator[Check]:
    """Run the checks of one file, one after the other, up to the first that fails.

    Args:
        path: an .onnx or .pt file, or a checkpoint.
        open_model: opens it as a StepModel (``unrolled.runtime.load``).
        against: a checkpoint to compare with; if left out, the one it was made of is looked for beside it.

    Raises:
        ModelFileError: the file cannot be read, or is not one of ours.
        MissingDependencyError: it is a TorchScript file, and torch is not installed.
    """
    file = _ModelFile(path)
    info = file.info
    source = ""
    if info is not None and against is None:
        found = find_checkpoint(path, info.checkpoint_digest)
        against, source = (found[0], f" ({found[1].name})") if found else (None, "")
    elif info is None and path.suffix == CHECKPOINT_SUFFIX:
        against = against or load_checkpoint(path)

    def steps() -> Iterator[tuple[str, Callable[[], str]]]:
        for name, check in STRUCTURE.get(path.suffix, []):
            assert info is not None
            yield name, lambda check=check: check(file, info)  # type: ignore[misc]
        model: Any = open_model(path)
        config = model.config
        golden = info.golden if info is not None else []
        weights = info.weights if info is not None else FLOAT32_STORAGE
        stepping = info is None or info.form != "generate"
        if stepping:
            yield "shapes", lambda: _check_shapes(model)
            yield "chunks", lambda: _check_chunks(model, weights)
        if info is not None and stepping:
            yield "values", lambda: _check_golden_values(model, golden, weights.tolerance)
            yield "tokens", lambda: _check_golden_tokens(model, golden)
        writer = model if hasattr(model, "write") else None
        if path.suffix == ".pt":
            writer = scripted = file.scripted
            yield "own step", lambda: check_own_step(scripted, model)
            yield "own tokens", lambda: _check_golden_tokens(scripted, golden, scripted.draw)
        if writer is not None:
            yield "written tokens", lambda: check_written(writer, golden)
            if not weights.quantized:  # where a row's rounding depends on its neighbours
                yield "written pieces", lambda: check_goes_on(writer)
        if info is not None:
            yield "digest", lambda: _check_digest(file, info)
        if against is not None:
            checkpoint = against
            yield f"sizes{source}", lambda: _check_sizes(config, checkpoint.config)
            if stepping and weights.storage == FLOAT32_STORAGE.storage:  # others have other weights, by their digest
                yield f"values{source}", lambda: _check_against_values(model, checkpoint)
                yield f"tokens{source}", lambda: _check_against_tokens(model, checkpoint)

    if info is None and against is None:
        open_model(path)  # says what is wrong with an ending that is of no model file
    name = "file"
    try:
        for name, step in steps():
            yield Check(name, True, step())
    except Failed as error:
        yield Check(name, False, str(error))
    except (ValueError, RuntimeError, KeyError, IndexError, TypeError) as error:
        yield Check(name, False, f"{type(error).__name__}: {first_line(error)}")
