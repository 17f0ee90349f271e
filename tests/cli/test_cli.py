"""Tests of the command from outside: exit codes, standard output, standard error, files."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import models
import pytest
import typer
from commands import run_command
from rich.text import Text

from unrolled.cli.app import app
from unrolled.cli.app import run as run_here
from unrolled.cli.options import decoding
from unrolled.cli.terminal.console import print_json
from unrolled.cli.terminal.error_messages import one_line_message
from unrolled.engine.errors import ConfigError
from unrolled.engine.storage.checkpoint import save_checkpoint
from unrolled.export import web

TEXT = "the quick brown fox jumps over the lazy dog; pack my box with five dozen jugs.\n" * 60
SMALL = ("--hidden", "16", "--embed", "8", "--batch", "4", "--length", "16", "--schedule", "constant", "--no-samples")
PLOTS = importlib.util.find_spec("matplotlib") is not None  # without the plot extra, train draws no picture
RUN_FILES = {
    "best.safetensors",
    "last.safetensors",
    "metrics.jsonl",
    "resume.safetensors",
    *(["curve.png"] if PLOTS else []),
}


def run(*arguments: str, stdin: str | None = None, code: int = 0) -> subprocess.CompletedProcess[str]:
    """Run the command in a wide terminal; fail unless it exits with ``code``."""
    return run_command(*arguments, stdin=stdin, code=code, COLUMNS="200", PYTHONIOENCODING="utf-8")


def run_json(*arguments: str, **settings: Any) -> Any:
    return json.loads(run(*arguments, "--json", **settings).stdout)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("corpus") / "fox.txt"
    path.write_text(TEXT)
    return path


@pytest.fixture(scope="module")
def trained(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run folder with an ONNX and a TorchScript file in it."""
    pytest.importorskip("torch", reason="the torch extra is not installed")
    folder = tmp_path_factory.mktemp("runs") / "fox"
    run("train", str(corpus), "--engine", "numpy", "--cell", "gru", "--steps", "60", *SMALL, "-o", str(folder))
    run("export", str(folder))
    run("export", str(folder), "--format", "torchscript")
    return folder


def test_train_writes_a_run_and_reports_it(corpus: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    done = run("train", str(corpus), "--engine", "numpy", "--steps", "30", *SMALL, "-o", str(folder), "--json")
    figures = json.loads(done.stdout)
    assert (figures["steps"], figures["engine"], figures["interrupted"]) == (30, "numpy", False)
    assert figures["best"]["loss"] < 3.3
    assert {path.name for path in folder.iterdir()} == RUN_FILES
    if PLOTS:
        assert (folder / "curve.png").read_bytes().startswith(b"\x89PNG")
    assert "validation loss" in done.stderr
    assert "perplexity" in done.stderr


@pytest.mark.parametrize("batching", ["stream", "records"])
def test_train_reads_columns_fields_and_standard_input(tmp_path: Path, batching: str) -> None:
    lines = [f"{number} {line}" for number, line in enumerate(TEXT.splitlines()[:60])]
    (tmp_path / "a.csv").write_text("id,text\n" + "".join(f'{i},"{line}"\n' for i, line in enumerate(lines)))
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"body": line}) + "\n" for line in lines))
    common = ("--engine", "numpy", "--steps", "3", "--batching", batching, *SMALL)
    losses = []
    for number, (source, stdin) in enumerate(
        (
            ((str(tmp_path / "a.csv"), "--column", "text"), None),
            ((str(tmp_path / "a.jsonl"), "--field", "body"), None),
            (("-",), "\n".join(lines)),
        )
    ):
        figures = run_json("train", *source, *common, "-o", str(tmp_path / f"run{number}"), stdin=stdin)
        losses.append(figures["best"]["loss"])
    assert losses[0] == losses[1] == losses[2]


@pytest.mark.slow
def test_the_same_seed_gives_the_same_losses_on_every_engine(corpus: Path, tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="the torch extra is not installed")
    losses = {}
    for engine in ("numpy", "numba", "torch"):
        output = str(tmp_path / engine)
        settings = ("--steps", "10", "--layers", "2", "--dropout", "0.2", "--seed", "3")
        losses[engine] = run_json("train", str(corpus), "--engine", engine, *settings, *SMALL, "-o", output)
    for figures in losses.values():
        assert figures["best"]["loss"] == pytest.approx(losses["numpy"]["best"]["loss"], abs=1e-4)


def test_figures_of_train_info_and_eval_agree(corpus: Path, trained: Path) -> None:
    described = {name: run_json("info", str(trained / name)) for name in ("", "model.onnx", "model.pt")}
    kinds = [values["kind"] for values in described.values()]
    assert kinds == ["checkpoint", "onnxruntime", "torchscript"]
    assert len({values["val_loss"] for values in described.values()}) == 1
    assert described[""]["model"]["cell"] == "gru"
    assert described[""]["trained"]["steps"] == 60
    part = run_json("eval", str(trained), str(corpus), "--part", "validation")
    assert part["loss"] == pytest.approx(described[""]["val_loss"], abs=1e-5)
    scores = [
        run_json("eval", str(trained / name), str(corpus), *engine)
        for name, engine in (
            ("", ()),
            ("", ("--engine", "numpy")),
            ("", ("--engine", "numba")),
            ("", ("--engine", "torch")),
            ("best.safetensors", ("--batch", "1", "--length", "77")),
            ("model.onnx", ()),
            ("model.pt", ()),
        )
    ]
    for score in scores:
        assert score["tokens"] == len(TEXT) - 1
        assert score["loss"] == pytest.approx(scores[0]["loss"], abs=1e-5)
        assert score["accuracy"] == pytest.approx(scores[0]["accuracy"], abs=1e-3)
        assert score["bits_per_token"] == pytest.approx(score["loss"] / 0.6931471805599453)


@pytest.mark.slow
def test_generate_is_the_same_from_every_file_and_engine(trained: Path) -> None:
    settings = ("-p", "the ", "-p", "fox", "-n", "2", "--seed", "5", "--max-new-tokens", "50", "--top-k", "8")
    texts = [
        [row["text"] for row in run_json("generate", str(model), *settings, *engine)["texts"]]
        for model, engine in (
            (trained, ()),
            (trained, ("--engine", "numpy")),
            (trained / "model.onnx", ()),
            (trained / "model.pt", ()),
        )
    ]
    assert len(texts[0]) == 4
    assert len(set(texts[0])) == 4
    assert all(other == texts[0] for other in texts)


def test_names_with_markup_dollars_and_other_scripts_are_names(tmp_path: Path) -> None:
    source = tmp_path / "m$_$[red]日本.txt"
    source.write_text(TEXT, encoding="utf-8")
    output = tmp_path / "run[bold]$x$"
    shown = run("train", str(source), "--engine", "numpy", "--steps", "3", *SMALL, "-o", str(output)).stdout
    assert source.name in shown
    assert str(output) in shown
    exported = run("export", str(output)).stdout
    assert str(output / "model.onnx") in exported


@pytest.mark.slow
def test_smaller_exports_say_what_they_cost(corpus: Path, tmp_path: Path) -> None:
    folder, text = str(tmp_path / "run"), str(corpus)
    run("train", text, "--engine", "numpy", "--steps", "3", *SMALL, "-o", folder)
    usual = json.loads(run("export", folder, "--json").stdout)
    assert (usual["form"], usual["weights"], usual["remarks"]) == ("step", "float32", [])
    for options, words in (
        (("--weights", "int8", "--form", "generate"), ""),
        (("--quantize", "int8", "--form", "both"), "in onnxruntime and OpenVINO only"),
    ):
        done = run("export", folder, *options, "--overwrite", "--measure", text, "--json")
        values = json.loads(done.stdout)
        assert values["form"] == options[-1]
        assert words in done.stderr
        assert values["after"]["bytes"] == values["bytes"]
        assert abs(values["after"]["perplexity"] / values["before"]["perplexity"] - 1) < 0.05
        assert values["after"]["tokens_per_s"] > 0
        run("verify", values["path"])
        written = run("generate", values["path"], "--max-new-tokens", "20", "--greedy").stdout
        assert len(written.strip()) > 0
    shown = run("export", folder, "--weights", "fp16", "--measure", text, "--overwrite").stdout
    assert "perplexity" in shown
    assert "this file" in shown


@pytest.mark.parametrize("kind", ["torchscript", "web"])
def test_exports_of_every_format_say_what_they_cost(trained: Path, corpus: Path, tmp_path: Path, kind: str) -> None:
    options: tuple[str, ...] = ("--weights", "int8")
    remark = ""
    if kind == "torchscript":
        pytest.importorskip("torch", reason="the torch extra is not installed")
        options, remark = (), "TorchScript is deprecated upstream"
    else:
        for name in web.RUNTIME:
            (tmp_path / name).write_text(name)
        options += ("--onnxruntime-web", str(tmp_path))
    path = tmp_path / ("model.pt" if kind == "torchscript" else "page")
    done = run("export", str(trained), "--format", kind, *options, "-o", str(path), "--measure", str(corpus), "--json")
    values = json.loads(done.stdout)
    file = path if path.is_file() else path / web.MODEL
    assert values["after"]["bytes"] == file.stat().st_size
    assert values["before"]["bytes"] == (trained / "model.onnx").stat().st_size
    part = run_json("eval", str(file), str(corpus))
    assert values["after"]["perplexity"] == pytest.approx(part["perplexity"], rel=1e-5)
    if kind == "torchscript":  # the same weights
        assert values["after"]["perplexity"] == pytest.approx(values["before"]["perplexity"], rel=1e-5)
    assert min(values[when]["tokens_per_s"] for when in ("before", "after")) > 0
    assert remark in done.stderr
    assert "".join(values["remarks"]).startswith(remark)


@pytest.mark.parametrize(
    ("cell", "words"),
    [
        ("gru", "onnxruntime has no int8 operator for gru: its recurrent weights are stored in int8"),
        ("rnn", "onnxruntime has no int8 operator for rnn: its recurrent weights are stored in int8"),
        ("lstm", "With products in int8 the file runs in onnxruntime and OpenVINO only"),
    ],
)
def test_each_cell_says_what_quantizing_gives_it(tmp_path: Path, cell: str, words: str) -> None:
    save_checkpoint(tmp_path / "model.safetensors", models.checkpoint(cell))
    given = str(tmp_path / "model.safetensors")
    done = run("export", given, "--quantize", "int8", "-o", str(tmp_path / "small.onnx"), "--json")
    assert " ".join(done.stderr.split()).count(words) == 1
    assert [remark for remark in json.loads(done.stdout)["remarks"] if words in remark]


def test_a_diverged_run_leaves_the_earlier_one(corpus: Path, tmp_path: Path) -> None:
    output = str(tmp_path / "run")
    wild = ("--optimizer", "sgd", "--lr", "1e38", "--clip", "0", "--steps", "60")
    done = run("train", str(corpus), "--engine", "numpy", *wild, *SMALL, "-o", output, code=2)
    assert "try a lower learning rate" in done.stderr
    assert not (tmp_path / "run").exists()
    run("train", str(corpus), "--engine", "numpy", "--steps", "3", *SMALL, "-o", output)
    run("export", output)
    before = {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()}
    run("train", str(corpus), "--engine", "numpy", *wild, *SMALL, "-o", output, "--overwrite", code=2)
    assert {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()} == before
    run("train", str(corpus), "--engine", "numpy", "--steps", "4", *SMALL, "-o", output, "--overwrite")
    assert {path.name for path in (tmp_path / "run").iterdir()} == RUN_FILES


def test_ctrl_c_keeps_the_run_and_exits_with_130(corpus: Path, tmp_path: Path) -> None:
    output = tmp_path / "run"
    arguments = ("train", str(corpus), "--engine", "numpy", "--seconds", "60", "--validate-every", "20", *SMALL)
    command = [sys.executable, "-m", "unrolled.cli", *arguments, "-o", str(output)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not (output / "last.safetensors").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    shown, complaints = process.communicate(timeout=60)
    assert process.returncode == 130, complaints
    assert "interrupted after" in shown
    assert "Traceback" not in complaints
    steps = run_json("info", str(output / "last.safetensors"))["trained"]["steps"]
    assert steps == len(
        [line for line in (output / "metrics.jsonl").read_text().splitlines() if '"step", "step"' in line]
    )


def test_output_that_cannot_show_a_character_shows_another(trained: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "unrolled.cli", "generate", str(trained), "-p", "日本"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        check=False,
    )
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "has no character" in done.stderr


def test_generate_prints_prompt_and_text(trained: Path) -> None:
    shown = run("generate", str(trained), "-p", "the ", "--greedy", "--max-new-tokens", "20").stdout
    row = run_json("generate", str(trained), "-p", "the ", "--greedy", "--max-new-tokens", "20")["texts"][0]
    assert shown == "the " + row["text"] + "\n"
    stopped = run_json("generate", str(trained), "-p", "the ", "--greedy", "--stop", row["text"][3:6])["texts"][0]
    assert (stopped["finish_reason"], stopped["text"]) == ("stop", row["text"][: row["text"].index(row["text"][3:6])])


def test_generate_has_the_processors_and_log_probabilities(trained: Path) -> None:
    rules = ("--bad-word", "o", "--suppress-token", "e", "--bias", "q=4", "--forced-prefix", "ja", "--min-p", "0.01")
    rules += ("--repetition-penalty", "1.1", "--no-repeat-ngram-size", "9", "--typical-p", "0.99")
    row = run_json("generate", str(trained), "-p", "the ", "--max-new-tokens", "40", "--logprobs", *rules)["texts"][0]
    assert row["text"].startswith("ja")
    assert not {"o", "e"} & set(row["text"])
    assert row["text"].count("q") >= 2
    assert len(row["logprobs"]) == 40
    assert max(row["logprobs"]) < 0
    beams = ("--num-beams", "3", "-n", "2", "--length-penalty", "0.5", "--early-stopping", "never")
    found = run_json("generate", str(trained), "-p", "the ", "--max-new-tokens", "9", "--logprobs", *beams)["texts"]
    assert len(found) == 2
    assert found[0]["score"] >= found[1]["score"]
    assert found[0]["score"] == pytest.approx(sum(found[0]["logprobs"]) / 3)


def test_biases_and_beams_are_read_from_options() -> None:
    assert decoding.biases(["a=1", r"x=\n=-2.5"]) == (("a", 1.0), ("x=\n", -2.5))
    for pair in ("a", "a=much", "3"):
        with pytest.raises(ConfigError, match=f"sequence_bias: got '{pair}', needs TEXT=NUMBER"):
            decoding.biases([pair])
    assert decoding.BeamOptions().settings == {}
    assert decoding.BeamOptions(3, 0.5, "never").settings == {
        "num_beams": 3,
        "length_penalty": 0.5,
        "early_stopping": "never",
    }
    assert decoding.BeamOptions(2, 1.0, "true").settings["early_stopping"] is True
    with pytest.raises(ConfigError, match="early_stopping: got 'soon', choose one of true, false, never"):
        decoding.BeamOptions(2, 1.0, "soon")


def test_score_of_texts_alternatives_and_files(trained: Path, corpus: Path) -> None:
    one, other = run_json("score", str(trained), "-t", "the quick", "-t", "quick the", "--engine", "numpy")["texts"]
    assert one["tokens"] == list("he quick")
    assert one["logprob"] == pytest.approx(sum(one["logprobs"])) == pytest.approx(8 * one["mean"])
    assert one["perplexity"] < other["perplexity"]
    ranked = run_json("score", str(trained), "-p", "the ", "-a", "xq", "-a", "qu", "-a", "la")["texts"]
    assert ranked[-1]["text"] == "xq"
    assert ranked == sorted(ranked, key=lambda row: -row["logprob"])
    assert sum(row["share"] for row in ranked) == pytest.approx(1)
    shown = run("score", str(trained), "-p", "the ", "-a", "xq", "-a", "qu", "--tokens").stdout
    assert "share" in shown
    assert shown.count("token") >= 2
    figures = run_json("score", str(trained), str(corpus))["files"][0]
    evaluated = run_json("eval", str(trained), str(corpus))
    assert [figures[name] for name in ("mean", "perplexity", "tokens")] == [
        -evaluated["loss"],
        evaluated["perplexity"],
        evaluated["tokens"],
    ]


def test_score_reads_a_column(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "texts.csv").write_text("number,text\n1,the quick\n2,the lazy dog\n")
    (tmp_path / "texts.jsonl").write_text('{"said": "the quick"}\n{"said": "the lazy dog"}\n')
    by_column = run_json("score", str(trained), str(tmp_path / "texts.csv"), "--column", "text")["files"][0]
    by_field = run_json("score", str(trained), str(tmp_path / "texts.jsonl"), "--field", "said")["files"][0]
    assert by_column["logprob"] == by_field["logprob"] < 0


@pytest.mark.parametrize("name", ["", "model.onnx", "model.pt"])
def test_verify_of_good_files(trained: Path, name: str) -> None:
    report = run_json("verify", str(trained / name))
    assert report["ok"] is True
    assert len(report["checks"]) >= 4


def test_verify_of_a_damaged_file_exits_with_1(trained: Path, tmp_path: Path) -> None:
    data = bytearray((trained / "model.onnx").read_bytes())
    weights = data.index(b"output.weight")
    data[weights - 200] ^= 0x40  # in the weights, whichever they are
    (tmp_path / "model.onnx").write_bytes(data)
    done = run("verify", str(tmp_path / "model.onnx"), code=1)
    assert "FAILED" in done.stdout


def check_texts(row: dict[str, Any], texts: int) -> None:
    """Check that tokens are NumPy's except where rounding explains another: about one draw in 100,000 hits a moved border."""
    assert row["greedy_match"] == 1.0
    assert all(one["explained"] for one in row["divergences"]), row
    assert row["equal_texts"] == pytest.approx(1 - len(row["divergences"]) / texts)
    assert (row["sampled_match"] == 1.0) is (not row["divergences"])
    assert len(row["divergences"]) <= 1


@pytest.mark.slow
def test_compare_holds_every_engine_and_file_against_numpy(trained: Path) -> None:
    report = run_json("compare", str(trained), "--tokens", "60", "-n", "2", "-p", "the ", "-p", "lazy")
    assert (report["tokens"], report["number"]) == (60, 2)
    names = [row["engine"] for row in report["agreement"]]
    assert names == ["numpy", "numba", "torch", "torchscript", "onnxruntime", "onnxruntime", "torchscript"]
    for row in report["agreement"]:
        assert row["max_logit_error"] < 1e-4
        check_texts(row, 4)
        assert row["tokens_per_s_1"] > 0


def test_info_of_the_system() -> None:
    values = run_json("info", "--system")["system"]
    assert values["cores"] >= 1
    assert values["versions"]["numpy"]
    assert values["numba"]["threading_layer"] in ("omp", "tbb", "workqueue")
    assert set(values["numba"]) >= {"threads", "vector", "tile", "fma", "avx512_bf16", "amx_bf16", "target"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("train", "nothing.txt"), "nothing.txt: no such file"),
        (("train", "{corpus}", "--cell", "lstmm"), "'lstmm' is not known; choose one of rnn"),
        (("train", "{corpus}", "--engine", "jax"), "engine: got 'jax', choose one of numba"),
        (("train", "{corpus}", "--column", "a"), "--column goes with .csv"),
        (("train", "{corpus}", "--dropout", "0.5"), "there is one layer"),
        (("train", "{corpus}", "--split", "0.9"), "split: got 0.9"),
        (("train", "{corpus}", "--split", "a,b,c"), "split: got 'a,b,c'"),
        (("train", "{corpus}", "--optimizer", "lion"), "optimizer: got 'lion'"),
        (("train", "{corpus}", "--lr", "-1"), "--lr: got -1"),
        (("train", "{corpus}", "--steps", "0"), "steps: got 0"),
        (("train", "{corpus}", "--batching", "lines"), "batching: got 'lines'"),
        (("train", "{corpus}", "--level", "byte"), "level: got 'byte'"),
        (("encode", "{corpus}", "-o", "ids.bin"), "ids.bin: needs a name that ends in .tokens"),
        (("encode", "nothing.txt", "-o", "{run}/a.tokens"), "nothing.txt: cannot be read"),
        (
            ("encode", "{corpus}", "-o", "{run}/a.tokens", "--level", "bpe", "--unknown", "skip"),
            "goes with level 'char'",
        ),
        (("generate", "nothing"), "nothing: no such file or folder"),
        (("generate", "{run}", "-p", "ÄÖ"), "the vocabulary has no character 'Ä'"),
        (("generate", "{run}", "-p", ""), "has no token to start from"),
        (
            ("generate", "{run}", "--temperature", "-1"),
            "temperature: got -1.0, needs 0, which is greedy, or a number",
        ),
        (
            ("generate", "{run}", "--temperature", "nan"),
            "temperature: got nan, needs 0, which is greedy, or a number",
        ),
        (
            ("generate", "{run}", "--temperature", "inf"),
            "temperature: got inf, needs 0, which is greedy, or a number",
        ),
        (("generate", "{run}", "--num-beams", "2", "--seed", "0"), "seed: a search with beams draws nothing"),
        (("generate", "{run}", "--num-beams", "2", "--top-k", "0"), "--top-k: a search with beams draws nothing"),
        (("generate", "{run}", "--greedy", "--temperature", "2"), "temperature: greedy writing draws nothing"),
        (("score", "{run}", "--text", "a", "--by", "mean"), "by: goes with alternatives; leave it out"),
        (("score", "{run}", "--text", "a", "--encoding", "utf-16"), "encoding: goes with files"),
        (("generate", "{run}", "--top-p", "2"), "--top-p: got 2.0"),
        (("generate", "{run}", "--engine", "jax"), "engine: got 'jax'"),
        (("generate", "{run}", "--length-penalty", "2"), "--length-penalty and --early-stopping go with --num-beams"),
        (("score", "{run}"), "needs one of --text, --alternative or files"),
        (("score", "{run}", "{corpus}", "-p", "a"), "do not go with files"),
        (("generate", "{run}", "--bad-word", "É"), "--bad-word: 'É': the vocabulary has no character"),
        (("export", "{run}", "--format", "tflite"), "format: got 'tflite', choose one of onnx, torchscript"),
        (("export", "{run}", "-o", "model.txt"), "needs the ending .onnx"),
        (("export", "{run}", "--form", "loop"), "form of onnx: got 'loop', choose one of step, generate, both"),
        (
            ("export", "{run}", "--format", "torchscript", "--weights", "int8"),
            "weights: is no setting of format torchscript; it belongs to onnx, web",
        ),
        (("export", "{run}", "--weights", "fp16", "--quantize", "int8"), "with --quantize int8 they are int8"),
        (
            (
                "export",
                "{run}/model.onnx",
            ),
            "export starts from a run folder",
        ),
        (("eval", "{run}", "{other}"), "the vocabulary has no character 'Ω'"),
        (("verify", "{corpus}"), "ending '.txt' is of no model file"),
        (("train", "{corpus}", "--steps", "many"), "Invalid value for '--steps'"),
        (("train", "{corpus}", "--hidden", "0"), "--hidden: got 0"),
        (("train", "{corpus}", "--seed", "-1"), "seed: got -1"),
        (("train", "{corpus}", "--split", "nan,nan,nan"), "split: got nan"),
        (("train", "{corpus}", "--encoding", "undefined"), "'undefined' is not an encoding"),
        (("frobnicate",), "No such command 'frobnicate'"),
        (("eval", "{run}"), "name a corpus: the model was trained on fox.txt"),
        (("eval", "{run}", "--part", "validation"), "is not the corpus that the model was trained on (fox.txt)"),
        (("eval", "{run}", "{corpus}", "--part", "all"), "part: got 'all'"),
        (("eval", "{run}", "{corpus}", "--batching", "lines"), "batching: got 'lines'"),
        (("eval", "{run}", "{corpus}", "--batching", "records"), "has no <bos>"),
        (("export", "{run}", "-o", "{folder}"), "needs the ending .onnx"),
        (("export", "{run}", "-o", "{corpus}/x.onnx"), "the folder cannot be made"),
        (("compare", "{run}/model.onnx"), "compare needs a run folder or a checkpoint"),
        (("info",), "name a model file or a run folder"),
        (("demo", "--seconds", "0"), "seconds: got 0.0"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    arguments: tuple[str, ...], message: str, corpus: Path, trained: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other.txt"
    other.write_text("Ω" * 10, encoding="utf-8")
    names = {"corpus": str(corpus), "run": str(trained), "other": str(other), "folder": str(tmp_path)}
    output = ("-o", str(tmp_path / "run")) if arguments[0] == "train" else ()
    done = run(*(argument.format(**names) for argument in arguments), *output, code=2)
    assert message in done.stderr
    assert done.stderr.startswith("error: ")
    assert len(done.stderr.strip().splitlines()) == 1
    assert done.stdout == ""
    assert not (tmp_path / "run").exists()


def test_errors_of_the_system_name_the_file_and_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    text, tokens = tmp_path / "fox.txt", tmp_path / "fox.tokens"
    text.write_text(TEXT)
    monkeypatch.setattr(sys, "argv", ["unrolled", "encode", str(text), "-o", str(tokens)])
    monkeypatch.setattr(os, "fsync", full)
    assert run_here() == 2
    assert capsys.readouterr().err.split() == f"error: {tokens}: No space left on device".split()
    assert list(tmp_path.iterdir()) == [text]
    assert "unrolled encode" in one_line_message(MemoryError(), {})


def test_debug_shows_where_an_error_came_from() -> None:
    assert "Traceback" in run("--debug", "generate", "nothing", code=1).stderr


def test_a_token_file_trains_as_its_text_does(tmp_path: Path, corpus: Path) -> None:
    file = str(tmp_path / "fox.tokens")
    figures = run_json("encode", str(corpus), "-o", file, "--level", "word")
    assert figures["characters"] == len(TEXT)
    assert figures["tokens"] == sum(figures["parts"])
    settings = ("--engine", "numpy", "--steps", "9", *SMALL)
    losses = [
        run_json("train", source, *settings, *level, "-o", str(tmp_path / f"run{place}"))["best"]["loss"]
        for place, (source, level) in enumerate([(file, ()), (str(corpus), ("--level", "word"))])
    ]
    assert losses[0] == losses[1]
    for part in ((), ("--part", "validation")):
        texts = [run_json("eval", str(tmp_path / "run0"), source, *part) for source in (file, str(corpus))]
        assert texts[0]["loss"] == pytest.approx(texts[1]["loss"], abs=1e-6)
        assert texts[0]["tokens"] == texts[1]["tokens"]
    split = str(tmp_path / "split.tokens")
    run("encode", str(corpus), "-o", split, "--level", "word", "--split", "0.9,0.1,0")
    assert "another split" in run("eval", str(tmp_path / "run0"), split, "--part", "validation", code=2).stderr
    run("encode", str(corpus), "-o", split, "--overwrite")
    assert "another vocabulary than the model's" in run("eval", str(tmp_path / "run0"), split, code=2).stderr
    assert "is a stream" in run("eval", str(tmp_path / "run0"), file, "--batching", "records", code=2).stderr
    assert "fox.txt -> " in run("encode", str(corpus), "-o", file, "--overwrite").stdout
    assert "encoded with 'char'; encode it anew" in run("train", file, "--level", "word", code=2).stderr


def test_help_of_every_verb_and_version() -> None:
    shown = run("--help").stdout
    for verb in (
        "demo",
        "train",
        "tune",
        "lr-find",
        "encode",
        "eval",
        "generate",
        "score",
        "import",
        "export",
        "verify",
        "compare",
        "info",
    ):
        assert verb in shown
        assert "Usage" in run(verb, "--help").stdout
    assert run("--version").stdout.startswith("unrolled ")


def test_no_help_text_loses_a_bracket_to_markup() -> None:
    def commands(command: Any) -> Iterator[Any]:
        yield command
        for below in getattr(command, "commands", {}).values():
            yield from commands(below)

    for command in commands(typer.main.get_command(app)):
        for text in (command.help, *(getattr(parameter, "help", None) for parameter in command.params)):
            text = text or ""
            assert Text.from_markup(text).plain == text.replace("\\[", "["), command.name


def test_json_has_no_numbers_that_json_has_not(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"a": float("inf"), "b": [1.5, float("nan")], "c": "ü"})
    assert json.loads(capsys.readouterr().out) == {"a": None, "b": [1.5, None], "c": "ü"}


@pytest.mark.slow
def test_demo_writes_its_summary(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="the torch extra is not installed")
    done = run("demo", "--seconds", "6", "--output", str(tmp_path / "demo"))
    summary = json.loads((tmp_path / "demo" / "summary.json").read_text(encoding="utf-8"))
    assert set(summary) == {"corpus", "engines", "artifacts", "agreement", "samples"}
    assert set(summary["engines"]) == {"numpy", "numba", "torch"}
    for figures in summary["engines"].values():
        assert 1 < figures["val_loss"] < 5
        assert figures["val_perplexity"] == pytest.approx(2.718281828 ** figures["val_loss"], rel=1e-6)
        assert figures["tokens_per_s"] > 0
    assert all(Path(path).exists() for path in summary["artifacts"].values())
    assert {row["engine"] for row in summary["agreement"]} == {"numpy", "numba", "torch", "onnxruntime", "torchscript"}
    for row in summary["agreement"]:
        assert row["max_logit_error"] < 1e-4
        check_texts(row, 3)
    assert all(sample["text"] for sample in summary["samples"])
    assert "validation loss" in done.stdout
