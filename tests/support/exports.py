"""Exported files for tests: all kinds of files, and how to make one of each."""

from __future__ import annotations

from pathlib import Path

import pytest

from unrolled.engine.storage.checkpoint import Checkpoint
from unrolled.export.artifact.weight_storage import FLOAT32_STORAGE, INT8_STORAGE, NUMBER_FORMATS
from unrolled.export.formats import SINGLE_FILES, export_model

KINDS = [*SINGLE_FILES, "onnx generate", "onnx both"]  # formats, or a format and one of its forms
STORED = {name: FLOAT32_STORAGE._replace(storage=name) for name in NUMBER_FORMATS} | {"quantized": INT8_STORAGE}


def exported(checkpoint: Checkpoint, folder: Path, kind: str = "onnx") -> Path:
    """Export a checkpoint as one of ``KINDS``, and return the file."""
    name, _, form = kind.partition(" ")
    if name == "torchscript":
        pytest.importorskip("torch", reason="the torch extra is not installed")
    return export_model(checkpoint, folder / f"model{SINGLE_FILES[name].suffix}", name, form or None)
