"""Cells in ONNX, and steps of a graph by onnxruntime alone: the reference's values, and errors that name the graph."""

from __future__ import annotations

from dataclasses import replace

import models
import numpy as np
import pytest
from tolerances import assert_close

from unrolled.engine.errors import ModelFileError, ShapeError
from unrolled.engine.models.cells import CELLS
from unrolled.engine.network.language_model import LanguageModel
from unrolled.export.onnx.cells import ONNX_CELLS
from unrolled.export.onnx.stepper import OnnxStepper, open_session
from unrolled.export.onnx.writer import build


def stepper(cell: str, **changes: int) -> OnnxStepper:
    """A stepper of a small model, whose config may claim other sizes than the graph has."""
    checkpoint = models.checkpoint(cell)
    session = open_session(build(checkpoint, golden=False).SerializeToString(), "this graph")
    return OnnxStepper(session, replace(checkpoint.config, **changes), "step", "this graph")


def test_every_cell_has_its_form_in_the_registries_of_export() -> None:
    assert set(ONNX_CELLS) == set(CELLS)
    model = pytest.importorskip("unrolled.export.torch.cells", reason="the torch extra is not installed")
    assert set(model.TORCH_CELLS) == set(CELLS)


@pytest.mark.parametrize("cell", ONNX_CELLS)
def test_logits_and_state_are_the_reference_s(cell: str) -> None:
    model, checkpoint = stepper(cell), models.checkpoint(cell)
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, model.config.vocab_size, (7, 3))
    state = rng.uniform(-1, 1, model.config.state_shape(3)).astype(np.float32)
    got, wanted = model.step(tokens, state), LanguageModel(checkpoint.config, checkpoint.float32()).step(tokens, state)
    for name, one, other in zip(("logits", "state"), got, wanted, strict=True):
        assert_close(one, other, "export", what=name)


def test_a_graph_of_other_sizes_than_the_config_is_refused() -> None:
    with pytest.raises(ModelFileError, match=r"^this graph: state has shape .*, the config asks for \(2, 3, None, "):
        stepper("lstm", num_layers=3)
    with pytest.raises(ModelFileError, match=r"^this graph: logits has shape"):
        stepper("lstm", vocab_size=99)


def test_bytes_that_are_no_graph_and_states_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ModelFileError, match=r"^these bytes: not an ONNX file that onnxruntime can load"):
        open_session(b"no graph", "these bytes")
    model = stepper("gru")
    with pytest.raises(ShapeError, match="state: got shape"):
        model.step(np.zeros((2, 3), np.int64), np.zeros(model.config.state_shape(2), np.float32))
