"""Tests of the capabilities that models of each engine and form declare, and of the calls that these name."""

from __future__ import annotations

import models
import numpy as np
import pytest

from unrolled.engine.errors import ConfigError
from unrolled.engine.models.draw_settings import DrawSettings
from unrolled.engine.models.step_contract import STEP, Flow, StepModel, zero_state
from unrolled.runtime import GenerationConfig, generate
from unrolled.runtime.models.argument_checks import check_language_model
from unrolled.runtime.models.engines import ENGINES, make_model
from unrolled.runtime.models.onnx_model import OnnxWriter, open_checkpoint

EXPECTED = {
    "numpy": STEP,
    "numba": STEP | {"read", "flow"},
    "torch": STEP,
    "torchscript": STEP,
    "onnxruntime": STEP | {"bind"},
    "generate": {"generate", "write", "flow"},
    "both": STEP | {"write", "flow"},
}
CALLS = {"read", "flow", "write", "bind"}  # the capabilities that are named like a method


def make(kind: str) -> StepModel:
    if kind.startswith("torch"):
        pytest.importorskip("torch")
    checkpoint = models.checkpoint("gru", 2, hidden_size=12)
    return make_model(checkpoint, kind) if kind in ENGINES else open_checkpoint(checkpoint, kind)


def test_every_engine_has_its_capabilities_here() -> None:
    assert set(EXPECTED) == {*ENGINES, "generate", "both"}


@pytest.mark.parametrize("kind", EXPECTED)
def test_models_declare_their_capabilities_and_have_the_calls(kind: str) -> None:
    model = make(kind)
    assert model.capabilities == EXPECTED[kind]
    assert all(callable(getattr(model, name)) for name in CALLS & model.capabilities)


class OwnModel:
    """A model of a user's own, which only computes steps."""

    engine = "own"

    def __init__(self, model: StepModel) -> None:
        self.config, self.tokenizer, self.step = model.config, model.tokenizer, model.step


class DeclaredModel(OwnModel):
    """The same with its capabilities."""

    capabilities = STEP


def test_a_users_own_model_declares_its_capabilities() -> None:
    model = make("numpy")
    with pytest.raises(
        ConfigError, match=r"a OwnModel without capabilities, needs those that it has, e\.g\. capabilities ="
    ):
        check_language_model(OwnModel(model))
    check_language_model(DeclaredModel(model))
    config = GenerationConfig(max_new_tokens=12, seed=4)
    assert generate(DeclaredModel(model), ["ab"], config)[0].tokens == generate(model, ["ab"], config)[0].tokens  # type: ignore[arg-type]


def flow_of(prompts: list[list[int]], remaining: list[int], steps: int) -> Flow:
    n = len(prompts)
    return Flow.of(
        [np.array(prompt) for prompt in prompts], steps, remaining=np.array(remaining),
        first_draw=np.zeros(n, np.uint64), indices=np.arange(n, dtype=np.uint64),
        settings=DrawSettings.stack([DrawSettings(True, 0.8, 0, 1.0, 5 + row % 2) for row in range(n)]),
        started=np.zeros(n, np.bool_),
    )  # fmt: skip


def test_a_graph_that_writes_flows_as_the_compiled_loop_does() -> None:
    compiled, writer = make("numba"), make("both")
    assert isinstance(writer, OnnxWriter)
    prompts, remaining = [[1, 2, 3], [4], [2, 2], [5, 1]], [9, 3, 9, 9]
    whole, state = flow_of(prompts, remaining, 20), zero_state(writer.config, 4)
    compiled.flow(zero_state(compiled.config, 4), whole, 4)  # type: ignore[attr-defined]
    assert whole.counts.tolist() == remaining
    flow = flow_of(prompts, remaining, 6)
    writer.flow(state, flow, 3)
    assert flow.started.tolist() == [True, True, True, False]  # the last one waits for a slot
    assert flow.counts.tolist() == [6, 3, 6, 0]
    assert flow.remaining.tolist() == [3, 0, 3, 9]
    for row, count in enumerate(flow.counts):
        written = flow.written[row, :count]
        assert written.tolist() == whole.written[row, :count].tolist()
        if count < 6:  # it waits, or has ended
            continue
        # the last token is written, but not read yet
        assert flow.last_drawn[row] == written[-1]
        read = np.concatenate([prompts[row], written[:-1]])[:, None]
        _, after = compiled.step(read, zero_state(compiled.config, 1))
        np.testing.assert_allclose(state[:, :, row], after[:, :, 0], atol=1e-5)
