"""Texts of several lines: <eos> of a stream is a line end like any other token, in every engine, file and verb."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import models
import numpy as np
import onnx
import pytest
from commands import run_command
from golden_tokenizers import GOLDEN
from safetensors import safe_open

from unrolled.engine.models.step_contract import StepModel
from unrolled.engine.storage.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from unrolled.engine.storage.description import text_preprocessing
from unrolled.engine.tokenizers.registry import tokenizer_from_dict
from unrolled.engine.tokenizers.vocabulary import BOS, EOS, UNK
from unrolled.engine.tokenizers.whitespace import WhitespaceTokenizer
from unrolled.export.formats import export_model
from unrolled.export.verification.verify import verify
from unrolled.runtime import BeamConfig, beam_search, generate, load, score, stream
from unrolled.runtime.models.engines import make_model
from unrolled.runtime.models.onnx_model import open_checkpoint

STREAM = tokenizer_from_dict(GOLDEN["whitespace, a stream"].description)
FORMS = ("numpy", "numba", "torch", "onnxruntime", "generate")
PROMPT = "the cat\n"


def checkpoint() -> Checkpoint:
    """Return a random model that often draws <eos>, with the stream of lines as its tokeniser."""
    made = models.checkpoint("gru", vocab_size=len(STREAM.vocabulary))
    made.params["output.bias"][STREAM.eos_id] += 1.0
    return replace(made, preprocessing=text_preprocessing(STREAM))


def make(engine: str) -> StepModel:
    if engine == "torch":
        pytest.importorskip("torch")
    return open_checkpoint(checkpoint(), "generate") if engine == "generate" else make_model(checkpoint(), engine)


@pytest.mark.parametrize("engine", FORMS)
def test_a_text_goes_on_after_a_line_end(engine: str) -> None:
    model = make(engine)
    rows = generate(model, [PROMPT, "The N", "\n"], max_new_tokens=50, seed=3)
    assert [(len(row.tokens), row.finish_reason) for row in rows] == [(50, "length")] * 3
    assert min(row.text.count("\n") for row in rows) > 2
    expected = generate(make("numpy"), [PROMPT, "The N", "\n"], max_new_tokens=50, seed=3)
    assert [row.tokens for row in rows] == [row.tokens for row in expected]
    for row in rows:
        assert row.text == STREAM.decode(row.tokens)
        np.testing.assert_array_equal(STREAM.encode(row.text), row.tokens)
    assert "".join(stream(model, PROMPT, max_new_tokens=50, seed=3)) == rows[0].text


@pytest.mark.parametrize("engine", ["numba", "generate"])
def test_a_stop_text_ends_it_after_a_line(engine: str) -> None:
    model = make(engine)
    for seed in range(6):
        (whole,) = generate(model, [PROMPT], max_new_tokens=60, seed=seed)
        (line,) = generate(model, [PROMPT], max_new_tokens=60, seed=seed, stop=["\n"])
        assert (line.text, line.finish_reason) == (whole.text.split("\n")[0], "stop")


def test_least_numbers_of_tokens_and_beams_do_not_wait_for_an_end() -> None:
    model = make("numpy")
    assert generate(model, [PROMPT], max_new_tokens=20, min_new_tokens=20, seed=1) == generate(
        model, [PROMPT], max_new_tokens=20, seed=1
    )
    found = beam_search(model, [PROMPT], BeamConfig(num_beams=3, max_new_tokens=9))
    assert [(len(one.tokens), one.finish_reason) for one in found] == [(9, "length")]


def test_line_ends_of_a_text_are_scored() -> None:
    model = make("numpy")
    (whole,) = score(model, ["the cat\nThe N\n"], eos=False)
    assert [STREAM.vocabulary[i] for i in whole.tokens] == ["cat", EOS, "The", "N", EOS]
    (before,) = score(model, ["the cat\nThe N"], eos=True)
    np.testing.assert_array_equal(before.logprobs, whole.logprobs)


def test_records_of_the_level_end_at_eos() -> None:
    tokenizer = WhitespaceTokenizer([UNK, BOS, EOS, *(f"w{i}" for i in range(models.V - 3))])
    made = models.checkpoint("gru")
    made.params["output.bias"][tokenizer.eos_id] += 1.0
    model = make_model(replace(made, preprocessing=text_preprocessing(tokenizer)), "numba")
    rows = generate(model, [""] * 8, max_new_tokens=50, seed=2)
    assert {row.finish_reason for row in rows} == {"eos"}
    assert not any("\n" in row.text or EOS in row.text for row in rows)


@pytest.mark.parametrize("form", ["step", "generate", "both"])
def test_exported_files_write_the_lines(tmp_path: Path, form: str) -> None:
    original = checkpoint()
    path = export_model(original, tmp_path / "model.onnx", "onnx", form)
    values = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
    assert values["unrolled.format_version"] == "2"
    assert json.loads(values["unrolled.preprocessing"]) == {"tokens": {"tokenizer": STREAM.to_dict()}}
    assert "unrolled.tokenizer" not in values
    model = load(path)
    assert model.tokenizer == STREAM
    expected = generate(make("numpy"), [PROMPT, "N"], max_new_tokens=40, seed=8)
    assert generate(model, [PROMPT, "N"], max_new_tokens=40, seed=8) == expected
    assert [check for check in verify(path, load) if not check.ok] == []


def test_torchscript_writes_the_lines(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="the torch extra is not installed")
    path = export_model(checkpoint(), tmp_path / "model.pt", "torchscript")
    expected = generate(make("numpy"), [PROMPT], max_new_tokens=40, seed=8)
    assert generate(load(path), [PROMPT], max_new_tokens=40, seed=8) == expected


def test_checkpoints_of_such_tokenizers_are_of_format_2(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "model.safetensors", checkpoint())
    with safe_open(tmp_path / "model.safetensors", "numpy") as file:
        assert json.loads(file.metadata()["unrolled"])["format_version"] == 2
    assert load_checkpoint(tmp_path / "model.safetensors").tokenizer == STREAM


def test_lines_from_the_command_line(tmp_path: Path) -> None:
    """Train on prepared text, as a file and encoded, and write lines."""
    text = (
        "".join(
            f" the <unk> {word} N of na{mark} . \n" for word in ("cat", "dog") for mark in ("\u00efve", "i\u0308ve")
        )
        * 40
    )
    (tmp_path / "ptb.txt").write_text(text, encoding="utf-8")
    settings = ["--steps", "3", "--hidden", "6", "--embed", "5", "--engine", "numpy", "--no-samples"]
    source, run = str(tmp_path / "ptb.txt"), str(tmp_path / "run")
    run_command("train", source, "-o", run, "--level", "whitespace", *settings)
    tokenizer = load_checkpoint(run).tokenizer
    assert set(tokenizer.vocabulary) == {UNK, EOS, "the", "cat", "dog", "N", "of", ".", "na\u00efve"}
    evaluated = json.loads(run_command("eval", run, source, "--json", "--engine", "numpy").stdout)
    assert evaluated["tokens"] == sum(len(line.split()) + 1 for line in text.splitlines()) - 1
    encoded = str(tmp_path / "ptb.tokens")
    run_command("encode", source, "-o", encoded, "--level", "whitespace")
    run_command("train", encoded, "-o", str(tmp_path / "again"), *settings)
    assert load_checkpoint(tmp_path / "again").digest == load_checkpoint(run).digest
    written = run_command("generate", run, "--prompt", "the", "--max-new-tokens", "40", "--engine", "numpy").stdout
    (expected,) = generate(load(run, "numpy"), ["the"], max_new_tokens=40)
    assert written == "the" + tokenizer.separator("the", expected.text) + expected.text + "\n"
