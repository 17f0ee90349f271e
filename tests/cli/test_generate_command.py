"""Tests of ``unrolled generate --input`` from outside: exit codes, standard output and error, files."""

from __future__ import annotations

import io
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import models
import pytest
from rich.console import Console

from unrolled.cli.app import run as run_here
from unrolled.cli.terminal.job_display import JobDisplay, job_summary, progress_line
from unrolled.engine.errors import ConfigError
from unrolled.engine.storage.checkpoint import save_checkpoint
from unrolled.runtime import generate, load
from unrolled.runtime.jobs.job import parse_shard
from unrolled.runtime.jobs.runner import Progress


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    save_checkpoint(path, models.checkpoint("gru", 1, hidden_size=12))
    return str(path)


Run = Callable[..., tuple[str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run the command in this process and return its output and errors; fail unless it exits with ``code``."""

    def command(*arguments: str, code: int = 0, stdin: str = "") -> tuple[str, str]:
        monkeypatch.setattr(sys, "argv", ["unrolled", "generate", *arguments])
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin.encode())))
        ended = run_here()
        out, err = capsys.readouterr()
        assert ended == code, f"exit code {ended}\n{out}\n{err}"
        return out, err

    return command


def test_a_job_from_end_to_end(run: Run, model: str, tmp_path: Path) -> None:
    rows = [{"id": "x", "prompt": "a"}, {"prompt": "abc", "max_new_tokens": 3}, {"prompt": "z"}]
    source, output = tmp_path / "in.jsonl", tmp_path / "out" / "texts.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = (
        "--engine",
        "numpy",
        "--seed",
        "4",
        "--stop",
        "b",
        "--max-new-tokens",
        "5",
        "--top-k",
        "4",
        "--token-ids",
    )
    command = (model, "--input", str(source), "--output", str(output), *settings)
    out, err = run(*command, code=3)
    assert out == ""
    assert err.startswith("3 rows, 1 of them errors; ")
    got = [json.loads(line) for line in output.read_text().splitlines()]
    wanted = generate(load(model, "numpy"), ["a", "abc"], max_new_tokens=5, seed=4, stop="b", top_k=4)
    assert got[0] == {
        "id": "x",
        "prompt": "a",
        "text": wanted[0].text,
        "finish_reason": wanted[0].finish_reason,
        "tokens": len(wanted[0].tokens),
        "token_ids": list(wanted[0].tokens),
    }
    assert got[1]["token_ids"] == list(wanted[1].tokens[:3])
    assert (got[2]["id"], got[2]["line"]) == (2, 3)
    assert "exists; --overwrite begins anew" in run(*command, code=2)[1]
    assert "is complete: 3 rows" in run(*command, "--resume", code=3)[1]
    figures = json.loads(run(*command, "--overwrite", "--json", code=3)[0])
    assert (figures["rows"], figures["errors"], figures["engine"]) == (3, 1, "numpy")
    assert figures["tokens"] == sum(record.get("tokens", 0) for record in got)
    assert "line 3: the vocabulary has no character 'z'" in run(*command, "--overwrite", "--strict", code=2)[1]


def test_standard_input_to_standard_output(run: Run, model: str) -> None:
    out, err = run(
        model, "--engine", "numpy", "--input", "-", "--format", "txt", "--shard", "1/2", stdin="a\nb\nc\nd\n"
    )
    wanted = generate(load(model, "numpy"), list("abcd"))
    assert [json.loads(line)["text"] for line in out.splitlines()] == [wanted[1].text, wanted[3].text]
    assert err.startswith("2 rows; 400 tokens")


def test_tables_of_every_kind(run: Run, model: str, tmp_path: Path) -> None:
    source = tmp_path / "in.csv"
    source.write_text('"a"|\n\nb|\n')
    table = ("--engine", "numpy", "--input", str(source), "--max-new-tokens", "2")
    assert "without a header there can be one" in run(model, *table, "--delimiter", "|", "--no-header", code=2)[1]
    source.write_text('"a"\n\nb\n\n')
    out, err = run(model, *table, "--no-header")
    assert [json.loads(line)["prompt"] for line in out.splitlines()] == ["a", "b"]
    assert err.rstrip().endswith("; blank lines, which are no rows: 2")
    (tmp_path / "in.tsv").write_text('prompt\n"a"\n')
    command = (model, "--engine", "numpy", "--input", str(tmp_path / "in.tsv"))
    out, err = run(*command, "--max-prompt-tokens", "2", code=3)  # two quotes and a letter
    assert err.rstrip().endswith("; 1 in quotes, which are kept (--quoting csv takes them off)")
    assert "in quotes" not in run(*command, "--quoting", "csv")[1]
    assert '"prompt": "ab"' in run(*command[:-1], "-", "--delimiter", "tab", stdin="prompt\nab\n")[0]
    source.write_text("prompt;seed\nab;1\n")
    assert json.loads(run(model, *table)[0])["prompt"] == "ab"
    assert "delimiter: got ':', choose one of , ; | tab" in run(model, *table, "--delimiter", ":", code=2)[1]
    assert "quoting: got 'all', choose one of csv, none" in run(model, *table, "--quoting", "all", code=2)[1]
    source.write_text("prompt,label\nab,x\n")
    assert "'label': take these columns out of the file, or carry them to the results (--keep-columns)" in (
        run(model, *table, code=2)[1].replace("\n", " ")
    )
    assert json.loads(run(model, *table, "--keep-columns")[0])["label"] == "x"
    assert "--keep-columns: only with --input" in run(model, "-p", "a", "--keep-columns", code=2)[1]
    assert "--header: only with --input" in run(model, "-p", "a", "--no-header", code=2)[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--input", "x.jsonl", "--prompt", "a"), "prompt, input: got both"),
        (("--output", "x"), "error: --output: only with --input"),
        (
            ("--lanes", "8", "-p", "a", "--max-prompt-tokens", "5"),
            "error: --lanes, --max-prompt-tokens: only with --input",
        ),
        (("--resume", "--strict"), "--strict, --resume: only with --input"),
        (("--prompt", "a", "--logprobs"), "logprobs: they go with --json or --input"),
        (("--input", "x.jsonl", "--num-beams", "3"), "beams go with --prompt"),
        (("--input", "x.jsonl"), "x.jsonl: cannot be read (no such file"),
        (("--input", "x.jsonl", "--shard", "2/2"), "shard: got 2, needs a whole number from 0 to 1"),
        (("--input", "x.jsonl", "--shard", "2"), "shard: got '2', needs I/N"),
        (("--input", "x.jsonl", "--lanes", "0"), "lanes: got 0"),
        (("--input", "x.jsonl", "--format", "xml"), "format: got 'xml'"),
        (("--input", "x.jsonl", "--json"), "standard output is for the results"),
        (("--input", "x.jsonl", "--resume", "--overwrite", "-o", "y"), "say one of them"),
        (("--input", "-", "--resume"), "cannot be resumed"),
    ],
)
def test_bad_usage_is_one_line_and_exit_code_2(run: Run, model: str, arguments: tuple[str, ...], message: str) -> None:
    out, err = run(model, "--engine", "numpy", *arguments, code=2)
    assert (out, err.count("\n")) == ("", 1)
    assert message in err


@pytest.mark.skipif(sys.platform == "win32", reason="signals are sent otherwise there")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_job_with_130_and_whole_lines(model: str, tmp_path: Path, number: signal.Signals) -> None:
    source, output = tmp_path / "in.txt", tmp_path / "out.jsonl"
    source.write_text("abc\n" * 20_000)
    settings = ("--engine", "numpy", "--lanes", "4", "--max-new-tokens", "20")
    command = [sys.executable, "-m", "unrolled.cli", "generate", model, "-i", str(source), "-o", str(output), *settings]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    while not output.exists() or output.stat().st_size < 1000:
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.splitlines()[-1].startswith("interrupted; ")
    lines = output.read_bytes().splitlines(keepends=True)
    assert all(line.endswith(b"\n") and json.loads(line)["prompt"] == "abc" for line in lines)
    assert f"interrupted; {len(lines):,} rows" in err
    assert Path(f"{output}.job").exists()


def test_figures_in_words() -> None:
    progress = Progress(rows=1500, errors=2, kept=500, texts=998, tokens=40_000, seconds=20.0, total=11_500)
    assert progress_line(progress) == "1,500 of 11,500 rows  2,000 tokens/s  3:20 left  2 errors"
    assert progress_line(Progress(rows=10, tokens=50, seconds=1.0)) == "10 rows  50 tokens/s"
    assert progress_line(Progress(rows=12, seconds=1.0, total=10)).startswith("12 of 12 rows")
    assert (
        job_summary(progress, "o")
        == "1,500 rows, 500 of them before, 2 of them errors; 40,000 tokens in 0:20, 2,000 tokens/s"
    )
    interrupted = Progress(rows=1, tokens=1, seconds=1.0, interrupted=True)
    assert job_summary(interrupted, "o") == "interrupted; 1 rows; 1 tokens in 0:01, 1 tokens/s; --resume goes on"
    assert "--resume" not in job_summary(interrupted, "-")
    assert job_summary(Progress(rows=7, complete=True), "o") == "o is complete: 7 rows; --overwrite writes it anew"


@pytest.mark.parametrize("terminal", [True, False])
def test_progress_is_a_live_line_in_a_terminal_and_plain_lines_elsewhere(
    terminal: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("unrolled.cli.terminal.job_display.PLAIN_S", 0.0)
    shown = io.StringIO()
    with JobDisplay(Console(file=shown, force_terminal=terminal, width=100)) as display:
        display(Progress(rows=3, tokens=10, seconds=2.0, total=9))
    assert "3 of 9 rows  5 tokens/s  0:04 left" in shown.getvalue()
    assert ("\x1b[" in shown.getvalue()) == terminal


def test_shards() -> None:
    assert parse_shard("1/4") == (1, 4)
    for text in ("1", "a/b", "-1/4", "1/4/2", ""):
        with pytest.raises(ConfigError, match="shard"):
            parse_shard(text)
