"""TorchScript programs of any model: values of the reference, any sizes, padding, chunks, names, toy cells, alarms."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import models
import numpy as np
import pytest
from numpy.typing import NDArray
from tolerances import assert_close

from unrolled.engine.errors import ConfigError, ModelFileError, ShapeError
from unrolled.engine.models.heads.step_labels import StepLabelsHead
from unrolled.engine.models.inputs.embedded import CategoriesInput
from unrolled.engine.models.inputs.numeric import ValuesInput
from unrolled.engine.models.layers.core_config import CoreConfig
from unrolled.engine.models.parameters import Params, parameter_shapes
from unrolled.engine.models.spec import ModelSpec
from unrolled.engine.network.network import Network
from unrolled.engine.storage.checkpoint import Checkpoint
from unrolled.export.artifact.forms import RUN
from unrolled.export.formats import export_model

torch = pytest.importorskip("torch", reason="the torch extra is not installed")
from torch import Tensor  # noqa: E402 - needs torch
from torch_steps import gru_step, lstm_step  # noqa: E402

from unrolled.export.torch.cells import TORCH_CELLS, TorchCell, looped  # noqa: E402
from unrolled.export.torch.run_program import program_params, script_network  # noqa: E402
from unrolled.export.torch.torchscript import ScriptedRunner, read_params, read_torchscript  # noqa: E402

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]


def stored(spec: ModelSpec, params: Params) -> tuple[Any, zipfile.ZipFile]:
    """Return the program after a round trip through a file, and that file."""
    file = io.BytesIO()
    torch.jit.save(script_network(spec, params), file)
    file.seek(0)
    return torch.jit.load(file), zipfile.ZipFile(file)


def assert_follows(
    program: Any, spec: ModelSpec, params: Params, steps: int, lengths: NDArray | None, rows: int
) -> None:
    """Compare outputs and final state with the reference in float32."""
    batch = models.spec_batch(spec, steps, rows, lengths=lengths)
    state = models.state(spec, rows, np.float32) if "step" in spec.capabilities else None
    wanted, wanted_final = Network(spec, params).run(batch.inputs, lengths, state)
    got, final = ScriptedRunner(program, spec, "this program").run(batch.inputs, lengths, state)
    assert set(got) == set(wanted)
    for name, value in wanted.items():
        assert_close(got[name], value, "export", what=name)
    assert_close(final, wanted_final, "export", what="final state")


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("inputs", models.MIXTURES)
@pytest.mark.parametrize("cell", models.ALL_CELLS)
def test_a_program_computes_what_the_reference_does_at_every_size(cell: str, inputs: str, bidirectional: bool) -> None:
    spec = models.spec(cell, inputs, 1 + len(inputs) % 3, bidirectional)
    params = models.params(spec, np.float32)
    program, archive = stored(spec, params)
    for steps, lengths in ((7, models.ragged(7, 5)), (7, None), (1, None), (8, np.array([5, 2, 1, 3, 4]))):
        assert_follows(program, spec, params, steps, lengths, 5)
    sizes = sorted(entry.file_size for entry in archive.infolist() if "/data/" in entry.filename)
    assert sizes == sorted(4 * int(np.prod(shape)) for shape in parameter_shapes(spec).values())
    for name, value in program_params(program, spec).items():
        np.testing.assert_array_equal(value, params[name])


def test_the_program_takes_any_padding_without_the_help_of_a_host() -> None:
    spec = models.spec("lstm", "tokens+categories+values+static", 2, True)
    params = models.params(spec, np.float32)
    program, _ = stored(spec, params)
    lengths = models.ragged(7, 4)
    batch = models.spec_batch(spec, 7, 4, lengths=lengths)  # NaN and wild ids in the padding
    got = program(
        {
            **{name: torch.from_numpy(array) for name, array in batch.inputs.items()},
            "lengths": torch.from_numpy(lengths),
        }
    )
    wanted, final = Network(spec, params).run(batch.inputs, lengths)
    assert_close(got["logits"].numpy(), wanted["logits"], "export")
    assert_close(got["final_state"].numpy(), final, "export")


def test_chunks_of_one_direction_are_the_whole() -> None:
    spec = models.spec("gru", "tokens+values", 2, head="next_token")
    program, _ = stored(spec, models.params(spec, np.float32))
    runner = ScriptedRunner(program, spec, "this program")
    inputs, state = models.spec_batch(spec, 9, 3).inputs, models.state(spec, 3, np.float32)
    whole, end = runner.step(inputs, state)
    parts = []
    for first, last in ((0, 1), (1, 5), (5, 9)):
        outputs, state = runner.step({name: array[first:last] for name, array in inputs.items()}, state)
        parts.append(outputs["logits"])
    assert_close(np.concatenate(parts), whole["logits"], "invariant")
    assert_close(state, end, "invariant")


def test_inputs_may_have_names_that_modules_use() -> None:
    names = ("keys", "values", "type", "forward", "train", "full", "run", "half")
    columns = tuple(CategoriesInput(3 + number, 2 + number, name) for number, name in enumerate(names))
    spec = ModelSpec((*columns, ValuesInput(2, name="eval")), CoreConfig("gru", 6, 1, True), StepLabelsHead(models.C))
    params = models.params(spec, np.float32)
    program, _ = stored(spec, params)
    assert_follows(program, spec, params, 5, models.ragged(5, 4), 4)


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize(("cell", "step"), [("lstm", lstm_step), ("gru", gru_step)])
def test_cells_of_one_time_step_are_not_frozen(
    cell: str, step: Any, bidirectional: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(TORCH_CELLS, cell, looped(step))
    spec = models.spec(cell, "values", 2, bidirectional)
    params = models.params(spec, np.float32)
    program, _ = stored(spec, params)
    for steps, lengths in ((7, models.ragged(7, 5)), (9, None), (1, None)):
        assert_follows(program, spec, params, steps, lengths, 5)


def frozen_layers(
    x: Tensor, state: Tensor, weights: list[Tensor], num_layers: int, bidirectional: bool, batch_sizes: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Run a cell with a common mistake: a loop whose number of time steps tracing freezes."""
    h, outputs = state[0, 0], []
    for t in range(int(x.shape[0])):
        h = torch.tanh(torch.nn.functional.linear(x[t], weights[0], weights[2]) + h)
        outputs.append(h)
    return torch.stack(outputs), h[None, None]


def test_a_program_that_tracing_froze_is_not_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TORCH_CELLS, "rnn", TorchCell(frozen_layers))
    monkeypatch.setattr("unrolled.export.torch.run_program.PROBE_LENGTHS", ((4, 4, 4),))
    spec = models.spec("rnn", "values", 1)
    with pytest.raises(ModelFileError, match="tracing freezes"):
        script_network(spec, models.params(spec, np.float32))


def test_what_a_program_cannot_do_is_refused() -> None:
    spec = models.spec("gru", "values", 1, True)
    params = models.params(spec, np.float32)
    runner = ScriptedRunner(stored(spec, params)[0], spec, "this program")
    batch = models.spec_batch(spec)
    with pytest.raises(ConfigError, match="no step"):
        runner.step(batch.inputs, models.state(spec, dtype=np.float32))
    with pytest.raises(ConfigError, match="no step"):
        runner.run(batch.inputs, None, models.state(spec, dtype=np.float32))
    with pytest.raises(ShapeError, match="lengths"):
        runner.run(batch.inputs, np.array([1, 2, 99]))
    other = models.spec("lstm", "values", 1, True)
    with pytest.raises(ModelFileError, match="this program: "):
        ScriptedRunner(runner.module, other, "this program").run(batch.inputs)


@pytest.mark.parametrize("damage", ["directions", "gates", "scale"])
def test_alarm_another_program_is_noticed(damage: str) -> None:
    spec = models.spec("gru", "values", 1, True)
    params = models.params(spec, np.float32)
    wrong, described = dict(params), spec
    if damage == "directions":
        for name in params:
            if name.endswith("_reverse"):
                plain = name.removesuffix("_reverse")
                wrong[name], wrong[plain] = params[plain], params[name]
    elif damage == "gates":
        name = "rnn.weight_hh_l0_reverse"
        wrong[name] = np.roll(params[name], models.H, axis=0)
    else:
        described = ModelSpec((ValuesInput(7),), spec.core, spec.head)
    program, _ = stored(described, wrong)
    with pytest.raises(AssertionError):
        assert_follows(program, spec, params, 5, models.ragged(5, 4), 4)


def test_a_file_of_a_program_keeps_model_and_metadata(tmp_path: Path) -> None:
    spec = models.spec("lstm", "tokens+values+static", 2, True)
    checkpoint = Checkpoint(spec, models.params(spec, np.float32), {}, {"note": 1})
    path = export_model(checkpoint, tmp_path / "tagger.pt", "torchscript")
    module, info = read_torchscript(path)
    assert (info.form, info.spec, info.checkpoint_digest) == (RUN, spec, checkpoint.digest)
    assert info.training == {"note": 1}
    assert_follows(module, spec, checkpoint.params, 7, models.ragged(7, 4), 4)
    assert len(info.golden) == 3
    for name, value in read_params(module, spec).items():
        np.testing.assert_array_equal(value, checkpoint.params[name])


def test_a_file_whose_weights_are_cut_short_is_refused(tmp_path: Path) -> None:
    spec = models.spec("gru", "values", 1, True)
    checkpoint = Checkpoint(spec, models.params(spec, np.float32), {})
    path = export_model(checkpoint, tmp_path / "tagger.pt", "torchscript")
    with zipfile.ZipFile(path) as archive, zipfile.ZipFile(tmp_path / "cut.pt", "w") as cut:
        for entry in archive.infolist():
            data = archive.read(entry)
            cut.writestr(entry.filename, data[:-4] if entry.filename.endswith("/data/2") else data)
    with pytest.raises(ModelFileError, match="not of the sizes"):
        read_torchscript(tmp_path / "cut.pt")
