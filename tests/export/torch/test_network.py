"""The twin of a model in PyTorch: names, registries, cells of one time step, dropout masks, rows alone."""

from __future__ import annotations

import models
import numpy as np
import pytest
from numpy.typing import NDArray
from tolerances import assert_close

from unrolled.engine.errors import ConfigError, ModelFileError, ShapeError
from unrolled.engine.models.cells import CELLS
from unrolled.engine.models.dropout import Dropout, dropout_masks
from unrolled.engine.models.heads import HEADS
from unrolled.engine.models.heads.step_labels import StepLabelsHead
from unrolled.engine.models.initializers import pytorch_params
from unrolled.engine.models.inputs import INPUTS
from unrolled.engine.models.inputs.embedded import CategoriesInput
from unrolled.engine.models.inputs.numeric import ValuesInput
from unrolled.engine.models.layers.core_config import CoreConfig
from unrolled.engine.models.parameters import parameter_shapes
from unrolled.engine.models.spec import ModelSpec
from unrolled.engine.network.network import Network
from unrolled.engine.optimizers.config import OptimizerConfig

torch = pytest.importorskip("torch", reason="the torch extra is not installed")
from torch_steps import gru_step, lstm_step  # noqa: E402 - needs torch

from unrolled.export.torch.cells import TORCH_CELLS, looped  # noqa: E402
from unrolled.export.torch.heads import TORCH_HEADS  # noqa: E402
from unrolled.export.torch.inference import run_network  # noqa: E402
from unrolled.export.torch.inputs import TORCH_INPUTS  # noqa: E402
from unrolled.export.torch.network import TorchNetwork  # noqa: E402
from unrolled.export.torch.training import TorchTrainable  # noqa: E402


def test_every_cell_input_and_head_has_its_form_in_torch() -> None:
    assert set(TORCH_CELLS) == set(CELLS)
    assert set(TORCH_INPUTS) == set(INPUTS)
    assert set(TORCH_HEADS) == set(HEADS)


def test_the_twin_has_the_names_of_a_checkpoint() -> None:
    spec = models.spec("gru", "tokens+categories+values", 2, True)
    params = models.params(spec, np.float32)
    twin = TorchNetwork(spec, pytorch_params(spec, 9))
    assert {name: tuple(value.shape) for name, value in twin.state_dict().items()} == parameter_shapes(spec)
    assert list(dict(twin.named_parameters())) == list(parameter_shapes(spec))
    twin.load_state_dict({name: torch.from_numpy(value) for name, value in params.items()})
    for name, value in params.items():
        np.testing.assert_array_equal(twin.weights[name].detach().numpy(), value)
    with pytest.raises(ModelFileError, match="do not match"):
        twin.load_params({"embedding.weight": params["embedding.weight"]})


NAMES = ("keys", "values", "type", "forward", "train", "half", "parameters", "spec", "weights_")


def test_inputs_may_have_names_that_modules_use() -> None:
    columns = tuple(CategoriesInput(3 + number, 2 + number, name) for number, name in enumerate(NAMES))
    spec = ModelSpec((*columns, ValuesInput(2, name="eval")), CoreConfig("lstm", 6, 2, True), StepLabelsHead(4))
    params = models.params(spec)
    batch = models.spec_batch(spec, lengths=models.ragged())
    batch = batch._replace(targets=batch.targets % 4)
    state = models.state(spec)
    wanted, wanted_final = Network(spec, params).run(batch.inputs, batch.lengths, state)
    twin = TorchNetwork(spec, params).train().eval()
    got, final = run_network(twin, batch.inputs, batch.lengths, state)
    assert_close(got["logits"], wanted["logits"], "engine", what="logits")
    assert_close(final, wanted_final, "engine", what="final state")
    expected = Network(spec, params).gradients(batch, state).params
    for name, gradient in TorchTrainable(spec, params, OptimizerConfig()).gradients(batch, state).items():
        assert_close(gradient, expected[name], "autograd", what=name)


@pytest.mark.parametrize("lengths", [None, models.ragged(7, 4)], ids=["full", "ragged"])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize(("cell", "step"), [("lstm", lstm_step), ("gru", gru_step)])
def test_a_cell_may_be_one_time_step(
    cell: str, step: object, bidirectional: bool, lengths: NDArray | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = models.spec(cell, "tokens+values", 2, bidirectional, dropout=0.3)
    params, state, batch = models.params(spec), models.state(spec, 4), models.spec_batch(spec, 7, 4, lengths=lengths)
    masks = dropout_masks(spec, 7, 4, np.random.default_rng(1), np.float64)

    def values() -> dict[str, NDArray]:
        trainable = TorchTrainable(spec, params, OptimizerConfig())
        outputs, final = run_network(trainable.model, batch.inputs, lengths, state)
        return {**outputs, "final": final, **trainable.gradients(batch, state, masks)}

    expected = values()
    monkeypatch.setitem(TORCH_CELLS, cell, looped(step))  # type: ignore[arg-type]
    for name, value in values().items():
        assert_close(value, expected[name], "autograd", what=name)


@pytest.mark.parametrize("variational", [False, True])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("cell", models.ALL_CELLS)
def test_masks_of_ragged_rows_drop_the_units_that_the_reference_drops(
    cell: str, bidirectional: bool, variational: bool
) -> None:
    spec = models.spec(cell, "tokens+values", 3, bidirectional, dropout=0.3)
    params, state, lengths = models.params(spec), models.state(spec, 4), models.ragged(7, 4)
    batch = models.spec_batch(spec, 7, 4, lengths=lengths)
    masks = dropout_masks(spec, 7, 4, np.random.default_rng(1), np.float64, Dropout(0.2, 0.3, variational))
    assert masks is not None
    expected = Network(spec, params).gradients(batch, state, masks, 0.1)
    trainable = TorchTrainable(spec, params, OptimizerConfig(label_smoothing=0.1))
    for name, gradient in trainable.gradients(batch, state, masks, 0.1).items():
        assert_close(gradient, expected.params[name], "autograd", what=name)
    result = trainable.train_step(batch, state, 0.0, masks)
    assert_close(np.array(result.loss.loss), np.array(expected.loss.loss), "engine", what="loss")
    assert result.loss.details == expected.loss.details
    other = dropout_masks(spec, 7, 4, np.random.default_rng(2), np.float64, Dropout(0.2, 0.3, variational))
    with pytest.raises(AssertionError):  # alarm
        assert_close(
            trainable.gradients(batch, state, other, 0.1)["output.bias"], expected.params["output.bias"], "autograd"
        )


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("cell", models.ALL_CELLS)
def test_a_padded_batch_is_its_rows_alone(cell: str, bidirectional: bool) -> None:
    spec = models.spec(cell, "tokens+categories+values+static", 2, bidirectional)
    params, state, lengths = models.params(spec), models.state(spec, 4), models.ragged(7, 4)
    batch = models.spec_batch(spec, 7, 4, lengths=lengths)
    trainable = TorchTrainable(spec, params, OptimizerConfig())
    together, final = run_network(trainable.model, batch.inputs, lengths, state)
    grads = trainable.gradients(batch, state)
    sums = {name: np.zeros_like(value) for name, value in grads.items()}
    weight = 0.0
    for b, n in enumerate(lengths):
        row = slice(b, b + 1)
        inputs = {
            column.name: np.ascontiguousarray(
                batch.inputs[column.name][:n, row] if "time" in column.axes else batch.inputs[column.name][row]
            )
            for column in spec.inputs
        }
        alone = batch._replace(
            inputs=inputs, targets=batch.targets[:n, row], weights=batch.weights[:n, row], lengths=None
        )
        own = np.ascontiguousarray(state[:, :, row])
        logits, moved = run_network(trainable.model, inputs, None, own)
        assert_close(together["logits"][:n, row], logits["logits"], "invariant", what=f"logits of row {b}")
        assert_close(final[:, :, row], moved, "invariant", what=f"state of row {b}")
        assert (together["logits"][n:, b] == params["output.bias"]).all()  # y is zero in the padding
        for name, gradient in trainable.gradients(alone, own).items():
            sums[name] += gradient * alone.weight
        weight += alone.weight
    for name, value in grads.items():
        assert_close(value, sums[name] / weight, "autograd", what=name)


def test_loss_in_pieces_takes_float_weights_and_smoothing(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = models.spec("gru", "values", 1, True)
    params, state = models.params(spec), models.state(spec, 4)
    batch = models.spec_batch(spec, 7, 4, lengths=models.ragged(7, 4))
    trainable = TorchTrainable(spec, params, OptimizerConfig(label_smoothing=0.2))
    whole, evaluated = trainable.gradients(batch, state, None, 0.2), trainable.evaluate(batch, state)[0]
    monkeypatch.setattr("unrolled.engine.models.layers.output_loss.LOGITS_BYTES", 5 * 8 * models.C)
    for name, value in trainable.gradients(batch, state, None, 0.2).items():
        assert_close(value, whole[name], "engine", what=name)
    pieces = trainable.evaluate(batch, state)[0]
    assert_close(np.array(pieces.loss), np.array(evaluated.loss), "engine")
    assert pieces.details == evaluated.details


def test_a_batch_without_weight_has_no_gradient() -> None:
    spec = models.spec("lstm", "values", 1, True)
    batch = models.spec_batch(spec, lengths=models.ragged())
    empty = batch._replace(weights=np.zeros_like(batch.weights))
    trainable = TorchTrainable(spec, models.params(spec), OptimizerConfig("sgd"))
    assert all(not value.any() for value in trainable.gradients(empty, models.state(spec)).values())
    result = trainable.train_step(empty, models.state(spec), 0.1)
    assert (result.loss.loss, result.loss.weight, result.grad_norm) == (0.0, 0.0, 0.0)


def test_what_does_not_fit_is_refused() -> None:
    spec = models.spec("gru", "values", 1, True)
    params, state = models.params(spec), models.state(spec)
    trainable = TorchTrainable(spec, params, OptimizerConfig())
    batch = models.spec_batch(spec)
    with pytest.raises(ConfigError, match="carry"):
        trainable.train_step(batch._replace(carry=True), state, 0.1)
    with pytest.raises(ConfigError, match=r"no step.*bidirectional"):
        trainable.step(batch.inputs, state)
    with pytest.raises(ShapeError, match="lengths"):
        trainable.evaluate(batch._replace(lengths=np.array([1, 2, 99])), state)
    with pytest.raises(ShapeError, match="state"):
        trainable.evaluate(batch, state.astype(np.float32))
    with pytest.raises(ShapeError, match="targets"):
        trainable.gradients(batch._replace(targets=batch.targets + 100), state)
    wrong = batch.inputs["values"].copy()
    wrong[0, 0, 0] = np.nan
    with pytest.raises(ShapeError, match="values: 1 values are NaN"):
        trainable.gradients(batch._replace(inputs={"values": wrong}), state)


@pytest.mark.parametrize("bidirectional", [False, True])
def test_padded_rows_of_an_lstm_are_packed_ones(bidirectional: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Inputs far from 0 in the padding, as those of a large mean, must not open a gate."""
    values = ValuesInput(3, (1e6, -2e6, 3e5), (1.0, 2.0, 0.5))
    spec = ModelSpec((values,), CoreConfig("lstm", 6, 2, bidirectional, 0.3), StepLabelsHead(models.C))
    lengths = models.ragged(7, 4)
    batch = models.spec_batch(spec, 7, 4, lengths=lengths)

    def found(dtype: type, padded: bool) -> dict[str, NDArray]:
        monkeypatch.setattr("unrolled.export.torch.core.is_faster", lambda x: padded)
        state = models.state(spec, 4, dtype)
        trainable = TorchTrainable(spec, models.params(spec, dtype), OptimizerConfig())
        outputs, final = run_network(trainable.model, batch.inputs, lengths, state)
        masks = dropout_masks(spec, 7, 4, np.random.default_rng(1), dtype)
        return {**outputs, "final": final, **trainable.gradients(batch, state, masks)}

    exact = found(np.float64, False)
    for dtype in (np.float64, np.float32):
        for name, value in found(dtype, True).items():
            assert_close(value, exact[name], "autograd", dtype, name)
