"""Runs and steps of a graph of form run by onnxruntime: the calls of a network, checks of the input, errors with names."""

from __future__ import annotations

from typing import Any

import models
import numpy as np
import pytest
from numpy.typing import NDArray
from tolerances import assert_close

from unrolled.engine.errors import ConfigError, ModelFileError, ShapeError
from unrolled.engine.models.spec import ModelSpec
from unrolled.engine.network.network import Network
from unrolled.export.artifact.forms import RUN
from unrolled.export.onnx.runner import OnnxRunner
from unrolled.export.onnx.stepper import open_session
from unrolled.export.onnx.writer import bare_model

ALL_INPUTS = models.MIXTURES[-1]


def runner_of(spec: ModelSpec, described: ModelSpec | None = None) -> OnnxRunner:
    """Return a runner of a small model, whose description may be that of another."""
    model = bare_model(spec, models.params(spec, np.float32), RUN)
    session = open_session(model.SerializeToString(), "this graph")
    return OnnxRunner(session, described or spec, "this graph")


def reference_of(spec: ModelSpec) -> Network:
    return Network(spec, models.params(spec, np.float32))


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("cell", models.ALL_CELLS)
def test_predictions_are_the_reference_s(cell: str, ragged: bool, bidirectional: bool) -> None:
    spec = models.spec(cell, ALL_INPUTS, 2, bidirectional)
    lengths = models.ragged() if ragged else None
    inputs = models.spec_batch(spec, lengths=lengths).inputs
    (got, final), (wanted, end) = (model.run(inputs, lengths) for model in (runner_of(spec), reference_of(spec)))
    assert list(got) == ["logits"]
    assert_close(got["logits"], wanted["logits"], "export")
    assert_close(final, end, "export")


@pytest.mark.parametrize("cell", models.ALL_CELLS)
def test_steps_continue_a_state(cell: str) -> None:
    spec = models.spec(cell, ALL_INPUTS)
    inputs, runner = models.spec_batch(spec).inputs, runner_of(spec)
    state = end = models.state(spec, dtype=np.float32)
    for t in range(models.T):
        now = {
            name: value[t : t + 1] if value.shape[:2] == (models.T, models.B) else value
            for name, value in inputs.items()
        }
        (got, state), (wanted, end) = runner.step(now, state), reference_of(spec).step(now, end)
        assert_close(got["logits"], wanted["logits"], "export", what=f"step {t}")
        assert_close(state, end, "export", what=f"step {t}")


def test_a_model_of_two_directions_refuses_steps_and_says_why() -> None:
    spec = models.spec(bidirectional=True)
    inputs, state = models.spec_batch(spec).inputs, models.state(spec, dtype=np.float32)
    for call in (lambda: runner_of(spec).step(inputs, state), lambda: runner_of(spec).run(inputs, None, state)):
        with pytest.raises(
            ConfigError, match=r"this model has no step, because its core is bidirectional: .*; it has run"
        ):
            call()


def arrays(**changes: Any) -> dict[str, NDArray]:
    inputs = dict(models.spec_batch(models.spec(inputs="tokens+values+static")).inputs)
    return {name: value for name, value in {**inputs, **changes}.items() if value is not None}


T, B = models.T, models.B
FAULTS: dict[str, tuple[dict[str, NDArray], NDArray | None, NDArray | None]] = {
    "inputs: got tokens, values; needs tokens, values, static": (arrays(static=None), None, None),
    "inputs: got .*, tokens2; needs": (arrays(tokens2=np.zeros((T, B))), None, None),
    r"inputs: got \(T, B\) = \(0, 3\)": (arrays(tokens=np.zeros((0, B), np.int64)), None, None),
    r"inputs: got \(T, B\) = \(5, 0\)": (arrays(tokens=np.zeros((T, 0), np.int64)), None, None),
    r"tokens: got shape \(5,\), needs axes": (arrays(tokens=np.zeros(T, np.int64)), None, None),
    "tokens: got dtype int32, needs int64": (arrays(tokens=np.zeros((T, B), np.int32)), None, None),
    "tokens: ids from 0 to 11": (arrays(tokens=np.full((T, B), 11) * np.eye(T, B, dtype=np.int64)), None, None),
    r"values: got shape \(5, 3, 8\), needs an array of shape \(5, 3, 7\)": (
        arrays(values=np.zeros((T, B, 8), np.float32)), None, None,
    ),
    "values: got dtype float64": (arrays(values=np.zeros((T, B, 7))), None, None),
    "values: 15 values are NaN": (arrays(values=np.full((T, B, 7), [np.inf, *[1] * 6], np.float32)), None, None),
    r"static: got shape \(2, 2\)": (arrays(static=np.zeros((2, 2), np.float32)), None, None),
    r"lengths: got int64 \(2,\), needs int64 \(3,\)": (arrays(), np.array([1, 2]), None),
    "lengths: got int32": (arrays(), np.array([1, 2, 3], np.int32), None),
    "lengths: from 0 to 5; needs 1 … 5": (arrays(), np.array([1, 0, 5]), None),
    "lengths: from 1 to 6; needs 1 … 5": (arrays(), np.array([1, 6, 5]), None),
    "state: got shape": (arrays(), None, np.zeros((2, 2, 4, models.H), np.float32)),
    "state: got dtype float64": (arrays(), None, np.zeros((2, 2, B, models.H))),
}  # fmt: skip


@pytest.mark.parametrize("message", FAULTS)
def test_input_that_does_not_fit_is_refused_before_onnxruntime_reads_it(message: str) -> None:
    inputs, lengths, state = FAULTS[message]
    with pytest.raises(ShapeError, match=message):
        runner_of(models.spec(inputs="tokens+values+static")).run(inputs, lengths, state)


OTHERS = {
    "layers": models.spec("gru", layers=3),
    "cell": models.spec("lstm"),
    "inputs": models.spec("gru", "values"),
    "more inputs": models.spec("gru", "values+tokens"),
    "directions": models.spec("gru", bidirectional=True),
    "outputs": models.spec("gru", head="next_token"),
}


@pytest.mark.parametrize("other", OTHERS)
def test_a_graph_of_another_spec_is_refused(other: str) -> None:
    with pytest.raises(ModelFileError, match=r"^this graph: (in|out)puts are .*, the spec asks for "):
        runner_of(models.spec("gru"), OTHERS[other])


class Session:
    """A session of a good graph that gives other results."""

    def __init__(self, session: Any, results: Any) -> None:
        self.session, self.results = session, results
        self.get_inputs, self.get_outputs = session.get_inputs, session.get_outputs

    def run(self, names: list[str], inputs: dict[str, NDArray]) -> Any:
        if isinstance(self.results, Exception):
            raise self.results
        return self.results


@pytest.mark.parametrize(
    ("results", "message"),
    [
        (RuntimeError("bad node\nmore"), r"^this graph: the graph does not run \(bad node\)$"),
        ([np.zeros((T, B, 9), np.float32), 0], r"gives logits of float32 \(5, 3, 9\), needs float32 \(5, 3, 10\)"),
        ([np.zeros((T, B, 10)), 0], "gives logits of float64"),
        ([np.zeros((T, B, 10), np.float32), [0]], r"gives final_state of list, needs float32 \(1, 2, 3, 6\)"),
    ],
)
def test_results_that_do_not_fit_the_spec_are_errors_of_the_file(results: Any, message: str) -> None:
    runner = runner_of(models.spec("gru"))
    runner.session = Session(runner.session, results)
    with pytest.raises(ModelFileError, match=message):
        runner.run(models.spec_batch(models.spec("gru")).inputs)
