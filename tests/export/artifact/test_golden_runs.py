"""Golden cases and metadata of form run: what a host of another author reads in a file, and what a hostile one may hold."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path
from typing import Any

import models
import numpy as np
import onnx
import pytest
from exports import exported

from unrolled.engine.errors import ModelFileError
from unrolled.engine.network.network import Network
from unrolled.export.artifact.forms import FORMS, RUN, describe_state, forms_of, signature_of
from unrolled.export.artifact.golden_runs import (
    LENGTHS,
    MAX_VALUES,
    check_golden_runs,
    golden_runs,
    read_golden_run,
    run_values,
)
from unrolled.export.artifact.metadata import KEYS, PREFIX, parse_metadata

ALL_INPUTS = models.MIXTURES[-1]


def network_of(spec: Any) -> Network:
    return Network(spec, models.params(spec, np.float32))


def metadata_of(path: Path) -> dict[str, str]:
    return {entry.key: entry.value for entry in onnx.load(path).metadata_props}


@pytest.mark.parametrize("inputs", models.MIXTURES)
@pytest.mark.parametrize("bidirectional", [False, True])
def test_a_host_that_reads_only_the_metadata_meets_the_golden_cases(
    tmp_path: Path, inputs: str, bidirectional: bool
) -> None:
    """A host as docs/formats.md lets a stranger write it: JSON, onnxruntime and nothing of this package."""
    ort = pytest.importorskip("onnxruntime")
    path = exported(models.spec_checkpoint(models.spec("lstm", inputs, 2, bidirectional)), tmp_path)
    metadata, session = metadata_of(path), ort.InferenceSession(path.read_bytes())
    assert metadata["unrolled.format_version"] == "2"
    assert metadata["unrolled.task"] == "step_labels"
    described = {part: json.loads(metadata[f"unrolled.{part}"]) for part in ("inputs", "outputs", "state", "golden")}
    assert [value.name for value in session.get_inputs()] == [value["name"] for value in described["inputs"]]
    compared = 0
    for case in described["golden"]:
        sizes = {"time": case["time"], "batch": case["batch"]}
        arrays = {**case["inputs"], "lengths": case["lengths"]}
        given = {}
        for value in described["inputs"]:
            shape = [sizes.get(axis, axis) for axis in value["axes"]]
            flat = [0.0] * math.prod(shape) if value["name"] == described["state"]["input"] else arrays[value["name"]]
            given[value["name"]] = np.array(flat, value["dtype"]).reshape(shape)
        names = [value["name"] for value in described["outputs"]]
        for name, array in zip(names, session.run(names, given), strict=True):
            recorded = case["outputs"][name]
            np.testing.assert_allclose(array.reshape(-1)[recorded["indices"]], recorded["values"], 1e-4, 1e-4)
            compared += len(recorded["values"])
    assert compared > 200


@pytest.mark.parametrize("bidirectional", [False, True])
def test_cases_record_what_the_model_computes(bidirectional: bool) -> None:
    spec = models.spec("gru", ALL_INPUTS, 3, bidirectional)
    network = network_of(spec)
    cases = golden_runs(network)
    assert cases == golden_runs(network)  # seeded
    assert [tuple(case["lengths"]) for case in cases] == list(LENGTHS)
    for recorded in json.loads(json.dumps(cases)):
        case = read_golden_run(recorded, spec)
        padding = np.arange(recorded["time"])[:, None] >= case.lengths
        assert not case.inputs["values"][padding].any()
        values = run_values(network, case.inputs, case.lengths)
        assert set(case.outputs) == set(values) == {"logits", "final_state"}
        for name, (indices, expected) in case.outputs.items():
            np.testing.assert_array_equal(values[name].reshape(-1)[indices], expected.astype(np.float32))


def test_of_large_outputs_a_choice_of_values_is_recorded() -> None:
    spec = models.spec("rnn", "values", 4, bidirectional=True)
    record = golden_runs(network_of(spec))[2]["outputs"]["final_state"]
    size = math.prod(spec.state_shape(2))
    assert size < MAX_VALUES
    assert record["indices"] == list(range(size))
    record = golden_runs(network_of(spec))[2]["outputs"]["logits"]
    assert len(record["indices"]) == len(set(record["indices"])) == min(MAX_VALUES, 9 * 2 * models.C)


def test_metadata_have_the_keys_of_format_2(tmp_path: Path) -> None:
    checkpoint = models.spec_checkpoint(models.spec("gru", ALL_INPUTS), {"note": "é"})
    values = metadata_of(exported(checkpoint, tmp_path))
    assert set(values) == {PREFIX + key for key in KEYS[2]}
    info = parse_metadata(values, "file")
    assert (info.form, info.spec, info.training) == (RUN, checkpoint.spec, {"note": "é"})
    assert info.description == checkpoint.description
    assert info.checkpoint_digest == checkpoint.digest == info.weights.digest
    state = json.loads(values["unrolled.state"])
    assert (state["input"], state["output"], state["shape"]) == ("state", "final_state", [1, 2, None, models.H])


@pytest.mark.parametrize("form", FORMS)
def test_the_state_that_a_file_of_format_2_names_is_an_output_of_its_graph(form: str) -> None:
    spec = models.config("gru").spec
    outputs = signature_of(form, spec).outputs
    named = {version: describe_state(form, spec, version)["output"] for version in (1, 2)}
    assert named == {1: "next_state", 2: "final_state" if form == "generate" else "next_state"}
    assert outputs[named[2]].kind == "state"


def test_forms_and_their_values() -> None:
    assert forms_of(models.config("gru").spec) == ("step", "generate", "both")
    both = models.spec("lstm", ALL_INPUTS, 2, bidirectional=True)
    assert forms_of(both) == (RUN,)
    signature = signature_of(RUN, both)
    assert list(signature.inputs) == ["static", "values", "categories", "tokens", "lengths"]
    assert signature.outputs["final_state"].axes == (2, 4, "batch", models.H)
    assert list(signature_of(RUN, models.spec("lstm", ALL_INPUTS)).inputs)[-2:] == ["lengths", "state"]
    text = signature_of("both", models.config("lstm", 3).spec)
    assert text.inputs["state"].axes == (2, 3, "batch", models.H)
    assert text.outputs["logits"].axes == ("time", "batch", models.V)
    assert {name for name, value in text.inputs.items() if value.kind == "generation"} == {
        "uniforms", "temperature", "top_k", "top_p", "end_token",
    }  # fmt: skip


def changed(case: dict[str, Any], place: tuple[Any, ...], value: Any) -> Any:
    other = copy.deepcopy(case)
    inner: Any = other
    for key in place[:-1]:
        inner = inner[key]
    if value is ...:
        del inner[place[-1]]
    else:
        inner[place[-1]] = value
    return other


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (("time",), ..., "a case needs time, batch, lengths"),
        (("time",), 10**9, "needs at most 4096 positions"),
        (("batch",), True, "needs at most 4096 positions"),
        (("time",), 0, "needs at most 4096 positions"),
        (("lengths",), [5, 1], "lengths needs a list of 3 values"),
        (("lengths", 1), 0, "lengths: from 0 to 5"),
        (("lengths", 1), 1.0, "lengths has values that are no whole numbers"),
        (("inputs", "tokens"), ..., "a case has no tokens"),
        (("inputs", "tokens", 0), models.V, "tokens: ids from"),
        (("inputs", "tokens", 0), 2**63, "tokens has values that are no whole numbers"),
        (("inputs", "values"), [1.0], "values needs a list of 105 values"),
        (("inputs", "values", 3), "1", "values has values that are no numbers"),
        (("inputs", "values", 3), 1e39, "values has values that are no numbers"),
        (("inputs",), [], "a case has no static"),
        (("outputs", "logits"), ..., "a case has no logits"),
        (("outputs", "logits", "indices"), [10**9], "logits needs indices below 150"),
        (("outputs", "logits", "indices", 4), -1, "logits needs indices below 150"),
        (("outputs", "logits", "values", 4), None, "logits has values that are no numbers"),
        (("outputs", "final_state", "values"), [], "final_state needs indices below 36 and as many values"),
        (("outputs",), None, "a case has no logits"),
    ],
)
def test_a_hostile_case_is_a_named_error(place: tuple[Any, ...], value: Any, message: str) -> None:
    spec = models.spec("rnn", ALL_INPUTS, 2)
    case = golden_runs(network_of(spec))[1]
    check_golden_runs([case], spec)
    with pytest.raises(ModelFileError, match=message):
        check_golden_runs([changed(case, place, value)], spec)


@pytest.mark.parametrize("cases", [None, {}, [[]], [None], "x"])
def test_golden_cases_that_are_none_are_a_named_error(cases: Any) -> None:
    with pytest.raises(ModelFileError, match="golden: "):
        check_golden_runs(cases, models.spec("rnn", "values"))


def as_release_0_1_0_reads(metadata: dict[str, str]) -> None:
    """The first lines of the reader of exported files of release 0.1.0, which looks at nothing else before them."""
    version = metadata["unrolled.format_version"]
    if version != "1":
        raise ModelFileError(f"export format {version!r}; this release reads 1")


def test_release_0_1_0_refuses_format_2_by_its_number(tmp_path: Path) -> None:
    as_release_0_1_0_reads(metadata_of(exported(models.checkpoint("gru"), tmp_path)))
    with pytest.raises(ModelFileError, match="export format '2'; this release reads 1"):
        as_release_0_1_0_reads(metadata_of(exported(models.spec_checkpoint(models.spec("gru", "values")), tmp_path)))
