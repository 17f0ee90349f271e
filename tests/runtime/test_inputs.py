"""Tests of arguments: texts in any ordered container, and errors for anything that is no text, model, context or config."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import models
import numpy as np
import pytest

from unrolled.engine.errors import ConfigError
from unrolled.engine.models.step_contract import StepModel
from unrolled.engine.storage.checkpoint import load_checkpoint, save_checkpoint
from unrolled.runtime import (
    BeamConfig,
    Context,
    GenerationConfig,
    beam_search,
    extend,
    generate,
    load,
    rank,
    read,
    score,
    stream,
    write,
)
from unrolled.runtime.generation.batch_generator import BatchGenerator
from unrolled.runtime.jobs.prompt_files import PromptFile
from unrolled.runtime.jobs.prompt_rows import BadRow
from unrolled.runtime.models.engines import make_model

TEXTS = ["cafe", "bad", "hi"]


@pytest.fixture(scope="module")
def model() -> StepModel:
    return make_model(models.checkpoint("gru", 1), "numpy")


def several(call: str, model: Any, texts: Any) -> Any:
    """Pass ``texts`` to a function that takes several, and return a result for each text."""
    if call == "generate":
        return [one.tokens for one in generate(model, texts, max_new_tokens=4)]
    if call == "beam_search":
        return [one.tokens for one in beam_search(model, texts, BeamConfig(num_beams=2, max_new_tokens=4))]
    if call == "score":
        return [one.logprob for one in score(model, texts)]
    if call == "score prompts":
        return [one.logprob for one in score(model, ["ab"] * 3, texts)]
    return [one.text for one in rank(model, "a", texts)]


CALLS = ("generate", "beam_search", "score", "score prompts", "rank")
CONTAINERS: dict[str, Callable[[], Any]] = {
    "tuple": lambda: tuple(TEXTS),
    "generator": lambda: (text for text in TEXTS),
    "map": lambda: map(str, TEXTS),
    "keys": lambda: dict.fromkeys(TEXTS).keys(),
    "values": lambda: dict(enumerate(TEXTS)).values(),
    "array of texts": lambda: np.array(TEXTS),
    "array of objects": lambda: np.array(TEXTS, object),
    "numpy texts": lambda: [np.str_(text) for text in TEXTS],
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("container", CONTAINERS)
def test_texts_may_come_in_any_ordered_container(model: StepModel, call: str, container: str) -> None:
    assert several(call, model, CONTAINERS[container]()) == several(call, model, TEXTS)


def test_a_column_of_pandas_is_texts(model: StepModel) -> None:
    pandas = pytest.importorskip("pandas")
    column = pandas.Series(TEXTS, index=[7, 3, 5])
    for call in CALLS:
        assert several(call, model, column) == several(call, model, TEXTS)
    with pytest.raises(ConfigError, match=r"^prompts: got .* at 1, needs texts$"):
        generate(model, pandas.Series(["a", None]))


@pytest.mark.parametrize("call", ["generate", "beam_search", "score"])
def test_one_text_is_a_list_of_one(model: StepModel, call: str) -> None:
    assert several(call, model, "cafe") == several(call, model, ["cafe"])


WRONG = {
    "None": (None, "got None, needs"),
    "bytes": (b"ab", r"got b'ab', needs"),
    "path": (Path("ab"), r"got a PosixPath, needs"),
    "number": (5, "got 5, needs"),
    "dict": ({"prompt": "ab"}, "got a dict, needs"),
    "set": ({"a", "b"}, "got a set, needs"),
    "nothing": ([], "got none, needs"),
    "empty iterator": (iter(()), "got none, needs"),
    "None inside": (["a", None, "b"], "got None at 1, needs texts"),
    "bytes inside": (np.array([b"a", b"b", b"c"]), r"got .*b'a'.* at 0, needs texts"),
    "list inside": (["a", ["b"], "c"], "got a list at 1, needs texts"),
    "numbers": (np.arange(3), "got a int64 at 0, needs texts"),
    "array without axis": (np.array("ab"), "got a ndarray that has no items, needs"),
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("kind", WRONG)
def test_what_is_no_texts_is_named(model: StepModel, call: str, kind: str) -> None:
    if (call, kind) == ("score prompts", "None"):
        return  # prompts may be None: there are none
    texts, message = WRONG[kind]
    if kind == "empty iterator":
        texts = iter(())
    name = {"generate": "prompts", "beam_search": "prompts", "score": "texts", "rank": "alternatives"}
    with pytest.raises(ConfigError, match=f"^{name.get(call, 'prompts')}: {message}"):
        several(call, model, texts)


@pytest.mark.parametrize("prompt", [None, b"a", 5, ["a"], Path("a"), np.array("a")], ids=repr)
def test_what_is_no_text_is_named_where_one_is_needed(model: StepModel, prompt: Any) -> None:
    calls: list[Callable[[], Any]] = [
        lambda: stream(model, prompt),
        lambda: write(model, prompt, str),
        lambda: read(model, prompt),
        lambda: read(model, prompt, read(model, "a")),
    ]
    if prompt is not None:
        calls.append(lambda: rank(model, prompt, ["a"]))
    for call in calls:
        with pytest.raises(ConfigError, match=r"^prompt: got .*, needs one text$"):
            call()


def every_call(model: Any) -> list[Callable[[], Any]]:
    context = read(make_model(models.checkpoint("gru", 1), "numpy"), "a")
    return [
        *((lambda call=call: several(call, model, TEXTS)) for call in CALLS),
        lambda: stream(model, "a"),
        lambda: write(model, "a", str),
        lambda: read(model, "a"),
        lambda: extend(model, context, generate(make_model(models.checkpoint("gru", 1), "numpy"), "a")[0]),
    ]


def test_what_is_no_model_is_named(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_checkpoint(path, models.checkpoint("gru", 1))
    for wrong, message in (
        (None, r"^model: got None, needs a loaded model, which load\(path\) returns$"),
        (str(path), rf"^model: got the path '{re.escape(str(path))}', needs a loaded model: load\("),
        (path, r"^model: got the path '"),
        (load_checkpoint(path), r"^model: got a Checkpoint, needs a loaded model"),
        ({}, r"^model: got a dict, needs"),
    ):
        for call in every_call(wrong):
            with pytest.raises(ConfigError, match=message):
                call()
    for unopened in (None, 5, load(path, "numpy"), b"model"):
        with pytest.raises(ConfigError, match=r"^path: got .*, needs the path of a file or run folder$"):
            load(unopened)  # type: ignore[arg-type]


def test_what_is_no_context_config_text_or_function_is_named(model: StepModel, tmp_path: Path) -> None:
    wrong: Any
    for wrong in ("story.context", {}, 5, load_checkpoint):
        for call in (
            lambda wrong=wrong: generate(model, "a", context=wrong),
            lambda wrong=wrong: stream(model, "a", context=wrong),
            lambda wrong=wrong: read(model, "a", wrong),
            lambda wrong=wrong: extend(model, wrong, generate(model, "a")[0]),
        ):
            with pytest.raises(ConfigError, match=r"^context: got .*, needs a Context: of read\(model, prompt\), or"):
                call()
    for wrong in ({}, {"seed": 1}, "greedy", BeamConfig):
        with pytest.raises(ConfigError, match=r"^config: got .*, needs a GenerationConfig$"):
            generate(model, "a", wrong)
        with pytest.raises(ConfigError, match=r"^config: got .*, needs a BeamConfig$"):
            beam_search(model, "a", wrong)
    with pytest.raises(ConfigError, match=r"^config: got a BeamConfig, needs a GenerationConfig$"):
        generate(model, "a", BeamConfig())
    with pytest.raises(ConfigError, match=r"^beam_search: no setting beams; there are do_sample, .* num_beams, "):
        beam_search(model, "a", beams=3)
    assert beam_search(model, "a", num_beams=2) == beam_search(model, "a", BeamConfig(num_beams=2))
    for wrong in (None, 5, b"a"):
        with pytest.raises(ConfigError, match=r"^path: got .*, needs the path"):
            read(model, "a").save(wrong)
        with pytest.raises(ConfigError, match=r"^path: got .*, needs the path"):
            Context.load(wrong)
        with pytest.raises(ConfigError, match=r"^checkpoint: got .*, needs a Checkpoint; load\(path\) takes paths$"):
            make_model(wrong, "numpy")
    with pytest.raises(ConfigError, match=r"^on_text: got None, needs a function$"):
        write(model, "a", None)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"^config: got a GenerationConfig, needs a BeamConfig$"):
        beam_search(model, "a", GenerationConfig())  # type: ignore[arg-type]
    context = read(model, "a")
    assert isinstance(context, Context)
    for wrong in ("a text", None, [1, 2]):
        with pytest.raises(ConfigError, match=r"^text: got .*, needs a Generation, which generate returns$"):
            extend(model, context, wrong)
        with pytest.raises(ConfigError, match=r"^on_text: got .*, needs a function$"):
            stream(model, "a", on_text=wrong or 5)


def test_columns_that_are_none_are_named(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_checkpoint(path, models.checkpoint("gru", 1))
    wrong: Any
    for wrong in (None, load(path, "numpy"), 5):
        with pytest.raises(ConfigError, match=r"^model_path: got .*, needs the path of a model, which each process"):
            BatchGenerator(wrong)
    writes = BatchGenerator(path, engine="numpy", max_new_tokens=3)
    for wrong in (["a"], "a", None, [{"prompt": "a"}]):
        with pytest.raises(ConfigError, match=r"^batch: got .*, needs a dictionary of columns or a pandas DataFrame"):
            writes(wrong)
    rows: Any = [None, b"a", 5, ["a"], Path("a"), "ab"]
    column = np.empty(len(rows), object)
    column[:] = rows
    made = writes({"prompt": column})
    assert [error.partition(",")[0] for error in made["error"]] == [
        "prompt: got None", "prompt: got b'a'", "prompt: got 5", "prompt: got a list", "prompt: got a PosixPath", "",
    ]  # fmt: skip


def test_a_prompt_of_null_is_an_error_of_its_row(tmp_path: Path) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text('{"prompt": null, "id": 4}\n{"id": 5}\n{"prompt": ["a"]}\n{"prompt": "a"}\n')
    with PromptFile(str(file)) as prompts:
        errors = [row.error if isinstance(row, BadRow) else None for row in prompts]
    assert errors == [
        "no prompt: got null, needs a text",
        "no prompt; there is nothing else",
        "prompt: got a list, needs a text",
        None,
    ]
