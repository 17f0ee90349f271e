"""Descriptions of models: their JSON form, what they refuse, and the contract that all heads keep."""

from __future__ import annotations

import json
from typing import Any

import models
import numpy as np
import pytest

from unrolled.engine.errors import ConfigError
from unrolled.engine.models.heads import HEADS
from unrolled.engine.models.heads.head import Head, logged_metrics, selecting_metric
from unrolled.engine.models.heads.next_token import NextTokenHead
from unrolled.engine.models.heads.step_labels import StepLabelsHead
from unrolled.engine.models.inputs.embedded import CategoriesInput, TokensInput
from unrolled.engine.models.inputs.numeric import StaticInput, ValuesInput
from unrolled.engine.models.layers.core_config import CoreConfig
from unrolled.engine.models.layers.output_loss import LossSums
from unrolled.engine.models.spec import ModelSpec

SOME_HEADS: list[Head] = [NextTokenHead(11), StepLabelsHead(4)]


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("inputs", models.MIXTURES)
def test_the_json_form_is_read_back(inputs: str, bidirectional: bool) -> None:
    spec = models.spec("gru", inputs, 3, bidirectional, dropout=0.25)
    assert ModelSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec


def changed(part: str, **settings: Any) -> dict[str, Any]:
    """Return the JSON form of a model with settings of a part replaced; None removes one."""
    values = json.loads(json.dumps(models.spec(inputs="values").to_dict()))
    target = values["inputs"][0] if part == "inputs" else values[part]
    target.update(settings)
    for name in [name for name, value in target.items() if value == "removed"]:
        del target[name]
    return values


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([], "model spec: got list; needs inputs, core and head"),
        ({"core": {}}, "model spec: got core; needs inputs, core and head"),
        ({**changed("core"), "inputs": {}}, "inputs: got a dict, needs a list"),
        ({**changed("core"), "inputs": []}, "inputs: got none; needs one that varies over time"),
        (
            changed("inputs", kind="pictures"),
            "input: got kind 'pictures', choose one of tokens, categories, values, static",
        ),
        (changed("inputs", kind=["values"]), "input: got kind"),
        (changed("inputs", columns=0), "columns: got 0, needs a whole number"),
        (changed("inputs", columns=6), r"mean: got .*, needs 6 finite numbers"),
        (changed("inputs", scale=[1.0] * 6 + [0.0]), "scale: got .*, needs 7 finite numbers above 0"),
        (changed("inputs", name="lengths"), "name: got 'lengths', needs lower-case letters"),
        (changed("inputs", colour="red"), "input: unknown setting colour"),
        (changed("core", cell="lstm2"), "cell: got 'lstm2', choose one of"),
        (changed("core", bidirectional=1), "bidirectional: got 1, needs true or false"),
        (changed("core", hidden_size="removed", cell="removed"), "core: cell missing"),
        (changed("head", classes=1), "classes: got 1, needs a whole number of at least 2"),
        (changed("head", classes=2**63), f"classes: got {2**63}, needs a whole number from 2 to {2**63 - 1}"),
        (changed("head", classes="removed"), "head: classes missing"),
    ],
)
def test_descriptions_that_are_none_are_refused_by_name(values: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ModelSpec.from_dict(values)


def test_parts_that_do_not_go_together_are_refused() -> None:
    core, label = CoreConfig("gru", 6), StepLabelsHead(4)
    with pytest.raises(ConfigError, match="inputs: values is there more than once"):
        ModelSpec((ValuesInput(2), ValuesInput(3)), core, label)
    with pytest.raises(ConfigError, match="inputs: got static; needs one that varies over time"):
        ModelSpec((StaticInput(2),), core, label)
    with pytest.raises(ConfigError, match="head: next_token needs an input tokens of 11 ids"):
        ModelSpec((TokensInput(10, 3),), core, NextTokenHead(11))
    with pytest.raises(ConfigError, match="embedding_size = hidden_size, got 3 and 6"):
        ModelSpec((TokensInput(11, 3), CategoriesInput(5, 2, "shape")), core, NextTokenHead(11, tie_weights=True))


def test_capabilities_follow_from_head_inputs_and_directions() -> None:
    assert models.spec(head="next_token").capabilities == {"run", "step", "generate"}
    assert models.spec(inputs="tokens+values", head="next_token").capabilities == {"run", "step"}
    ids = ModelSpec((CategoriesInput(7, 4, "tokens"),), CoreConfig("gru", 5), NextTokenHead(7))
    assert ids.capabilities == {"run", "step"}  # no language model, which has tokens
    assert models.spec().capabilities == {"run", "step"}
    assert models.spec(bidirectional=True).capabilities == {"run"}


def test_there_is_a_test_of_every_head() -> None:
    assert [head.kind for head in SOME_HEADS] == list(HEADS)


@pytest.mark.parametrize("head", SOME_HEADS)
def test_metrics_of_a_head_are_those_that_it_declares(head: Head) -> None:
    metrics = head.metrics_of(LossSums(6.0, 4.0, (3, 5)))
    values = metrics.to_dict()
    assert set(values) == {head.counts, *(metric.name for metric in head.metrics)}
    assert head.metrics_from_dict(json.loads(json.dumps(values))) == metrics
    assert (metrics.loss, metrics.count, values[head.counts]) == (1.5, 5, 5)
    assert head.metrics[0].of(metrics) == metrics.loss
    assert not head.metrics[0].higher_is_better
    assert {metric.name: metric.of(metrics) for metric in head.metrics} == {
        name: value for name, value in values.items() if name != head.counts
    }
    logged = {"loss": metrics.loss, head.counts: metrics.count} | {m.name: m.of(metrics) for m in logged_metrics(head)}
    assert head.metrics_from_dict(logged) == metrics  # a line of a training step has all that the others follow from
    assert selecting_metric(head).name == head.selects
    assert head.counts.isidentifier()
    with pytest.raises(ConfigError, match=f"needs loss, accuracy and {head.counts}"):
        head.metrics_from_dict({"loss": 1.0})


def test_the_cost_of_a_metric_falls_where_it_improves() -> None:
    loss, accuracy = StepLabelsHead(4).metrics
    better, worse = (StepLabelsHead(4).metrics_of(LossSums(*sums)) for sums in ((1.0, 4, (4, 4)), (2.0, 4, (1, 4))))
    for metric in (loss, accuracy):
        assert metric.cost(better) < metric.cost(worse)
    assert accuracy.text(accuracy.of(worse)) == "25.0%"


def test_scaling_is_computed_in_float64() -> None:
    column = ValuesInput(1, (1e8,), (0.5,))
    array = np.array([[[1e8 + 8]]], np.float32)
    got = column.forward({"w": np.zeros(1, np.float32)}, array, 1)
    assert got.dtype == np.float32
    assert got.item() == 16.0
