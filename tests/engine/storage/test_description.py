"""Descriptions of models in files: what is written in which format, digests, and damaged or hostile descriptions."""

from __future__ import annotations

import copy
import hashlib
import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import models
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from unrolled.engine.errors import ConfigError, ModelFileError
from unrolled.engine.models.inputs.embedded import CategoriesInput, TokensInput
from unrolled.engine.models.inputs.numeric import StaticInput, ValuesInput
from unrolled.engine.models.spec import ModelSpec
from unrolled.engine.storage.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from unrolled.engine.storage.description import InputPreprocessing, ModelDescription, text_preprocessing
from unrolled.engine.tokenizers.whitespace import WhitespaceTokenizer
from unrolled.engine.tokenizers.words import WordTokenizer

ALL_INPUTS = models.MIXTURES[-1]
WORDS = ("<unk>", "naïve", "ve", "a", "b", "c", "d", "e", "f", "g", "h")


def metadata_of(path: Path) -> dict[str, Any]:
    with safe_open(path, framework="numpy") as file:
        found: dict[str, Any] = json.loads(file.metadata()["unrolled"])
        return found


def rewrite(path: Path, values: dict[str, Any]) -> None:
    save_file(load_file(path), path, {"unrolled": json.dumps(values)})


def saved(folder: Path, checkpoint: Checkpoint) -> Path:
    path = folder / "model.safetensors"
    save_checkpoint(path, checkpoint)
    return path


@pytest.mark.parametrize("head", ["step_labels", "next_token"])
@pytest.mark.parametrize("inputs", [*models.MIXTURES, "tokens+static"])
def test_every_description_is_read_as_it_was_written(tmp_path: Path, inputs: str, head: str) -> None:
    if head == "next_token" and "tokens" not in inputs:
        pytest.skip("is no model")
    for bidirectional in (False, True)[: 1 if head == "next_token" else 2]:
        checkpoint = models.spec_checkpoint(models.spec("gru", inputs, 2, bidirectional, head), {"note": 1})
        path = saved(tmp_path, checkpoint)
        again = load_checkpoint(path)
        assert (again.spec, again.preprocessing) == (checkpoint.spec, checkpoint.preprocessing)
        assert (again.training, again.digest) == (checkpoint.training, checkpoint.digest)
        assert all((again.params[name] == value).all() for name, value in checkpoint.params.items())
        language_model = inputs == "tokens" and head == "next_token"
        values = metadata_of(path)
        assert values["format_version"] == (1 if language_model else 2)
        parts = {"config", "tokenizer"} if language_model else {"spec", "preprocessing"}
        assert set(values) == {"format_version", "training", "digest", *parts}


def test_what_format_1_can_express_has_its_bytes_whatever_made_it(tmp_path: Path) -> None:
    config = models.config("lstm")
    params = models.params(config, np.float32)
    first = saved(tmp_path, Checkpoint.of_language_model(config, params, models.letters())).read_bytes()
    second = saved(tmp_path, Checkpoint(config.spec, params, text_preprocessing(models.letters()))).read_bytes()
    assert first == second
    assert b"spec" not in first


@pytest.mark.parametrize(
    ("tokenizer", "version"),
    [
        (WordTokenizer(WORDS, "replace", normalize="none"), 1),
        (WordTokenizer(WORDS, "replace", normalize="NFC"), 2),
        (WhitespaceTokenizer(WORDS, "replace", normalize="none"), 2),
    ],
)
def test_a_tokenizer_of_format_2_makes_the_file_one(tmp_path: Path, tokenizer: Any, version: int) -> None:
    config = models.config("gru")
    checkpoint = Checkpoint.of_language_model(config, models.params(config, np.float32), tokenizer)
    path = saved(tmp_path, checkpoint)
    values, again = metadata_of(path), load_checkpoint(path)
    assert values["format_version"] == version
    assert (again.config, again.tokenizer, again.digest) == (config, tokenizer, checkpoint.digest)
    if version == 2:
        assert values["preprocessing"] == {"tokens": {"tokenizer": tokenizer.to_dict()}}
        assert ModelSpec.from_dict(values["spec"]) == config.spec


def test_a_language_model_of_bare_ids_needs_format_2_and_has_no_tokenizer(tmp_path: Path) -> None:
    config = models.config("gru")
    again = load_checkpoint(saved(tmp_path, Checkpoint(config.spec, models.params(config, np.float32), {})))
    assert (again.description.format_version, again.preprocessing, again.config) == (2, {}, config)
    with pytest.raises(ModelFileError, match="this language model has no tokenizer"):
        _ = again.tokenizer


def test_other_models_have_no_settings_of_a_language_model() -> None:
    checkpoint = models.spec_checkpoint(models.spec("gru", "tokens"))
    for part in ("config", "tokenizer"):
        with pytest.raises(ConfigError, match="got step_labels; needs a language model"):
            getattr(checkpoint, part)


def test_preprocessing_goes_with_the_inputs() -> None:
    spec = models.spec("gru", "tokens+values")
    for rules, message in (
        ({"words": InputPreprocessing(models.letters())}, "preprocessing: got 'words'; the inputs are tokens, values"),
        (
            {"values": InputPreprocessing(models.letters())},
            "preprocessing of values: a tokenizer makes ids, the input is",
        ),
        ({"tokens": InputPreprocessing(models.letters(5))}, "the tokeniser has 5 tokens, the model 11"),
    ):
        with pytest.raises(ModelFileError, match=message):
            Checkpoint(spec, models.params(spec, np.float32), rules)


def digest_by_hand(spec: ModelSpec, preprocessing: Any, params: dict[str, np.ndarray]) -> str:
    """The digest as docs/formats.md specifies it."""
    digest = hashlib.sha256(json.dumps([spec.to_dict(), preprocessing], sort_keys=True).encode("ascii"))
    for name in sorted(params):
        digest.update(name.encode() + params[name].astype("<f4").tobytes())
    return digest.hexdigest()


def test_the_digest_covers_spec_preprocessing_and_weights() -> None:
    spec = models.spec("lstm", "tokens+values", 2, bidirectional=True)
    checkpoint = models.spec_checkpoint(spec)
    preprocessing = {"tokens": {"tokenizer": models.letters().to_dict()}}
    assert checkpoint.digest == digest_by_hand(spec, preprocessing, checkpoint.params)
    weight = {
        **checkpoint.params,
        "rnn.bias_hh_l1_reverse": checkpoint.params["rnn.bias_hh_l1_reverse"] * np.float32(2),
    }
    tokens, values = spec.inputs
    scaled = replace(spec, inputs=(tokens, replace(values, scale=(2.0, 0.5, 1.0, 30.0, 0.7, 1.1, 5.5))))
    others = [
        replace(checkpoint, params=weight),
        replace(checkpoint, spec=scaled),
        replace(checkpoint, spec=replace(spec, inputs=spec.inputs[::-1])),
        replace(checkpoint, preprocessing=text_preprocessing(type(models.letters())(list("kjihgfedcba")))),
        replace(checkpoint, preprocessing={}),
    ]
    digests = {each.digest for each in (checkpoint, *others)}
    assert len(digests) == len(others) + 1
    assert replace(checkpoint, training={"note": 1}).digest == checkpoint.digest
    assert replace(checkpoint, preprocessing={**checkpoint.preprocessing, "values": InputPreprocessing()}).digest == (
        checkpoint.digest
    )


def as_release_0_1_0_reads(values: dict[str, Any]) -> None:
    """The first lines of the checkpoint reader of release 0.1.0, which looks at nothing else before them."""
    if values.get("format_version") != 1:
        raise ModelFileError(f"checkpoint format {values.get('format_version')!r}; this release reads 1")
    assert {"config", "tokenizer", "training"} <= set(values)


@pytest.mark.parametrize("inputs", ["tokens", ALL_INPUTS])
def test_release_0_1_0_refuses_format_2_by_its_number(tmp_path: Path, inputs: str) -> None:
    as_release_0_1_0_reads(metadata_of(saved(tmp_path, models.checkpoint())))
    with pytest.raises(ModelFileError, match="checkpoint format 2; this release reads 1"):
        as_release_0_1_0_reads(metadata_of(saved(tmp_path, models.spec_checkpoint(models.spec("gru", inputs)))))


@pytest.mark.parametrize("version", [0, 3, "2", None, True, 2.0, [2], 10**30])
def test_other_numbers_are_refused_before_anything_else(tmp_path: Path, version: Any) -> None:
    path = saved(tmp_path, models.spec_checkpoint(models.spec("gru", "values")))
    rewrite(path, {"format_version": version, "spec": "nothing to read"})
    with pytest.raises(ModelFileError, match=r"checkpoint format .*; this release reads 1 and 2"):
        load_checkpoint(path)


def test_a_description_in_a_file_of_the_other_format_is_refused(tmp_path: Path) -> None:
    config = models.config("gru")
    words = WordTokenizer(WORDS, "replace", normalize="NFC")
    path = saved(tmp_path, models.checkpoint("gru"))
    values = metadata_of(path)
    rewrite(path, {**values, "tokenizer": words.to_dict()})
    with pytest.raises(ModelFileError, match="this model belongs in a file of format 2, not 1"):
        load_checkpoint(path)
    described = {"spec": config.spec.to_dict(), "preprocessing": {"tokens": {"tokenizer": models.letters().to_dict()}}}
    rewrite(path, {**values, **described, "format_version": 2})
    with pytest.raises(ModelFileError, match="this model belongs in a file of format 1, not 2"):
        load_checkpoint(path)


@pytest.mark.parametrize(
    ("part", "changed", "message"),
    [
        ("spec", None, "its metadata has no spec"),
        ("preprocessing", [], "its metadata has no preprocessing"),
        ("preprocessing", {"tokens": {}}, "preprocessing of tokens: needs an object with a tokenizer"),
        ("preprocessing", {"tokens": {"tokenizer": {}}}, "tokenizer: not a valid description"),
        (
            "preprocessing",
            {"tokens": {"tokenizer": models.letters().to_dict(), "names": ["x"]}},
            "preprocessing of tokens: names is not known to this release",
        ),
        ("spec", {"inputs": [], "core": {}}, "model spec: got core, inputs; needs inputs, core and head"),
        ("spec", {"inputs": [], "core": {"cell": "gru"}, "head": {"kind": "ranks"}}, "head: got kind 'ranks'"),
        ("digest", "0" * 64, "damaged: weights, spec or preprocessing are not those that were saved"),
    ],
)
def test_wrong_metadata_is_a_named_error(tmp_path: Path, part: str, changed: Any, message: str) -> None:
    path = saved(tmp_path, models.spec_checkpoint(models.spec("gru", ALL_INPUTS)))
    rewrite(path, {**metadata_of(path), part: changed})
    with pytest.raises(ModelFileError, match=message):
        load_checkpoint(path)


WRONG: tuple[Any, ...] = (
    None, True, -1, 0, 1.5, 10**9, 2**63 - 1, 2**63, 10**400, 1e400, "x", "é" * 100, [], {}, [[[]]], [1e308], [None],
    {"kind": []}, [{"kind": "values"}] * 3,
)  # fmt: skip


def places_of(value: Any) -> Iterator[tuple[Any, ...]]:
    """Yield the path to every value in a JSON value."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield (key,)
        yield from ((key, *rest) for rest in places_of(inner))


def changed_at(value: Any, place: tuple[Any, ...], new: Any) -> Any:
    changed = copy.deepcopy(value)
    inner = changed
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = new
    return changed


def test_no_description_of_wrong_kinds_or_absurd_sizes_gets_past_the_reader() -> None:
    """Every value of a description is replaced by values of other kinds and sizes: a named error, and at once."""
    checkpoint = models.spec_checkpoint(models.spec("lstm", ALL_INPUTS, 2, bidirectional=True))
    described = checkpoint.description.to_dict()
    accepted, begun = [], time.monotonic()
    for place in places_of(described):
        for wrong in WRONG:
            try:
                ModelDescription.from_dict(2, changed_at(described, place, wrong))
            except (ConfigError, ModelFileError):
                continue
            accepted.append((place, wrong))
    assert time.monotonic() - begun < 60
    # Sizes may have any magnitude here: the reader holds them against the size of the file.
    sizes = {"size", "embedding_size", "columns", "hidden_size", "num_layers", "classes"}
    free = {"mean", "scale", "dropout", "bidirectional", "tokenizer", "unknown", "lowercase", "name", "preprocessing"}
    assert {place[-1] for place, _ in accepted if isinstance(place[-1], str)} <= sizes | free


@pytest.mark.parametrize(
    ("place", "size"),
    [
        (("inputs", 3, "embedding_size"), 10**9),
        (("inputs", 1, "columns"), 2**62),
        (("core", "hidden_size"), 10**9),
        (("core", "num_layers"), 10**15),
        (("head", "classes"), 10**9),
    ],
)
def test_sizes_are_held_against_the_file_before_anything_is_allocated(
    tmp_path: Path, place: tuple[Any, ...], size: int
) -> None:
    inputs = (StaticInput(2), ValuesInput(7), CategoriesInput(9, 8, "categories"), TokensInput(models.V, models.E))
    spec = replace(models.spec("lstm", ALL_INPUTS, 2, bidirectional=True), inputs=inputs)
    path = saved(tmp_path, models.spec_checkpoint(spec))
    values = metadata_of(path)
    rewrite(path, {**values, "spec": changed_at(values["spec"], place, size)})
    with pytest.raises(ModelFileError, match=r"the config asks for [0-9,]+ bytes of weights, the file has"):
        load_checkpoint(path)


def test_many_inputs_are_refused_quickly(tmp_path: Path) -> None:
    path = saved(tmp_path, models.spec_checkpoint(models.spec("gru", "values")))
    values = metadata_of(path)
    values["spec"]["inputs"] = [{"kind": "values", "columns": 1, "name": f"v{n}"} for n in range(50_000)]
    rewrite(path, values)
    begun = time.monotonic()
    with pytest.raises(ModelFileError, match="the config asks for"):
        load_checkpoint(path)
    assert time.monotonic() - begun < 10
