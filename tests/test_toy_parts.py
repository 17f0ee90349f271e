"""A cell, an input and a head that live in this file alone: trained on every engine, saved, resumed, exported and verified.

Each is a reference and one line in the registries of the compiled kernels, PyTorch and ONNX. What this file could not do
without touching other rooms would be missing from the contracts of cells, inputs and heads.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import models
import numpy as np
import pytest
from frozen.freeze import StopAt
from numpy.typing import NDArray
from rich.console import Console
from tolerances import assert_close

from unrolled.cli.terminal.training_display import TrainingDisplay
from unrolled.engine.kernels.heads import KERNEL_HEADS
from unrolled.engine.kernels.inputs import KERNEL_INPUTS
from unrolled.engine.kernels.recurrent.cells import CELL_FORMULAS
from unrolled.engine.kernels.recurrent.formulas import Formulas, Outputs, Vectors
from unrolled.engine.kernels.recurrent.pointwise import code_name
from unrolled.engine.kernels.simd.vectors import Vector, select
from unrolled.engine.models.cells import CELLS, rnn
from unrolled.engine.models.cells.cell import TANH, Cell
from unrolled.engine.models.heads import HEADS
from unrolled.engine.models.heads.head import HeadFunctions, HeadLoss, Metric
from unrolled.engine.models.initializers import pytorch_params
from unrolled.engine.models.inputs import INPUTS
from unrolled.engine.models.inputs.batch import Batch
from unrolled.engine.models.inputs.input import Input, InputFunctions, Shapes
from unrolled.engine.models.layers.core_config import CoreConfig
from unrolled.engine.models.layers.output_loss import LossSums, weight_of
from unrolled.engine.models.spec import ModelSpec
from unrolled.engine.network.network import Network
from unrolled.engine.optimizers.config import OptimizerConfig
from unrolled.engine.runs.metrics_log import read_metrics
from unrolled.engine.runs.resume_file import RESUME, load_resume_state
from unrolled.engine.runs.training_run import TrainingRun
from unrolled.engine.storage.checkpoint import load_checkpoint
from unrolled.engine.training.config import TrainingConfig
from unrolled.engine.training.result import TrainingResult
from unrolled.export.formats import export_model
from unrolled.export.training_engines import TRAINABLES, make_trainable
from unrolled.export.verification.verify import verify
from unrolled.report.page import write_report
from unrolled.runtime import load

pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
torch = pytest.importorskip("torch", reason="the torch extra is not installed")

from unrolled.export.onnx.cells import ONNX_CELLS, OperatorCell  # noqa: E402
from unrolled.export.onnx.graph_builder import GraphBuilder  # noqa: E402
from unrolled.export.onnx.heads import ONNX_HEADS, CoreValues, OnnxHead  # noqa: E402
from unrolled.export.onnx.inputs import ONNX_INPUTS, OnnxInput  # noqa: E402
from unrolled.export.onnx.weights import GraphParameters  # noqa: E402
from unrolled.export.torch.cells import TORCH_CELLS, looped  # noqa: E402
from unrolled.export.torch.heads import TORCH_HEADS, TorchHead, TorchLoss  # noqa: E402
from unrolled.export.torch.inputs import TORCH_INPUTS  # noqa: E402

# The cell: an Elman network with φ(a) = a / (1 + |a|), whose derivative is (1 - |h|)².

SOFTSIGN = rnn.Activation(lambda a: a / (1 + np.abs(a)), lambda h: (1 - np.abs(h)) ** 2)
CELL = Cell("Elman RNN, softsign", ("h",), 1, partial(rnn.forward, SOFTSIGN), partial(rnn.backward, SOFTSIGN), (TANH,))


def magnitude(vector: Vector) -> Vector:
    return select(vector > 0, vector, -vector)


def activate(hidden: Vectors, inputs: Vectors, before: Vectors) -> Outputs:
    (a,), (x,) = hidden, inputs
    a = a + x
    return hidden, (a / (1 + magnitude(a)),)


def differentiate(gates: Vectors, before: Vectors, after: Vectors, dh: Vectors, dstate: Vectors) -> Outputs:
    (h,), (dh,), (dh_next,) = after, dh, dstate
    slope = 1 - magnitude(h)
    return ((dh + dh_next) * slope * slope,), (0,)


FORMULAS = Formulas(
    activate, differentiate, products=1, gates=1, states=1, dxg=((0, 1),), gates_are_outputs=True
)  # fmt: skip


def torch_step(xg, state, w_hh, b_hh):  # type: ignore[no-untyped-def]
    return torch.nn.functional.softsign(xg + torch.nn.functional.linear(state[0], w_hh, b_hh)).unsqueeze(0)


# The input: waves of a number at every time step, sin(v·rate + phase), whose gradients depend on the parameters.


@dataclass(frozen=True)
class WavesInput:
    """Turns a number (T, B) into learned waves."""

    waves: int
    name: str = "hour"

    kind: ClassVar[str] = "waves"
    dtype: ClassVar[np.dtype] = np.dtype(np.float32)
    axes: ClassVar[tuple[str | int, ...]] = ("time", "batch")
    lookup: ClassVar[str | None] = None

    @property
    def width(self) -> int:
        return self.waves

    def parameter_shapes(self) -> Shapes:
        return {f"waves.{self.name}.rate": (self.waves,), f"waves.{self.name}.phase": (self.waves,)}

    def check_values(self, array: NDArray) -> None: ...

    def angles(self, params: Mapping[str, NDArray], array: NDArray) -> NDArray:
        rate, phase = (params[name] for name in self.parameter_shapes())
        return array[..., None].astype(rate.dtype) * rate + phase

    def forward(self, params: Mapping[str, NDArray], array: NDArray, T: int) -> NDArray:
        return np.sin(self.angles(params, array))

    def backward(
        self, params: Mapping[str, NDArray], dx: NDArray, array: NDArray, grads: Mapping[str, NDArray]
    ) -> None:
        dangle = dx * np.cos(self.angles(params, array))
        rate, phase = self.parameter_shapes()
        grads[rate][...] += (dangle * array[..., None]).sum((0, 1))
        grads[phase][...] += dangle.sum((0, 1))

    def example(self, rng: np.random.Generator, T: int, B: int) -> NDArray:
        return rng.uniform(-2, 2, (T, B)).astype(np.float32)

    def to_dict(self) -> dict[str, Any]:
        return {"kind": self.kind, "waves": self.waves, "name": self.name}


def torch_waves(column, params, array, T):  # type: ignore[no-untyped-def]
    rate, phase = (params[name] for name in column.parameter_shapes())
    return torch.sin(array.unsqueeze(-1).to(rate.dtype) * rate + phase)


def add_waves(column: WavesInput, graph: GraphBuilder, parameters: GraphParameters, array: str, steps: str) -> str:
    rate, phase = (parameters.get(name) for name in column.parameter_shapes())
    wide = graph.node("Unsqueeze", [array, graph.constant("last", [2])], "wide")
    return graph.node("Sin", [graph.node("Add", [graph.node("Mul", [wide, rate], "turned"), phase], "angles")], "waves")


# The head: one number a sequence from the mean of y over its time steps; R² chooses the best checkpoint.


@dataclass(frozen=True)
class SequenceMetrics:
    loss: float  # mean squared error
    r2: float
    sequences: int

    @property
    def count(self) -> int:
        return self.sequences

    def to_dict(self) -> dict[str, Any]:
        return {"loss": self.loss, "r2": self.r2, "sequences": self.sequences}


def mean_of(y: Any, lengths: Any) -> Any:
    """Return the mean of y (T, B, D·H) over the valid steps, for NumPy and torch: y is zero in the padding."""
    return y.mean(0) if lengths is None else y.sum(0) / lengths[:, None]


@dataclass(frozen=True)
class MeanValueHead:
    """Predicts a number of a sequence: value = mean_t y_t · w + b."""

    kind: ClassVar[str] = "mean_value"
    metrics: ClassVar[tuple[Metric, ...]] = (Metric("loss", False, "squared error"), Metric("r2", True, "R²", ".3f"))
    selects: ClassVar[str] = "r2"
    counts: ClassVar[str] = "sequences"
    smooths: ClassVar[bool] = False
    stepwise: ClassVar[bool] = False
    target_dtype: ClassVar[np.dtype] = np.dtype(np.float32)
    target_axes: ClassVar[tuple[str | int, ...]] = ("batch",)
    outputs: ClassVar[dict[str, tuple[str | int, ...]]] = {"value": ("batch",)}
    guess_loss: ClassVar[float] = 1.0
    shared: ClassVar[tuple[str, ...]] = ()

    def check(self, core: CoreConfig, inputs: Sequence[Input]) -> None: ...

    def capabilities(self, core: CoreConfig, inputs: Sequence[Input]) -> frozenset[str]:
        return frozenset({"run"})

    def parameter_shapes(self, core: CoreConfig) -> Shapes:
        return {"output.weight": (1, core.output_size), "output.bias": (1,)}

    def check_targets(self, targets: NDArray, weights: NDArray) -> None: ...

    def forward(
        self, params: Mapping[str, NDArray], y: NDArray, final_state: NDArray, lengths: NDArray | None,
        inputs: Mapping[str, NDArray],
    ) -> dict[str, NDArray]:  # fmt: skip
        value = mean_of(y, lengths) @ params["output.weight"][0] + params["output.bias"]
        return {"value": value.astype(y.dtype, copy=False)}

    def loss(
        self, params: Mapping[str, NDArray], y: NDArray, final_state: NDArray, batch: Batch,
        grads: Mapping[str, NDArray] | None, smoothing: float,
    ) -> HeadLoss:  # fmt: skip
        error = self.forward(params, y, final_state, batch.lengths, {})["value"] - batch.targets
        sums = sums_of(float((batch.weights * error**2).sum(dtype=np.float64)), batch)
        if grads is None:
            return HeadLoss(sums.to_array())
        T, B, _ = y.shape
        lengths = np.full(B, T) if batch.lengths is None else batch.lengths
        dvalue = (2 * batch.weights * error / (sums.weight or 1)).astype(y.dtype)  # (B,)
        grads["output.weight"][0] += dvalue @ mean_of(y, lengths).astype(y.dtype)
        grads["output.bias"][0] += dvalue.sum()
        dmean = dvalue[:, None] * params["output.weight"]
        valid = np.arange(T)[:, None] < lengths
        return HeadLoss(sums.to_array(), (valid[..., None] * (dmean / lengths[:, None])).astype(y.dtype))

    def metrics_of(self, sums: LossSums) -> SequenceMetrics:
        total, squares, count = sums.details
        spread = squares - total**2 / (sums.weight or 1)
        return SequenceMetrics(sums.loss / (sums.weight or 1), 1 - sums.loss / (spread or 1), int(count))

    def metrics_from_dict(self, values: Mapping[str, Any]) -> SequenceMetrics:
        return SequenceMetrics(float(values["loss"]), float(values["r2"]), int(values["sequences"]))

    def to_dict(self) -> dict[str, Any]:
        return {"kind": self.kind}


def sums_of(loss: float, batch: Batch) -> LossSums:
    w, t = batch.weights.astype(np.float64), batch.targets.astype(np.float64)
    return LossSums(
        loss, weight_of(batch.weights), (float((w * t).sum()), float((w * t * t).sum()), float((w > 0).sum()))
    )


def torch_forward(head, params, y, final_state, lengths, inputs):  # type: ignore[no-untyped-def]
    return {
        "value": torch.nn.functional.linear(mean_of(y, lengths), params["output.weight"], params["output.bias"])[:, 0]
    }


def torch_loss(head: Any, params: Any, y: Any, final_state: Any, batch: Batch, smoothing: float) -> TorchLoss:
    lengths = None if batch.lengths is None else torch.from_numpy(batch.lengths)
    error = torch_forward(head, params, y, final_state, lengths, {})["value"] - torch.from_numpy(batch.targets)
    total = (torch.from_numpy(batch.weights) * error**2).sum()
    return TorchLoss(total, sums_of(float(total.detach()), batch))


def add_mean_value(
    head: MeanValueHead, graph: GraphBuilder, parameters: GraphParameters, values: CoreValues
) -> dict[str, str]:  # fmt: skip
    total = graph.node("ReduceSum", [values.y, graph.constant("time", [0])], "total", keepdims=0)
    counts = graph.node("Cast", [values.lengths], "counts", to=1)
    rows = graph.node("Unsqueeze", [counts, graph.constant("last", [1])], "rows")
    weights = parameters.linear("output", "output.weight")
    linear = graph.node(
        "Gemm", [graph.node("Div", [total, rows], "mean"), weights.matrix, weights.bias], "linear", transB=1
    )
    return {"value": graph.node("Squeeze", [linear, graph.constant("column", [1])], "value")}


@pytest.fixture(autouse=True)
def toy_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CELLS, "softsign", CELL)
    monkeypatch.setitem(CELL_FORMULAS, "softsign", FORMULAS)
    monkeypatch.setitem(TORCH_CELLS, "softsign", looped(torch_step))
    monkeypatch.setitem(ONNX_CELLS, "softsign", OperatorCell("RNN", (0,), {"activations": ["Softsign"]}))
    monkeypatch.setitem(INPUTS, "waves", WavesInput)
    monkeypatch.setitem(KERNEL_INPUTS, "waves", InputFunctions(WavesInput.forward, WavesInput.backward))
    monkeypatch.setitem(TORCH_INPUTS, "waves", torch_waves)
    monkeypatch.setitem(ONNX_INPUTS, "waves", OnnxInput(add_waves, ("Unsqueeze", "Mul", "Add", "Sin")))
    monkeypatch.setitem(HEADS, "mean_value", MeanValueHead)
    monkeypatch.setitem(
        KERNEL_HEADS, "mean_value", lambda packing: HeadFunctions(MeanValueHead.forward, MeanValueHead.loss)
    )
    monkeypatch.setitem(TORCH_HEADS, "mean_value", TorchHead(torch_forward, torch_loss))
    monkeypatch.setitem(ONNX_HEADS, "mean_value", OnnxHead(add_mean_value, ("ReduceSum", "Gemm", "Squeeze", "Div")))


def toy_spec(bidirectional: bool = True, layers: int = 2) -> ModelSpec:
    inputs = models.spec(inputs="tokens+values").inputs
    return ModelSpec((*inputs, WavesInput(3)), CoreConfig("softsign", models.H, layers, bidirectional), MeanValueHead())


class Sequences:
    """Batches of ragged sequences, whose target is the mean of a column and the share of a token among the valid steps."""

    def __init__(self, seed: int, spec: ModelSpec, batches: int = 6) -> None:
        self.batches_per_epoch, self.tokens_per_epoch = batches, 8 * batches
        rng = np.random.default_rng(seed)
        self.made = [self._batch(rng, spec) for _ in range(batches)]

    def _batch(self, rng: np.random.Generator, spec: ModelSpec) -> Batch:
        T, B = 6, 8
        lengths = rng.integers(1, T + 1, B)
        lengths[0] = T
        inputs = {column.name: column.example(rng, T, B) for column in spec.inputs}
        valid = np.arange(T)[:, None] < lengths
        values = spec.inputs[1].forward({"": np.zeros(1)}, inputs["values"], T)[..., 0]
        score = (values + 2 * (inputs["tokens"] < 4)) * valid
        inputs["values"][~valid], inputs["hour"][~valid], inputs["tokens"][~valid] = np.nan, np.nan, -1
        weights = rng.uniform(0.5, 1.5, B).astype(np.float32)
        return Batch(inputs, (score.sum(axis=0) / lengths).astype(np.float32), weights, lengths, False)

    def epoch(self, rng: np.random.Generator | None) -> Iterator[Batch]:
        order = range(len(self.made)) if rng is None else rng.permutation(len(self.made))
        return (self.made[i] for i in order)


TRAINING = TrainingConfig(steps=70, validate_every=14, seed=3)


def toy_run(engine: str, spec: ModelSpec | None = None) -> TrainingRun:
    spec = spec or toy_spec()
    trainable = make_trainable(engine, spec, pytorch_params(spec, 1), OptimizerConfig("adam", 0.02), 1.0)
    record = {"data": {"name": "sums"}, "optimizer": {"name": "adam"}}
    return TrainingRun(trainable, Sequences(1, spec), Sequences(2, spec), TRAINING, {}, record)


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("layers", [1, 2])
def test_gradients_match_differences_and_every_engine(layers: int, bidirectional: bool) -> None:
    spec = toy_spec(bidirectional, layers)
    params, batch = models.params(spec), Sequences(5, spec, 1).made[0]
    state = models.state(spec, 8)
    model = Network(spec, params)
    got = model.gradients(batch, state)
    for name, value in params.items():
        direction, kept, losses = np.random.default_rng(4).standard_normal(value.shape), value.copy(), []
        for sign in (1, -1):
            value[...] = kept + sign * 1e-6 * direction
            sums = model.evaluate(batch, state)[0]
            losses.append(sums.loss / sums.weight)
        value[...] = kept
        derivative = (losses[0] - losses[1]) / 2e-6
        assert_close((got.params[name] * direction).sum(), derivative, "difference", np.float64, name)
    compiled = Network(spec, params, "numba").gradients(batch, state)
    assert_close(compiled.flat, got.flat, "engine", what="numba")
    assert_close(compiled.dstate, got.dstate, "engine", what="numba")
    twin = make_trainable("torch", spec, params, OptimizerConfig()).gradients(batch, state)  # type: ignore[attr-defined]
    for name, value in got.params.items():
        assert_close(twin[name], value, "autograd", what=f"torch {name}")


def test_parameters_of_an_input_that_are_no_embedding_have_initial_values_as_layers_have() -> None:
    params = pytorch_params(toy_spec(), 1)
    for name in ("waves.hour.rate", "waves.hour.phase"):
        assert 0 < np.abs(params[name]).max() <= 1 / np.sqrt(models.H), name
    assert np.abs(params["embedding.weight"]).max() > 1


@pytest.mark.parametrize("engine", TRAINABLES)
def test_trained_saved_resumed_and_run_on_every_engine(engine: str, tmp_path: Path) -> None:
    result = toy_run(engine).run(tmp_path / "whole")
    validations = list(read_metrics(tmp_path / "whole", "validation"))
    assert [line["step"] for line in validations] == [14, 28, 42, 56, 70]
    best = max(validations, key=lambda line: line["r2"])
    assert result.best is not None
    assert (result.best_step, result.best.to_dict()["r2"]) == (best["step"], best["r2"])
    assert best["r2"] > 0.5 > validations[0]["r2"]
    step = next(read_metrics(tmp_path / "whole", "step"))
    assert list(step)[-4:] == ["learning_rate", "sequences", "sequences_per_s", "r2"]
    with pytest.raises(RuntimeError):
        toy_run(engine).run(tmp_path / "run", observers=[StopAt(33)])
    again = toy_run(engine).run(tmp_path / "run", resume=True)
    assert (again.steps, len(again.losses)) == (70, 70 - 28)
    one, other = (load_resume_state(tmp_path / name / RESUME, MeanValueHead()) for name in ("run", "whole"))
    for name, value in other.arrays.items():
        np.testing.assert_array_equal(one.arrays[name], value, err_msg=name)
    recorded = json.loads(json.dumps(one.result.to_dict(MeanValueHead())))
    assert recorded["sequences"] == 70 * 8
    assert recorded["validation_sequences"] == 5 * 48
    assert TrainingResult.from_dict(recorded, MeanValueHead()).best == again.best
    checkpoint = load_checkpoint(tmp_path / "run")
    assert checkpoint.spec == toy_spec()
    batch = Sequences(7, checkpoint.spec, 1).made[0]
    expected = Network(checkpoint.spec, checkpoint.params).run(batch.inputs, batch.lengths)[0]["value"]
    got = load(tmp_path / "run", engine).run(batch.inputs, batch.lengths)["value"]
    assert_close(got, expected, "export", np.float32)


def test_exported_files_run_and_are_verified(tmp_path: Path) -> None:
    toy_run("numba").run(tmp_path / "run")
    checkpoint = load_checkpoint(tmp_path / "run")
    batch = Sequences(7, checkpoint.spec, 1).made[0]
    expected = Network(checkpoint.spec, checkpoint.params).run(batch.inputs, batch.lengths)[0]["value"]
    for name, format_name in (("toy.onnx", "onnx"), ("toy.pt", "torchscript")):
        file = tmp_path / "run" / name
        export_model(checkpoint, file, format_name)
        assert_close(load(file).run(batch.inputs, batch.lengths)["value"], expected, "export", np.float32)
        checks = list(verify(file, load))
        assert [check for check in checks if not check.ok] == []
        assert {"shapes", "lengths", "values", "digest"} <= {check.name for check in checks}


def test_displays_and_reports_show_the_metrics_of_the_head(tmp_path: Path) -> None:
    console = Console(width=140, file=io.StringIO())
    run = toy_run("numpy")
    with TrainingDisplay(console, run.trainable.spec.head) as display:
        run.run(tmp_path / "run", observers=[display])
    shown = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    last = list(read_metrics(tmp_path / "run", "validation"))[-1]
    assert f"validation squared error {last['loss']:.4f}  R² {last['r2']:.3f}" in shown[-1]
    assert "sequences/s" in shown[-1]
    page = tmp_path / "page.html"
    write_report([tmp_path / "run"], page)
    text = page.read_text("utf-8")
    assert "R²" in text
    assert "sequences/s" in text
    assert "perplexity" not in text


def test_compiled_code_of_formulas_from_elsewhere_is_kept_by_their_source(tmp_path: Path, monkeypatch: Any) -> None:
    """The cache on disk is of the package's own sources; other formulas that change must not find their old code there."""
    names = []
    for text in ("FACTOR = 1", "FACTOR = 2"):
        path = tmp_path / "formulas_elsewhere.py"
        path.write_text(f"{text}\ndef activate(factor, hidden, inputs, before):\n    return hidden, hidden\n")
        space: dict[str, Any] = {"__name__": "formulas_elsewhere"}
        exec(compile(path.read_text(), str(path), "exec"), space)
        monkeypatch.setitem(CELL_FORMULAS, "softsign", FORMULAS._replace(activate=partial(space["activate"], 2)))
        names.append(code_name("softsign"))
        assert code_name("softsign") == names[-1]
    assert len(set(names)) == 2
    assert all(name.startswith("softsign@") for name in names)
    assert [code_name(cell) for cell in models.ALL_CELLS] == list(models.ALL_CELLS)
