"""Tests of --overwrite in all verbs: without it an existing output is refused before any work is done."""

from __future__ import annotations

import inspect
import sys
from pathlib import Path

import models
import pytest
from typer.testing import CliRunner

from unrolled.cli.app import app, run
from unrolled.cli.options.written_files import check_append, check_output
from unrolled.engine.errors import ConfigError
from unrolled.engine.storage.checkpoint import save_checkpoint
from unrolled.export.formats import export_model
from unrolled.export.web import RUNTIME

KEPT = b"another's"
SIZES = ("--engine", "numpy", "--steps", "2", "--hidden", "4", "--layers", "1", "--batch", "2", "--length", "4")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder with a text, a run, prompts, and foreign weights."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text("the quick brown fox jumps over the lazy dog\n" * 40)
    save_checkpoint(tmp_path / "run" / "best.safetensors", models.checkpoint())
    (tmp_path / "prompts.txt").write_text("abc\n")
    for name in RUNTIME:
        (tmp_path / "ort").mkdir(exist_ok=True)
        (tmp_path / "ort" / name).write_bytes(b"")
    return tmp_path


# a verb, and its output
VERBS = {
    "encode": ("encode text.txt -o a.tokens", "a.tokens"),
    "export": ("export run", "run/model.onnx"),
    "export to a name": ("export run -o a.onnx --form both", "a.onnx"),
    "export a page": ("export run --format web --onnxruntime-web ort", "run/web/model.onnx"),
    "report": ("report trained --text text.txt", "report.html"),
    "lr-find": (f"lr-find text.txt -o lr --updates 20 {' '.join(SIZES[:2] + SIZES[4:])}", "lr/lr.jsonl"),
    "lr-find's picture": (f"lr-find text.txt -o lr --updates 20 {' '.join(SIZES[:2] + SIZES[4:])}", "lr/lr.png"),
    "train": (f"train text.txt -o new {' '.join(SIZES)}", "new/last.safetensors"),
    "train's picture": (f"train text.txt -o new {' '.join(SIZES)}", "new/curve.png"),
    "tune": (f"tune text.txt -o study --trials 1 {' '.join(SIZES)}", "study/study.log"),
    "tune's recipe": (f"tune text.txt -o study --trials 1 {' '.join(SIZES)}", "study/best.toml"),
    "generate": ("generate run --engine numpy --input prompts.txt --output a.jsonl --max-new-tokens 3", "a.jsonl"),
    "import": ("import run/best.safetensors -o theirs --vocabulary v.json", "theirs/best.safetensors"),
    "import to a name": ("import run/best.safetensors -o a.safetensors --vocabulary v.json", "a.safetensors"),
}


@pytest.mark.parametrize("verb", VERBS)
def test_an_existing_output_is_refused_before_any_work(
    here: Path, verb: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    command, written = VERBS[verb]
    (here / written).parent.mkdir(exist_ok=True, parents=True)
    (here / written).write_bytes(KEPT)
    before = sorted(here.rglob("*"))
    monkeypatch.setattr(sys, "argv", ["unrolled", *command.split()])
    assert run() == 2
    message = " ".join(capsys.readouterr().err.split())
    assert "--overwrite" in message
    assert (here / written).read_bytes() == KEPT
    assert sorted(here.rglob("*")) == before


@pytest.mark.parametrize("verb", ["encode", "export", "export a page", "lr-find", "train", "generate", "report"])
def test_overwrite_replaces_it(here: Path, verb: str) -> None:
    command, written = VERBS[verb]
    if verb == "report":
        assert CliRunner().invoke(app, ["train", "text.txt", "-o", "trained", *SIZES]).exit_code == 0
    for place in range(2):
        again = ["--overwrite"] if place else []
        done = CliRunner().invoke(app, [*command.split(), *again])
        assert done.exit_code == 0, (done.output, done.exception)
        assert (here / written).is_file()
    assert CliRunner().invoke(app, command.split()).exit_code != 0


def test_overwrite_replaces_a_study(here: Path) -> None:
    pytest.importorskip("optuna", reason="the tune extra is not installed")
    command, _ = VERBS["tune"]
    counts = []
    for more in ([], ["--resume", "--trials", "2"], ["--overwrite"]):
        done = CliRunner().invoke(app, [*command.split(), *more, "--json"])
        assert done.exit_code == 0, (done.output, done.exception)
        counts.append(done.stdout.count('"number"'))
    assert counts == [1, 2, 1]
    done = CliRunner().invoke(app, [*command.split(), "--overwrite", "--resume"])
    assert "give one of them" in str(done.exception)


def test_an_input_is_never_the_output(here: Path) -> None:
    (here / "a.tokens").write_text("some text of an odd name\n" * 30)
    (here / "a.html").write_text("<p>some text</p>\n" * 30)
    (here / "b.html").symlink_to(here / "a.html")
    for command in (
        "encode a.tokens -o a.tokens --overwrite",
        "report run --text a.html -o b.html --overwrite",
        "import run/best.safetensors -o run --vocabulary v.json --overwrite",
    ):
        done = CliRunner().invoke(app, command.split())
        assert "is read and cannot be written at once" in str(done.exception), command


def test_a_link_that_leads_nowhere_is_an_output_that_exists(here: Path) -> None:
    (here / "a.onnx").symlink_to(here / "none")
    with pytest.raises(ConfigError, match="say --overwrite"):
        check_output(here / "a.onnx", overwrite=False)


def test_a_picture_of_measurements_asks_too_and_measurements_are_added(here: Path) -> None:
    assert "overwrite" in inspect.signature(sys.modules["unrolled.cli.verbs.bench.results"].report).parameters
    (here / "old.jsonl").write_text("")
    (here / "a.png").write_bytes(KEPT)
    done = CliRunner().invoke(app, ["bench", "report", "old.jsonl", "--plot", "a.png"])
    assert "a.png: exists; name another output, or say --overwrite" in str(done.exception)
    assert (here / "a.png").read_bytes() == KEPT
    with pytest.raises(ConfigError, match="is a folder"):
        check_append(here)
    with pytest.raises(ConfigError, match="no such folder"):
        check_append(here / "none" / "a.jsonl")
    check_append(here / "old.jsonl")
    for verb in ("train", "generate", "batch", "memory", "runtimes"):
        done = CliRunner().invoke(app, ["bench", verb, "--json", "none/a.jsonl"])
        assert "none: no such folder" in str(done.exception), verb


def test_streams_are_written_without_asking(here: Path) -> None:
    if not Path("/dev/null").exists():
        pytest.skip("no /dev/null on this system")
    check_output("/dev/null", overwrite=False)


def test_the_library_replaces(here: Path) -> None:
    (here / "a.onnx").write_bytes(KEPT)
    export_model(models.checkpoint(), here / "a.onnx", "onnx")
    assert (here / "a.onnx").read_bytes() != KEPT


def test_force_is_still_understood(here: Path) -> None:
    (here / "a.safetensors").write_bytes(KEPT)
    (here / "v.json").write_text('["a", "b"]')
    done = CliRunner().invoke(
        app, ["import", "run/best.safetensors", "-o", "a.safetensors", "--vocabulary", "v.json", "--force"]
    )
    assert "tokens, and the model has" in str(done.exception)
    assert "--force" not in CliRunner().invoke(app, ["import", "--help"]).stdout
