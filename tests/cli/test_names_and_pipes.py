"""Tests of every verb with file names that are not UTF-8, and with pipes instead of files."""

from __future__ import annotations

import gzip
import io
import json
import os
import pickle
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from unrolled.cli.app import run as run_here
from unrolled.cli.terminal.console import print_json
from unrolled.engine.data.config import DataConfig
from unrolled.engine.data.corpus import Corpus, read_corpus
from unrolled.engine.data.dataset import prepare_dataset
from unrolled.engine.data.opening import open_corpus
from unrolled.engine.data.readers.options import ReadOptions
from unrolled.engine.data.token_file_writer import encode_files
from unrolled.engine.data.token_files import read_encoded
from unrolled.engine.errors import CorpusError, NothingLeftError, SaveError, UnrolledError
from unrolled.engine.process_group import Group
from unrolled.engine.runs.experiment import Experiment, ModelSettings, prepare_run
from unrolled.engine.storage.json_text import parse_value, to_json
from unrolled.engine.training.config import TrainingConfig
from unrolled.export.importing.weight_files import read_weights
from unrolled.runtime import generate, load
from unrolled.runtime.scoring import score

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="names of files, /dev/fd and pipes of Linux"
)
TEXT = "the quick brown fox jumps over the lazy dog; pack my box with five dozen jugs.\n" * 40
ROWS = "".join(f'{{"text": "{line}", "prompt": "the "}}\n' for line in TEXT.splitlines()[:6])
STRANGE = os.fsdecode(b"b\xe9")
SHORT = ("--hidden", "8", "--embed", "8", "--batch", "4", "--length", "16", "--engine", "numpy")
STEPS = ("--steps", "3", "--no-samples")
Run = Callable[..., str]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """Run the command in this process and return what it printed; fail unless it exits with the expected code."""

    def call(*arguments: str | Path, code: int = 0) -> str:
        monkeypatch.setattr(sys, "argv", ["unrolled", *map(str, arguments)])
        capfd.readouterr()
        got = run_here()
        printed = capfd.readouterr()
        assert got == code, printed
        return printed.err if code else printed.out

    return call


@pytest.fixture
def piped() -> Iterator[Callable[[str], str]]:
    """Return the name of a pipe that holds a text and then ends."""
    ends = []

    def make(text: str) -> str:
        reading, writing = os.pipe()
        ends.append(reading)
        os.write(writing, text.encode())  # less than a pipe holds
        os.close(writing)
        return f"/dev/fd/{reading}"

    yield make
    for end in ends:
        os.close(end)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    (folder / "a.txt").write_text(TEXT)
    experiment = Experiment(TrainingConfig(steps=2), DataConfig(batch_size=4, length=16), ModelSettings("gru", 5, 7))
    prepare_run(read_corpus([folder / "a.txt"]), experiment).run(folder / "run")
    return folder


# names


def test_a_run_with_names_that_are_no_text(tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    source, folder, tokens = f"{STRANGE}.txt", f"run{STRANGE}", f"{STRANGE}.tokens"
    Path(source).write_text(TEXT)
    printed = run("train", source, *SHORT, *STEPS, "-o", folder)
    assert printed.startswith(r"b\xe9.txt: 3,160 characters")
    assert r"in runb\xe9: best.safetensors" in printed
    assert load(folder).training["corpus"]["name"] == r"b\xe9.txt"
    assert "nothing is left to do" in run("train", source, *SHORT, *STEPS, "-o", folder, "--resume")
    assert run("encode", source, "-o", tokens).startswith(r"b\xe9.txt -> b\xe9.tokens: 3,160")
    assert json.loads(run("encode", source, "-o", tokens, "--json", "--overwrite"))["output"] == tokens
    run("train", tokens, *SHORT, *STEPS, "-o", "other")
    assert load("other").training["corpus"] == load(folder).training["corpus"]
    assert r"in lrb\xe9: lr.jsonl" in run("lr-find", source, *SHORT, "--updates", "20", "-o", f"lr{STRANGE}")
    assert r"b\xe9.txt by runb\xe9 on" in run("eval", folder, source)
    assert r"b\xe9.txt" in run("score", folder, source)
    Path(f"{STRANGE}.jsonl").write_text(ROWS.replace('"text"', '"id"'))
    run("generate", folder, "--input", f"{STRANGE}.jsonl", "-o", f"out{STRANGE}.jsonl", "--max-new-tokens", "2")
    assert len(Path(f"out{STRANGE}.jsonl").read_text().splitlines()) == 6
    assert r"runb\xe9/best.safetensors -> mb\xe9.onnx" in run("export", folder, "-o", f"m{STRANGE}.onnx")
    assert r"mb\xe9.onnx is what it says" in run("verify", f"m{STRANGE}.onnx")
    assert r"mb\xe9.onnx" in run("info", f"m{STRANGE}.onnx")
    assert r"repb\xe9.html" in run("report", folder, "--text", source, "-o", f"rep{STRANGE}.html")
    assert r"noneb\xe9.txt: no such file" in run("train", f"none{STRANGE}.txt", code=2)


def test_every_named_error_can_be_encoded(tmp_path: Path) -> None:
    path = tmp_path / STRANGE
    for call in (load, lambda path: open_corpus([f"{path}.tokens"], ReadOptions(column="a")), read_weights):
        with pytest.raises(UnrolledError, match=r"b\\xe9") as caught:
            call(path)
        str(caught.value).encode()
        assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
    assert str(SaveError("a\ud83d")) == r"a\ud83d"
    assert str(NothingLeftError(("top_k",), (1,))).startswith("top_k: no token")


def test_torchscript_of_a_name_that_is_no_text(trained: Path, tmp_path: Path, run: Run) -> None:
    pytest.importorskip("torch", reason="the torch extra is not installed")
    path = tmp_path / f"{STRANGE}.pt"
    run("export", trained / "run", "--format", "torchscript", "-o", path)
    assert run("generate", path, "-p", "the ", "--greedy") == run("generate", trained / "run", "-p", "the ", "--greedy")


def test_tensorboard_in_a_folder_that_it_cannot_open(trained: Path, tmp_path: Path, run: Run) -> None:
    pytest.importorskip("tensorboard", reason="the tensorboard extra is not installed")
    folder = tmp_path / STRANGE
    printed = run("train", trained / "a.txt", *SHORT, *STEPS, "--tensorboard", "-o", folder, code=2)
    assert "tensorboard: opens no folder whose name is not UTF-8" in printed
    assert not folder.exists()


@pytest.mark.parametrize("kind", ["txt", "tokens"])
def test_a_study_with_names_that_are_no_text(
    tmp_path: Path, run: Run, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("optuna", reason="the tune extra is not installed")
    monkeypatch.chdir(tmp_path)
    Path(f"{STRANGE}.txt").write_text(TEXT)
    encode_files([f"{STRANGE}.txt"], Path(f"{STRANGE}.tokens"), DataConfig())
    arguments = ("tune", f"{STRANGE}.{kind}", *SHORT, "--steps", "2", "-o", STRANGE)
    assert r"in b\xe9: best.toml" in run(*arguments, "--trials", "1")
    run(*arguments, "--trials", "2", "--resume")
    run("train", f"{STRANGE}.{kind}", "--recipe", f"{STRANGE}/best.toml", "-o", "run")


# pipes


def same(first: Any, second: Any, *names: str) -> None:
    for name in names:
        assert first[name] == second[name], name


def test_pipes_are_the_file(trained: Path, tmp_path: Path, run: Run, piped: Callable[[str], str]) -> None:
    source, folder, tokens = trained / "a.txt", trained / "run", tmp_path / "a.tokens"
    results = []
    for name in (source, piped(TEXT)):
        results.append(json.loads(run("encode", name, "-o", tokens, "--json", "--overwrite")))
        results[-1]["sha256"] = read_encoded(tokens).digest
    same(*results, "characters", "tokens", "parts", "vocabulary", "sha256")
    assert results[0]["tokens"] == len(TEXT)
    assert [path.name for path in tmp_path.iterdir()] == ["a.tokens"]
    pairs = {
        ("train", "-o", tmp_path / "run", *SHORT, *STEPS, "--overwrite"): ("steps", "best"),
        ("lr-find", "-o", tmp_path / "lr", *SHORT, "--updates", "20", "--overwrite"): (
            "suggestion",
            "steepest_descent",
        ),
        ("eval", folder): ("loss", "tokens"),
    }
    for verb, names in pairs.items():
        same(*(json.loads(run(*verb, name, "--json")) for name in (source, piped(TEXT))), *names)
    scores = [json.loads(run("score", folder, name, "--json"))["files"][0] for name in (source, piped(TEXT))]
    same(*scores, "logprob", "tokens")
    rows = [
        run("generate", folder, "--input", name, "--max-new-tokens", "3", "--format", "jsonl", "-o", "-")
        for name in (
            str(write(tmp_path / "rows.jsonl", ROWS.replace('"text"', '"id"'))),
            piped(ROWS.replace('"text"', '"id"')),
        )
    ]
    assert rows[0] == rows[1]
    assert len(rows[0].splitlines()) == 6
    run("report", folder, "--text", piped(TEXT), "-o", tmp_path / "a.html")


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


class Pair(Group):
    """Imitate a group of two processes of which this is the second; the results of the first are given."""

    rank, size = 1, 2

    def __init__(self, made: object) -> None:
        self.made = made

    def shared(self, make: Callable[[], Any]) -> Any:
        return self.made


def test_of_several_processes_one_reads_a_pipe(trained: Path, piped: Callable[[str], str]) -> None:
    made = Corpus("pipe", "read by the other process")
    assert open_corpus([piped(TEXT)], ReadOptions(), Pair(made)) is made
    assert open_corpus(["-"], ReadOptions(), Pair(made)) is made
    assert open_corpus([trained / "a.txt"], ReadOptions(), Pair(made)) == read_corpus([trained / "a.txt"])
    assert pickle.loads(pickle.dumps(made)) == made


def test_compressed_text_is_found_beside_its_run(tmp_path: Path, run: Run) -> None:
    source = tmp_path / "a.txt.gz"
    source.write_bytes(gzip.compress(TEXT.encode()))
    run("train", source, *SHORT, *STEPS, "-o", tmp_path / "run")
    run("report", tmp_path / "run", "-o", tmp_path / "a.html")
    assert "the validation part of a.txt.gz" in (tmp_path / "a.html").read_text()


def test_a_study_reads_its_pipe_once(trained: Path, tmp_path: Path, run: Run, piped: Callable[[str], str]) -> None:
    pytest.importorskip("optuna", reason="the tune extra is not installed")
    trials = [
        json.loads(run("tune", name, *SHORT, "--steps", "2", "--trials", "1", "-o", tmp_path / f"{i}", "--json"))[
            "trials"
        ][0]
        for i, name in enumerate((trained / "a.txt", piped(TEXT)))
    ]
    same(*trials, "state", "loss")
    assert trials[0]["state"] == "complete"


@pytest.mark.parametrize("verb", ["encode", "train", "lr-find", "eval", "score"])
def test_an_empty_pipe_is_an_error(
    trained: Path, tmp_path: Path, run: Run, piped: Callable[[str], str], verb: str
) -> None:
    model = [trained / "run"] if verb in ("eval", "score") else []
    output = [] if model else ["-o", tmp_path / "a.tokens"]
    assert "holds no text" in run(verb, *model, piped(""), *output, code=2)
    assert not list(tmp_path.iterdir())


# bytes that are no character, and too little text


def test_a_vocabulary_of_anything_is_saved_and_resumed(tmp_path: Path) -> None:
    corpus = Corpus("caf\udce9", "ab\ud83d here\n" * 40)
    folder = tmp_path / "run"
    data = DataConfig(batch_size=2, length=9)
    for steps in (2, 4):
        training = TrainingConfig(steps=steps, schedule="constant")
        run = prepare_run(corpus, Experiment(training, data, ModelSettings("gru", 4, 6)))
        assert run.run(folder, resume=steps == 4).steps == steps
    model = load(folder)
    assert "\ud83d" in model.tokenizer.vocabulary
    assert model.training["corpus"]["name"] == "caf\udce9"
    assert prepare_dataset(corpus, data).tokenizer == model.tokenizer
    value = {"a\ud83d": ["\udce9", "ü😀"]}
    assert parse_value(to_json(value)) == value
    to_json(value, indent=2).encode()


def test_an_exported_vocabulary_of_anything_is_the_same(tmp_path: Path, run: Run) -> None:
    corpus = Corpus("a.txt", "ab\ud83d here\n" * 40)
    experiment = Experiment(TrainingConfig(steps=2), DataConfig(batch_size=2, length=9), ModelSettings("gru", 4, 6))
    prepare_run(corpus, experiment).run(tmp_path / "run")
    model = load(tmp_path / "run")
    for kind, name in (("onnx", "m.onnx"), ("torchscript", "m.pt")):
        if kind == "torchscript":
            pytest.importorskip("torch", reason="the torch extra is not installed")
        run("export", tmp_path / "run", "--format", kind, "-o", tmp_path / name)
        exported = load(tmp_path / name)
        assert exported.tokenizer == model.tokenizer
        assert exported.digest == model.digest
        prompts = ["\ud83d", "ab\ud83d h"]
        texts = [
            [one.text for one in generate(each, prompts, max_new_tokens=9, do_sample=False)]
            for each in (model, exported)
        ]
        assert texts[0] == texts[1]


def test_json_loses_nothing_where_the_stream_has_few_characters(monkeypatch: pytest.MonkeyPatch, trained: Path) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), "ascii", errors="replace")
    monkeypatch.setattr(sys, "stdout", stream)
    print_json({"text": "ü 猫 \udce9"})
    stream.flush()
    assert json.loads(stream.buffer.getvalue()) == {"text": "ü 猫 \udce9"}  # type: ignore[attr-defined]


def test_prompts_of_half_a_surrogate_pair(trained: Path, run: Run) -> None:
    model = load(trained / "run")
    with pytest.raises(UnrolledError, match="no character"):
        generate(model, ["\ud83d"], max_new_tokens=2)
    with pytest.raises(UnrolledError, match="no character"):
        score(model, ["ab\ud83d"])
    printed = run("generate", trained / "run", "-p", os.fsdecode(b"the \xe9"), code=2)
    assert printed.startswith("error: the vocabulary has no character")


@pytest.mark.parametrize("verb", ["train", "lr-find", "encode"])
def test_a_text_of_one_symbol_is_what_the_error_is_about(tmp_path: Path, run: Run, verb: str) -> None:
    source = write(tmp_path / "a.txt", "aaaa" * 300)
    printed = run(verb, source, "-o", tmp_path / "a.tokens", code=2)
    assert "a.txt: holds one character alone, 'a', so that there is nothing to learn" in printed
    assert "--" not in printed
    assert not (tmp_path / "a.tokens").exists()


def test_one_word_alone(tmp_path: Path) -> None:
    write(tmp_path / "a.txt", "word " * 300)
    with pytest.raises(CorpusError, match=r"a\.txt: holds one word alone, 'word'"):
        encode_files([tmp_path / "a.txt"], tmp_path / "a.tokens", DataConfig("word", unknown="error"))
