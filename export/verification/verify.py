"""Verification of an exported file: names -> axes -> shapes -> values -> tokens -> weights.

The file states what it should be (its description, golden cases); a checkpoint, if there is one, states it again through
the weights. The checks depend on the file's form: texts of language models, whole sequences of other models. Checks run in
order up to the first that fails: the later ones would only repeat its message.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from unrolled.engine.errors import ModelFileError, first_line
from unrolled.engine.storage.checkpoint import (
    BEST_CHECKPOINT,
    CHECKPOINT_SUFFIX,
    LAST_CHECKPOINT,
    Checkpoint,
    load_checkpoint,
)
from unrolled.export.artifact.forms import RUN, forms_of, signature_of
from unrolled.export.artifact.weight_storage import FLOAT32_STORAGE
from unrolled.export.verification.checks import Check, CheckFailed
from unrolled.export.verification.model_file import ModelFile
from unrolled.export.verification.run_checks import (
    check_against_params,
    check_golden_run_values,
    check_own_weights,
    check_run_chunks,
    check_run_lengths,
    check_run_shapes,
    check_same_description,
)
from unrolled.export.verification.step_checks import (
    check_against_tokens,
    check_against_values,
    check_chunks,
    check_golden_tokens,
    check_golden_values,
    check_same_sizes,
    check_shapes,
)
from unrolled.export.verification.structure_checks import STRUCTURE_CHECKS, check_digest
from unrolled.export.verification.writing_checks import check_own_step, check_pieces, check_written

NamedChecks = Iterator[tuple[str, Callable[[], str]]]


def find_checkpoint(path: Path, digest: str) -> tuple[Checkpoint, Path] | None:
    """Return the checkpoint that an exported file was made from, if it is in the same folder."""
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


def verify(path: Path, open_model: Callable[[Path], Any], against: Checkpoint | None = None) -> Iterator[Check]:
    """Run the checks of one file in order, up to the first that fails.

    Args:
        path: an .onnx or .pt file, or a checkpoint.
        open_model: opens a file (``unrolled.runtime.load``).
        against: a checkpoint to compare with; if left out, the one that the file was made from, if it is in the same folder.

    Raises:
        ModelFileError: the file cannot be read, or is not an exported file of this package.
        MissingDependencyError: it is a TorchScript file, and torch is not installed.
    """
    file = ModelFile(path)
    source = ""
    if file.info is not None and against is None:
        found = find_checkpoint(path, file.info.checkpoint_digest)
        against, source = (found[0], f" ({found[1].name})") if found else (None, "")
    elif file.info is None and path.suffix == CHECKPOINT_SUFFIX:
        against = against or file.checkpoint
    if file.info is None and against is None:
        open_model(path)  # raises the error of an ending that no model file has
    name = "file"
    try:
        for name, check in _checks(file, open_model, against, source):
            yield Check(name, True, check())
    except CheckFailed as error:
        yield Check(name, False, str(error))
    except (ValueError, RuntimeError, KeyError, IndexError, TypeError) as error:
        yield Check(name, False, f"{type(error).__name__}: {first_line(error)}")


def _checks(
    file: ModelFile, open_model: Callable[[Path], Any], against: Checkpoint | None, source: str
) -> NamedChecks:  # fmt: skip
    """Yield the checks of a file by name; ``source`` is added to the names of comparisons with the checkpoint."""
    info = file.info
    if info is not None:
        for name, check in STRUCTURE_CHECKS[file.path.suffix]:
            yield name, partial(check, file, info)
    if RUN in forms_of(file.spec):
        yield from _run_checks(file, against, source)
    else:
        yield from _text_checks(file, open_model(file.path), against, source)


def _run_checks(file: ModelFile, against: Checkpoint | None, source: str) -> NamedChecks:
    """Yield the checks of a model that computes whole sequences."""
    info = file.info
    model = file.runner()
    storage = info.weights if info is not None else FLOAT32_STORAGE
    yield "shapes", partial(check_run_shapes, model)
    if "state" in signature_of(RUN, model.spec).inputs:
        yield "chunks", partial(check_run_chunks, model, storage)
    yield "lengths", partial(check_run_lengths, model, storage)
    if info is not None:
        yield "values", partial(check_golden_run_values, model, info.golden, storage.tolerance)
        yield "digest", partial(check_digest, file, info)
        yield "weights", partial(check_own_weights, model, file, storage)
    if against is not None:
        yield f"sizes{source}", partial(check_same_description, model.spec, against.spec)
        # fp16 and int8 files hold other weights than the checkpoint; their digest covers them.
        if storage.storage == FLOAT32_STORAGE.storage:
            yield f"values{source}", partial(check_against_params, model, against.float32(), storage.tolerance)


def _text_checks(file: ModelFile, model: Any, against: Checkpoint | None, source: str) -> NamedChecks:
    """Yield the checks of a language model."""
    info = file.info
    has_logits = info is None or info.form != "generate"
    storage = info.weights if info is not None else FLOAT32_STORAGE
    if has_logits:
        yield "shapes", partial(check_shapes, model)
        yield "chunks", partial(check_chunks, model, storage)
    if info is not None:
        if has_logits:
            yield "values", partial(check_golden_values, model, info.golden, storage.tolerance)
            yield "tokens", partial(check_golden_tokens, model, info.golden)
        yield from _writing_checks(file, model, info.golden, storage.quantized)
        yield "digest", partial(check_digest, file, info)
    if against is not None:
        yield f"sizes{source}", partial(check_same_sizes, model.config, against.spec)
        # fp16 and int8 files hold other weights than the checkpoint; their digest covers them.
        if has_logits and storage.storage == FLOAT32_STORAGE.storage:
            yield f"values{source}", partial(check_against_values, model, against)
            yield f"tokens{source}", partial(check_against_tokens, model, against)


def _writing_checks(file: ModelFile, model: Any, golden: list[dict[str, Any]], quantized: bool) -> NamedChecks:
    """Yield the checks of a file that writes text by itself."""
    writer = model if "write" in model.capabilities else None
    if file.path.suffix == ".pt":
        writer = scripted = file.scripted
        yield "own step", partial(check_own_step, scripted, model)
        yield "own tokens", partial(check_golden_tokens, scripted, golden, scripted.draw)
    if writer is not None:
        yield "written tokens", partial(check_written, writer, golden)
        if not quantized:  # int8 products round a row by the largest number of all rows
            yield "written pieces", partial(check_pieces, writer)
