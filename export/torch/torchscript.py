"""TorchScript files: the program of a model and the metadata.

That of a language model has ``forward``, ``step``, ``choose`` and ``generate``, those of other models ``forward`` alone.
"""

from __future__ import annotations

import contextlib
import io
import math
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from unrolled.engine.errors import ModelFileError, first_line
from unrolled.engine.models.draw_settings import DrawSettings
from unrolled.engine.models.parameters import Params, parameter_shapes
from unrolled.engine.models.spec import ModelSpec
from unrolled.engine.models.step_contract import STEP, Draws
from unrolled.engine.network.language_model import LanguageModel
from unrolled.engine.network.network import Network
from unrolled.engine.sampling.philox import uniforms
from unrolled.engine.storage.atomic_files import write_atomically
from unrolled.engine.storage.checkpoint import Checkpoint
from unrolled.engine.storage.json_text import parse_json, to_json
from unrolled.export.artifact.forms import RUN, forms_of
from unrolled.export.artifact.golden_cases import golden_cases
from unrolled.export.artifact.golden_runs import golden_runs
from unrolled.export.artifact.metadata import FileInfo, file_metadata, parse_metadata
from unrolled.export.artifact.program_runner import ProgramRunner
from unrolled.export.artifact.weight_storage import FLOAT32_STORAGE
from unrolled.export.torch.archive import DAMAGE, check_archive
from unrolled.export.torch.inference import as_tensor
from unrolled.export.torch.model import make_torch_model
from unrolled.export.torch.run_program import program_params, script_network

EXTRA_FILE = "unrolled.json"


class ScriptedModel:
    """A scripted module run by its own ``step``, ``choose`` and ``generate``, which hosts call.

    Exceptions of these methods and unusable results become a ModelFileError.
    """

    engine = "torchscript"
    capabilities = STEP | {"write"}

    def __init__(self, module: Any, info: FileInfo) -> None:
        self.module, self.config, self.tokenizer = module, info.config, info.tokenizer
        self.training = info.training
        self.digest = self.weights_digest = info.checkpoint_digest

    def _call(self, name: str, *arguments: Any) -> Any:
        """Return the results of the method ``name`` as arrays."""
        given = [as_tensor(value) if isinstance(value, np.ndarray) else value for value in arguments]
        try:
            with torch.inference_mode():
                result = getattr(self.module, name)(*given)
            return [value.numpy() for value in result] if isinstance(result, tuple) else result.numpy()
        except Exception as error:  # a program can raise anything
            raise ModelFileError(f"its {name} does not run ({first_line(error)})") from error

    def step(self, tokens: NDArray[np.int64], state: NDArray) -> tuple[NDArray, NDArray]:
        """Return logits and state by the step contract, with a call for each of T steps."""
        rows = []
        for row in tokens:
            logits, state = self._call("step", row, state)
            rows.append(logits)
        return np.stack(rows), state

    def draw(self, logits: NDArray, u: float, settings: DrawSettings) -> int:
        """Return the token drawn from logits (V,) at u."""
        token = self._call(
            "choose", logits[None], np.array([u]), settings.temperature, settings.top_k, settings.top_p
        )  # fmt: skip
        return int(token[0])

    def write(
        self, tokens: NDArray[np.int64], lengths: NDArray[np.int64], state: NDArray, draws: Draws
    ) -> tuple[NDArray[np.int64], NDArray]:
        """Write tokens by the contract of ``WritingModel``."""
        steps = draws.first_step + np.arange(draws.steps)[:, None]
        settings = draws.settings
        if settings.do_sample:
            u = uniforms(settings.seed, draws.sequences, steps)
            chosen = settings.temperature, settings.top_k, settings.top_p
        else:
            u, chosen = np.zeros((draws.steps, len(lengths))), (1.0, 1, 1.0)
        eos = self.tokenizer.end_id
        written, moved = self._call("generate", tokens, lengths, state, u, *chosen, -1 if eos is None else eos)
        return written, moved


@contextlib.contextmanager
def _without_deprecations() -> Iterator[None]:
    """Ignore torch's warning, at every call, that TorchScript is deprecated; the command line says so once."""
    with warnings.catch_warnings():
        for category in (DeprecationWarning, FutureWarning):  # torch 2.13 raises the first, 2.14 the second
            warnings.simplefilter("ignore", category)
        yield


class ScriptedRunner(ProgramRunner):
    """Predictions of a TorchScript program of form ``run``, with the calls of ``Network``.

    Args:
        module: the program.
        spec: description of the model.
        where: the program's name in error messages.
    """

    def __init__(self, module: Any, spec: ModelSpec, where: str) -> None:
        super().__init__(spec, where)
        self.module = module

    def _results(self, given: dict[str, NDArray]) -> Mapping[str, Any]:
        try:
            with torch.inference_mode():
                results = self.module({name: as_tensor(array) for name, array in given.items()})
            return {name: value.numpy() for name, value in results.items()}
        except Exception as error:  # a program can raise anything
            raise ModelFileError(f"{self._where}: the program does not run ({first_line(error)})") from error


def script(checkpoint: Checkpoint) -> Any:
    """Return the program of the checkpoint's model, in float32 and evaluation mode."""
    with _without_deprecations():
        if RUN in forms_of(checkpoint.spec):
            return script_network(checkpoint.spec, checkpoint.float32())
        return torch.jit.script(make_torch_model(checkpoint.config, checkpoint.float32()).eval())


def write_torchscript(checkpoint: Checkpoint, path: Path) -> None:
    """Write the program and its metadata to one file, in the form ``both`` or, for a model that writes no text, ``run``."""
    weights = FLOAT32_STORAGE._replace(digest=checkpoint.digest)
    if RUN in forms_of(checkpoint.spec):
        form, golden = RUN, golden_runs(Network(checkpoint.spec, checkpoint.float32()))
    else:
        form, golden = "both", golden_cases(LanguageModel(checkpoint.config, checkpoint.float32()))
    extra = {EXTRA_FILE: to_json(file_metadata(checkpoint, form, weights, golden))}
    buffer = io.BytesIO()
    with _without_deprecations():
        torch.jit.save(script(checkpoint), buffer, _extra_files=extra)
    write_atomically(path, buffer.getvalue())


def read_torchscript(path: Path) -> tuple[Any, FileInfo]:
    """Return the scripted module and its metadata.

    A TorchScript file is a program. Before torch reads it, the archive is checked to be complete with plausible sizes, and the
    metadata to be valid and to fit the weights; the program itself is not checked.

    Raises:
        ModelFileError: not a TorchScript file, or not one of this package.
    """
    info = parse_metadata(_read_extra(path), str(path), path.stat().st_size)
    _check_records(path, info)
    try:
        # An open file, because torch opens no file by a name that is not UTF-8.
        with _without_deprecations(), path.open("rb") as file:
            return torch.jit.load(file, map_location="cpu"), info
    except Exception as error:  # torch's parser of programs can raise anything
        raise ModelFileError(f"{path}: a damaged TorchScript file ({first_line(error)})") from error


def read_params(module: Any, spec: ModelSpec) -> Params:
    """Return the parameters in a program of a file."""
    if RUN in forms_of(spec):
        return program_params(module, spec)
    stored = module.state_dict()
    return {name: stored[name].detach().numpy() for name in parameter_shapes(spec)}


def _check_records(path: Path, info: FileInfo) -> None:
    """Check that the weights have the sizes of the config's parameters; torch would read past the end of a shorter entry."""
    with zipfile.ZipFile(path) as archive:
        held = sorted(entry.file_size for entry in archive.infolist() if "/data/" in entry.filename)
    wanted = sorted(4 * math.prod(shape) for shape in parameter_shapes(info.spec).values())
    if held != wanted:
        raise ModelFileError(
            f"{path}: a damaged TorchScript file; its weights are not of the sizes that its config asks for"
        )


def _read_extra(path: Path) -> dict[str, str]:
    names = [name for name in check_archive(path, "a TorchScript file") if name.endswith(f"/extra/{EXTRA_FILE}")]
    if len(names) != 1:
        raise ModelFileError(f"{path}: not one of unrolled's TorchScript files; it has no {EXTRA_FILE} inside")
    try:
        with zipfile.ZipFile(path) as archive:
            text = archive.read(names[0]).decode("utf-8")
    except DAMAGE as error:
        raise ModelFileError(f"{path}: not a TorchScript file, or a damaged one ({first_line(error)})") from error
    values = parse_json(text, f"{path}: {EXTRA_FILE}")
    return {key: value for key, value in values.items() if isinstance(value, str)}
