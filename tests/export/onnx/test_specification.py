"""Exported graphs against the ONNX specification: onnx's reference evaluator is the judge of values, shapes and ranks."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any, NamedTuple

import models
import numpy as np
import onnx
import onnx_operators
import onnxruntime as ort
import pytest
from exports import STORED
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun
from run_graphs import ALL_INPUTS, assert_results, by_evaluator, by_onnxruntime, inputs_of, model_of
from tolerances import assert_close

from unrolled.engine.storage.checkpoint import Checkpoint, load_checkpoint
from unrolled.export.artifact.forms import FORMS
from unrolled.export.formats import export_model
from unrolled.export.onnx.reader import read_onnx
from unrolled.export.onnx.specification import violations
from unrolled.export.onnx.token_draw import PARTIAL_SORT
from unrolled.export.onnx.writer import build
from unrolled.export.verification.verify import verify
from unrolled.runtime import generate, load

FROZEN = Path(__file__).parents[2] / "frozen" / "0.1.0"
GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}
STANDARD = [
    name for name in STORED if name != "quantized"
]  # quantized graphs have operators of onnxruntime's own domain

# --- the three operators of the tests, against onnxruntime


def operator_model(operator: str, T: int, lens: bool, initial: bool, direction: str, **attributes: Any) -> tuple:
    """Return a model of one recurrent node, and inputs for it."""
    E, H, B, D, G = 4, 5, 3, 2 if direction == "bidirectional" else 1, GATES[operator]
    rng = np.random.default_rng((T, lens, initial, D, G))
    shapes = {"X": (T, B, E), "W": (D, G * H, E), "R": (D, G * H, H), "B": (D, 2 * G * H)}
    inputs: dict[str, NDArray] = {name: rng.normal(size=s).astype(np.float32) for name, s in shapes.items()}
    names = list(inputs)
    if lens:
        inputs["lens"] = np.array([T, 1, max(T - 1, 1)], np.int32)
    names.append("lens" if lens else "")
    states = ["h", "c"] if operator == "LSTM" else ["h"]
    if initial:
        inputs |= {name: rng.normal(size=(D, B, H)).astype(np.float32) for name in states}
        names += states
    outputs = ["Y", *(f"Y_{name}" for name in states)]
    node = helper.make_node(operator, names, outputs, hidden_size=H, direction=direction, **attributes)
    kinds = {name: helper.np_dtype_to_tensor_dtype(value.dtype) for name, value in inputs.items()}
    given = [helper.make_tensor_value_info(name, kinds[name], inputs[name].shape) for name in inputs]
    returned = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
    graph = helper.make_graph([node], "operator", given, returned)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), inputs


def session_of(model: onnx.ModelProto) -> ort.InferenceSession:
    return ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


ATTRIBUTES: list[tuple[str, dict[str, Any]]] = [
    ("RNN", {}),
    ("RNN", {"activations": ["Relu"]}),
    ("GRU", {}),
    ("GRU", {"linear_before_reset": 1}),
    ("LSTM", {}),
]


@pytest.mark.parametrize("direction", onnx_operators.DIRECTIONS)
@pytest.mark.parametrize("initial", [False, True])
@pytest.mark.parametrize("lens", [False, True])
@pytest.mark.parametrize("T", [1, 6])
@pytest.mark.parametrize(("operator", "attributes"), ATTRIBUTES)
def test_the_tests_operators_are_onnxruntimes(
    operator: str, attributes: dict[str, Any], T: int, lens: bool, initial: bool, direction: str
) -> None:
    if attributes.get("activations") and direction == "bidirectional":
        attributes = {"activations": attributes["activations"] * 2}
    model, inputs = operator_model(operator, T, lens, initial, direction, **attributes)
    expected = session_of(model).run(None, inputs)
    got = ReferenceEvaluator(model, new_ops=onnx_operators.OPERATORS).run(None, inputs)
    for name, ours, theirs in zip(("Y", "Y_h", "Y_c"), got, expected, strict=False):
        assert ours.dtype == np.float32
        assert_close(ours, theirs, "export", what=name)


@pytest.mark.parametrize(("operator", "order"), [("GRU", (1, 0, 2)), ("LSTM", (0, 2, 1, 3)), ("LSTM", (1, 0, 2, 3))])
def test_alarm_another_order_of_gates_is_noticed(operator: str, order: tuple[int, ...]) -> None:
    model, inputs = operator_model(operator, 4, True, True, "forward")
    expected = session_of(model).run(None, inputs)
    swapped = np.concatenate([np.split(inputs["R"], len(order), axis=1)[gate] for gate in order], axis=1)
    got = ReferenceEvaluator(model, new_ops=onnx_operators.OPERATORS).run(None, inputs | {"R": swapped})
    with pytest.raises(AssertionError, match="difference"):
        assert_close(got[0], expected[0], "export")


def test_what_the_tests_operators_do_not_have_is_refused() -> None:
    model, inputs = operator_model("GRU", 3, False, False, "forward", clip=1.0)
    with pytest.raises(NotImplementedError, match="clip"):
        ReferenceEvaluator(model, new_ops=onnx_operators.OPERATORS).run(None, inputs)


# --- every exported graph, evaluated


class Case(NamedTuple):
    """One call of a graph."""

    T: int
    B: int
    steps: int = 0
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    end_token: int = -1


CASES = {
    "plain": Case(5, 3, 9, 0.8),
    "no step": Case(3, 2, 0),
    "no step, filtered": Case(3, 2, 0, 1.0, 2),
    "one step": Case(1, 1, 1),
    "one step, filtered": Case(2, 3, 1, 1.2, 4, 0.7),
    "greedy": Case(4, 2, 7, 1.0, 1),
    "top-k": Case(2, 3, 6, 0.7, 4),
    "more than there are": Case(2, 3, 4, 1.3, 10_000),
    "top-p": Case(2, 3, 6, 1.1, 0, 0.6),
    "all filters": Case(6, 1, 40, 0.9, 8, 0.9),
    "nothing but the best": Case(1, 2, 5, 1.0, 0, 0.0),
    "ends": Case(3, 3, 60, 1.0, 0, 1.0, 2),
    "ends, filtered": Case(3, 3, 60, 1.0, 9, 0.95, 2),
}
RANKS = {  # of inputs by position, where the specification fixes them for all data
    "ConstantOfShape": {0: 1},
    "CumSum": {1: 0},
    "Expand": {1: 1},
    "GRU": {0: 3, 1: 3, 2: 3, 3: 2, 4: 1, 5: 3},
    "If": {0: 0},
    "LSTM": {0: 3, 1: 3, 2: 3, 3: 2, 4: 1, 5: 3, 6: 3},
    "Loop": {0: 0, 1: 0},
    "Range": {0: 0, 1: 0, 2: 0},
    "RNN": {0: 3, 1: 3, 2: 3, 3: 2, 4: 1, 5: 3},
    "ReduceSum": {1: 1},
    "Reshape": {1: 1},
    "Slice": {1: 1, 2: 1, 3: 1},
    "Squeeze": {1: 1},
    "TopK": {1: 1},
    "Unsqueeze": {1: 1},
}


def text_inputs(checkpoint: Checkpoint, form: str, case: Case) -> dict[str, NDArray]:
    config, rng = checkpoint.config, np.random.default_rng(case.T + 10 * case.steps)
    inputs: dict[str, NDArray] = {
        "tokens": rng.integers(0, config.vocab_size, (case.T, case.B)),
        "state": models.state(config, case.B, np.float32),
    }
    if form != "step":
        inputs["lengths"] = rng.integers(1, case.T + 1, case.B)
        inputs["uniforms"] = rng.random((case.steps, case.B))
        kinds = {"temperature": np.float64, "top_k": np.int64, "top_p": np.float64, "end_token": np.int64}
        inputs |= {name: np.array(getattr(case, name), kind) for name, kind in kinds.items()}
    return inputs


def watch_ranks(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Check every evaluated node against ``RANKS``; return the set to which their names are added."""
    seen, run = set(), OpRun.run

    @functools.wraps(run)
    def checked(self: OpRun, *args: Any, **settings: Any) -> Any:
        seen.add(self.onnx_node.name)
        for place, rank in RANKS.get(self.op_type, {}).items():
            if place < len(args) and args[place] is not None:
                got = np.ndim(args[place])
                assert got == rank, f"input {place} of {self.onnx_node.name} has rank {got}, must have {rank}"
        return run(self, *args, **settings)

    monkeypatch.setattr(OpRun, "run", checked)
    return seen


def assert_evaluates(checkpoint: Checkpoint, form: str, stored: str, cases: dict[str, Case]) -> list[int]:
    """Check that the evaluator gives the results of onnxruntime; return how many tokens each case wrote."""
    model = build(checkpoint, form, STORED[stored], golden=False)
    onnx.checker.check_model(model, full_check=True)
    onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    evaluator, session = ReferenceEvaluator(model, new_ops=onnx_operators.OPERATORS), session_of(model)
    counts = []
    for name, case in cases.items():
        inputs = text_inputs(checkpoint, form, case)
        expected = dict(zip(FORMS[form].outputs, session.run(None, inputs), strict=True))
        got = evaluator.run(None, inputs, check_shape_annotations=True)
        for output, value in zip(FORMS[form].outputs, got, strict=True):
            assert value.dtype == expected[output].dtype
            if output == "written":
                np.testing.assert_array_equal(value, expected[output], err_msg=name)
                counts.append(len(value))
            else:
                assert_close(value, expected[output], "export", what=f"{output}, {name}")
    return counts


@pytest.mark.parametrize("stored", STANDARD)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("cell", models.ALL_CELLS)
def test_the_reference_evaluator_computes_every_form(
    cell: str, form: str, stored: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cases = {name: case for name, case in CASES.items() if form != "step" or case.top_k == 0}
    seen = watch_ranks(monkeypatch)
    counts = assert_evaluates(models.checkpoint(cell), form, stored, cases)
    if form != "step":
        steps = [case.steps for case in cases.values()]
        assert {name.split(":")[0] for name in seen} >= {"loop", "if", "cumsum", "topk", "scatterelements"}
        assert counts[: len(steps) - 2] == steps[:-2]
        assert all(1 < got < most for got, most in zip(counts[-2:], steps[-2:], strict=True))  # texts that end


@pytest.mark.parametrize("form", ["generate", "both"])
def test_the_reference_evaluator_sorts_part_of_a_large_vocabulary(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = models.checkpoint("lstm", 1, vocab_size=PARTIAL_SORT + 9, tie_weights=True)
    seen = watch_ranks(monkeypatch)
    assert_evaluates(checkpoint, form, "float32", {name: CASES[name] for name in ("plain", "greedy", "top-k", "top-p")})
    whole, part = "topk:filtered_loop_whole_best", "cumsum:filtered_loop_part_before"
    assert part in seen
    assert whole not in seen
    assert_evaluates(checkpoint, form, "float32", {"flat": Case(2, 2, 3, 9.0, 0, 0.999)})
    assert whole in seen


@pytest.mark.parametrize("stored", STANDARD)
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("cell", models.ALL_CELLS)
def test_the_reference_evaluator_computes_form_run(
    cell: str, bidirectional: bool, stored: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = models.spec(cell, ALL_INPUTS, 2, bidirectional)
    model, inputs, seen = model_of(spec, stored=stored), inputs_of(spec), watch_ranks(monkeypatch)
    assert_results(by_evaluator(model, inputs), by_onnxruntime(model, inputs))
    assert {name.split(":")[0] for name in seen} >= {
        "range",
        "where",
        "expand",
        "transpose" if bidirectional else "split",
    }
    assert violations(model) == []


# --- graphs that break the specification, and verify


def old_graph(model: onnx.ModelProto) -> None:
    """Give ``CumSum`` the axis of files of 0.1.0, of rank 1."""
    next(tensor for tensor in model.graph.initializer if tensor.name == "along_1").CopyFrom(
        numpy_helper.from_array(np.array([1]), "along_1")
    )


def test_alarm_the_evaluator_and_the_ranks_notice_an_axis_of_rank_1(monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = models.checkpoint("gru")
    model = build(checkpoint, "generate", golden=False)
    old_graph(model)
    evaluator, inputs = (
        ReferenceEvaluator(model, new_ops=onnx_operators.OPERATORS),
        text_inputs(checkpoint, "generate", CASES["plain"]),
    )
    with pytest.raises(ValueError, match="rank-0"):
        evaluator.run(None, inputs)
    watch_ranks(monkeypatch)
    with pytest.raises(AssertionError, match=r"input 1 of cumsum:first_cdf has rank 1, must have 0"):
        evaluator.run(None, inputs)


@pytest.mark.parametrize("stored", STORED)
@pytest.mark.parametrize("form", FORMS)
def test_exported_graphs_break_no_rule(form: str, stored: str) -> None:
    for cell in models.ALL_CELLS:
        assert violations(build(models.checkpoint(cell), form, STORED[stored], golden=False)) == []


@pytest.mark.parametrize("path", sorted(FROZEN.glob("*.onnx")), ids=lambda path: path.stem)
def test_verify_fails_the_graphs_of_010_that_break_a_rule_and_they_still_generate(path: Path) -> None:
    checks = list(verify(path, load))
    writes = read_onnx(path).info.form != "step"
    failed = [check for check in checks if not check.ok]
    assert [check.name for check in failed] == (["specification"] if writes else [])
    for check in failed:
        assert "the axis of CumSum has shape [1], it must be a scalar (cumsum:" in check.detail
        assert "Concat reads rows that a Loop may not have written" in check.detail
        assert "(concat:all_written)" in check.detail
        assert "export it again" in check.detail
    model = load(path)
    prompt = model.tokenizer.decode([len(model.tokenizer.vocabulary) - 1] * 2)
    assert len(generate(model, [prompt], max_new_tokens=5, seed=1)[0].tokens) >= 1


@pytest.mark.parametrize("path", sorted(FROZEN.glob("*-both-*.onnx")), ids=lambda path: path.stem)
def test_graphs_write_what_those_of_010_wrote(path: Path) -> None:
    source, stored = path.stem.split("-both-")
    checkpoint = load_checkpoint(FROZEN / f"{source}.safetensors")
    old = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    new = session_of(build(checkpoint, "both", STORED[stored], golden=False))
    for name, case in CASES.items():
        inputs = text_inputs(checkpoint, "both", case)
        for output, got, expected in zip(
            FORMS["both"].outputs, *(s.run(None, inputs) for s in (new, old)), strict=True
        ):
            np.testing.assert_array_equal(got, expected, err_msg=f"{output}, {name}")


@pytest.mark.parametrize("form", ["generate", "both"])
def test_verify_says_which_node_breaks_which_rule(tmp_path: Path, form: str) -> None:
    path = export_model(models.checkpoint("rnn"), tmp_path / "model.onnx", "onnx", form)
    model = onnx.load(path)
    old_graph(model)
    onnx.save(model, path)
    last = list(verify(path, load))[-1]
    assert (last.name, last.ok) == ("specification", False)
    assert (
        "the axis of CumSum has shape [1], it must be a scalar (cumsum:first_filtered_before and 4 more)" in last.detail
    )


LOOP = """
<ir_version: 8, opset_import: ["" : 17]>
graph (int64 count, bool go, float[2] x, bool ask) => (float[n, 2] y)
<int64 three = {{3}}, bool yes = {{1}}>
{{
  {outside}
  [the_loop] last, rows = Loop ({trips}) <
    body = turn (int64 i, bool on, float[2] h) => (bool keep, float[2] moved, float[2] row) {{
    keep = Identity (on)
    moved = Add (h, h)
    row = Identity (h)
    }}>
  {after}
}}
"""
FIRST = "first = Unsqueeze (x, axes)\n  "
AXES = "axes = Constant <value = int64[1] {0}> ()\n  "
JOINED = "[joined] y = Concat <axis = 0> (first, rows)"
JOINED_LATER = "many = Reshape (rows, shape)\n  [joined] y = Concat <axis = 0> (first, many)"
ASKED = """y = If (ask) <
    then_branch = yes_branch () => (float[n, 2] a) { [joined] a = Concat <axis = 0> (first, rows) },
    else_branch = no_branch () => (float[n, 2] b) { b = Identity (first) }>"""
SHAPE = "shape = Constant <value = int64[2] {-1, 2}> ()\n  "


@pytest.mark.parametrize(
    ("trips", "after", "broken"),
    [
        ("count, go, x", JOINED, True),
        ("three, go, x", JOINED, True),
        ("count, yes, x", JOINED, True),
        ("count, , x", JOINED, True),
        ("count, go, x", JOINED_LATER, True),
        ("three, yes, x", JOINED, False),
        ("three, , x", JOINED, False),
        ("count, go, x", ASKED, False),
        ("count, go, x", "y = Unsqueeze (last, axes)", False),
    ],
)
@pytest.mark.parametrize("inside", [False, True])
def test_rows_of_a_loop_that_may_not_run_must_not_be_joined(trips: str, after: str, broken: bool, inside: bool) -> None:
    text = LOOP.format(outside=AXES + SHAPE + FIRST, trips=trips, after=after)
    model = onnx.parser.parse_model(text)
    if inside:  # the same in a branch, which reads the constants outside
        branch = onnx.GraphProto()
        branch.CopyFrom(model.graph)
        del branch.initializer[:], branch.input[:]
        node = helper.make_node("If", ["ask"], ["z"], then_branch=branch, else_branch=branch)
        del model.graph.node[:]
        model.graph.node.append(node)
    expected = "Concat reads rows that a Loop may not have written, whose shape is then undefined (joined"
    assert [line[: len(expected)] for line in violations(model)] == ([expected] if broken else [])
