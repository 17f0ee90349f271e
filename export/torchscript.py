"""TorchScript: the scripted model with ``forward``, ``step``, ``choose`` and ``generate``, and our metadata beside it."""

from __future__ import annotations

import io
import warnings
import zipfile
import zlib
from pathlib import Path
from typing import Any

import torch

from unrolled.engine.checkpoint import Checkpoint, write_atomically
from unrolled.engine.errors import ModelFileError, first_line
from unrolled.engine.jsontext import parse_json, to_json
from unrolled.engine.model import LanguageModel
from unrolled.export.golden import golden_cases
from unrolled.export.metadata import FileInfo, file_metadata, parse_metadata
from unrolled.export.storage import FLOAT32
from unrolled.export.torch_model import make_torch_model

EXTRA_FILE = "unrolled.json"
# what reading a damaged zip archive raises
DAMAGE = (zipfile.BadZipFile, zlib.error, OSError, EOFError, UnicodeDecodeError, NotImplementedError, RuntimeError)


def script(checkpoint: Checkpoint) -> Any:
    """The checkpoint's model, scripted, in float32 and evaluation mode."""
    model = make_torch_model(checkpoint.config, checkpoint.float32()).eval()
    with warnings.catch_warnings():
        # torch says so at every call; the command line says it once, in words for its user
        warnings.simplefilter("ignore", DeprecationWarning)
        return torch.jit.script(model)


def write_torchscript(checkpoint: Checkpoint, path: Path) -> None:
    """Write the scripted model and its metadata to one file."""
    weights = FLOAT32._replace(digest=checkpoint.digest)
    golden = golden_cases(LanguageModel(checkpoint.config, checkpoint.float32()))
    extra = {EXTRA_FILE: to_json(file_metadata(checkpoint, "both", weights, golden))}
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.save(script(checkpoint), buffer, _extra_files=extra)
    write_atomically(path, buffer.getvalue())


def read_torchscript(path: Path) -> tuple[Any, FileInfo]:
    """The scripted module and its metadata; the metadata is read and checked before any code of the file is loaded.

    Raises:
        ModelFileError: not a TorchScript file, or not one of ours.
    """
    info = parse_metadata(_read_extra(path), str(path))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            return torch.jit.load(str(path), map_location="cpu"), info
    except (RuntimeError, ValueError, OSError) as error:
        raise ModelFileError(f"{path}: a damaged TorchScript file ({first_line(error)})") from error


def _read_extra(path: Path) -> dict[str, str]:
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if name.endswith(f"/extra/{EXTRA_FILE}")]
            if not names:
                raise ModelFileError(f"{path}: not one of unrolled's TorchScript files; it has no {EXTRA_FILE} inside")
            text = archive.read(names[0]).decode("utf-8")
    except DAMAGE as error:
        raise ModelFileError(f"{path}: not a TorchScript file, or a damaged one ({error})") from error
    values = parse_json(text, f"{path}: {EXTRA_FILE}")
    return {key: value for key, value in values.items() if isinstance(value, str)}
