"""Every verb that reads records prints which column it read, how many rows, and how many it skipped and why."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import models
import pytest

from unrolled.cli.app import run as run_here
from unrolled.engine.storage.checkpoint import save_checkpoint

TABLE = "id;text\n" + "".join(f'{number};"abc, cab"\n' for number in range(30)) + "30;\n"
SMALL = ("--engine", "numpy", "--hidden", "8", "--embed", "4", "--batch", "2", "--length", "8")
STEPS = ("--steps", "2")
Run = Callable[..., tuple[Any, str]]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    checkpoint = models.checkpoint("gru", 1)
    checkpoint.tokenizer.unknown = "skip"
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    save_checkpoint(path, checkpoint)
    return str(path)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Run the command in this process and in ``tmp_path``; return standard output, parsed if it is JSON, and standard error."""

    def command(*arguments: str, code: int = 0) -> tuple[Any, str]:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["unrolled", *arguments])
        ended = run_here()
        out, err = capsys.readouterr()
        assert ended == code, f"exit code {ended}\n{out}\n{err}"
        return json.loads(out) if "--json" in arguments and code == 0 else out, err

    return command


@pytest.fixture
def table(tmp_path: Path) -> str:
    (tmp_path / "a.csv").write_text(TABLE)
    return "a.csv"


LINE = "a.csv: column 'text' by ';', 30 rows; skipped: 1 empty"
READ = {
    "name": "a.csv",
    "format": "csv",
    "column": "text",
    "rows": 30,
    "skipped": {"empty": 1, "blank lines": 0},
    "delimiter": ";",
    "quoted": 0,
}


@pytest.mark.parametrize(
    "arguments", [("train", *SMALL, *STEPS), ("lr-find", *SMALL, "--updates", "20"), ("eval",), ("score",)]
)
def test_verbs_say_what_they_read(run: Run, model: str, table: str, arguments: tuple[str, ...]) -> None:
    verb, *others = arguments
    models_of = (model,) if verb in ("eval", "score") else ("-o", "out")
    figures, err = run(verb, *models_of, table, "--column", "text", *others, "--json")
    assert LINE in err.splitlines()
    found = figures["files"][0] if verb == "score" else figures
    assert found["read"] == [READ]
    out, err = run(
        verb, *models_of, table, "--column", "text", *others, *(("--overwrite",) if "-o" in models_of else ())
    )
    assert LINE in (err if verb == "score" else out).splitlines()


def test_tune_prints_what_it_read(run: Run, table: str) -> None:
    pytest.importorskip("optuna", reason="the tune extra is not installed")
    command = (
        "tune",
        table,
        "--column",
        "text",
        *SMALL,
        *STEPS,
        "--split",
        "0.5,0.5,0",
        "--trials",
        "1",
        "-o",
        "study",
        "--json",
    )
    figures, err = run(*command)
    assert LINE in err.splitlines()
    assert figures["read"] == [READ]


def test_export_measures_by_a_column(run: Run, model: str, table: str) -> None:
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    command = ("export", model, "-o", "a.onnx", "--measure", table)
    assert "which column? --column takes one of id, text" in run(*command, code=2)[1]
    assert LINE in run(*command, "--column", "text")[1].splitlines()
    assert run(*command, "--column", "text", "--overwrite", "--json")[0]["read"] == [READ]
    assert "--delimiter: go with --measure" in run("export", model, "-o", "b.onnx", "--delimiter", ";", code=2)[1]


def test_lines_of_a_text_are_records_too(run: Run, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("".join(f"{'a' * n}\n\nb{'c' * n}\n \n" for n in range(1, 11)))
    figures, err = run("train", "a.txt", "--batching", "records", *SMALL, *STEPS, "-o", "out", "--json")
    assert "a.txt: 20 lines; skipped: 20 blank lines" in err.splitlines()
    assert figures["read"][0]["skipped"] == {"blank lines": 20}
    figures, err = run("train", "a.txt", *SMALL, *STEPS, "-o", "out2", "--json")
    assert (figures["read"], "a.txt: 20 lines" in err) == ([], False)


def test_a_recipe_holds_the_format_of_a_table(run: Run, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("".join(f'{number}|"abc"\n' for number in range(30)))
    (tmp_path / "r.toml").write_text('delimiter = "|"\nquoting = "none"\nheader = false\ncolumn = "2"\n')
    figures, _ = run("train", "a.csv", "--recipe", "r.toml", *SMALL, *STEPS, "-o", "out", "--json")
    assert (figures["read"][0]["delimiter"], figures["read"][0]["column"], figures["read"][0]["rows"]) == ("|", "2", 30)
    figures, _ = run("train", "a.csv", "--recipe", "r.toml", *SMALL, *STEPS, "-o", "out", "--resume", "--json")
    assert figures["steps"] == 2
    command = ("train", "a.csv", "--recipe", "r.toml", "--quoting", "csv", *SMALL, *STEPS, "-o", "out", "--resume")
    assert "the corpus is not the one that the run began with" in run(*command, code=2)[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("train", "a.csv", "--column", ""), "error: column: got '', needs a name"),
        (("train", "a.csv", "--delimiter", ":"), "error: delimiter: got ':', choose one of , ; | tab"),
        (("eval", "MODEL", "a.csv", "--quoting", "all"), "error: quoting: got 'all', choose one of csv, none"),
        (("score", "MODEL", "-t", "a", "--column", "b"), "--column: go with files"),
        (("report", "out", "--no-header"), "--no-header: go with --text"),
        (("train", "python-reference", "--no-header"), "--no-header: for files; python-reference is built in"),
        (("train", "--delimiter", ";"), "--delimiter: for files; none is named"),
    ],
)
def test_bad_options_are_named(run: Run, model: str, table: str, arguments: tuple[str, ...], message: str) -> None:
    assert message in run(*(model if word == "MODEL" else word for word in arguments), code=2)[1]
