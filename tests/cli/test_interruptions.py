"""Tests of Ctrl-C and SIGTERM at named points of every verb: one line, exit code 130, no partial files.

The process under test sends the signal to itself where Python announces an import or the opening of a file to audit hooks,
so nothing depends on time.
"""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import models
import pytest

from unrolled.cli.verbs.demo import _train
from unrolled.engine.runs.metrics_log import METRICS
from unrolled.engine.signals import Interruption
from unrolled.engine.storage.checkpoint import BEST_CHECKPOINT, LAST_CHECKPOINT, save_checkpoint

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")

# sitecustomize.py: Python runs it before the program in every process that has its folder on the path
HOOK = """
import atexit, os, re, signal, sys

POINT, NUMBERS, LEFT = re.compile(os.environ["POINT"]), os.environ["NUMBERS"].split(","), [1]


def send():
    for number in NUMBERS:
        os.kill(os.getpid(), int(number))


def hook(event, arguments):
    if LEFT[0] and event in ("import", "open") and POINT.search(f"{event} {arguments[0]}"):
        LEFT[0] = 0
        send()


class Destroyed:
    def __del__(self):
        send()


def at_end():
    if LEFT[0] and POINT.search("the end"):
        send()


if "unrolled" in " ".join(sys.orig_argv):
    sys.addaudithook(hook)
    atexit.register(at_end)
    if POINT.search("a destructor"):
        def hook(event, arguments):
            pass

        def destroy(event, arguments):
            if LEFT[0] and event == "open" and "fox.txt" in str(arguments[0]):
                LEFT[0] = 0
                Destroyed()

        sys.addaudithook(destroy)
"""
TEXT = "the quick brown fox jumps over the lazy dog; pack my box with five dozen jugs.\n" * 12
TRAIN = ("train", "fox.txt", "--engine", "numpy", "--hidden", "5", "--embed", "4", "--batch", "4", "--length", "8")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "hook").mkdir()
    (tmp_path / "hook" / "sitecustomize.py").write_text(HOOK)
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "fox.txt").write_text(TEXT)
    save_checkpoint(tmp_path / "work" / "model.safetensors", models.checkpoint("gru", 1))
    return tmp_path


def run(
    folder: Path, point: str, *command: str, signals: tuple[int, ...] = (signal.SIGINT,)
) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join(filter(None, (str(folder / "hook"), os.environ.get("PYTHONPATH", ""))))
    numbers = ",".join(str(int(number)) for number in signals)
    return subprocess.run(
        [sys.executable, *command],
        cwd=folder / "work",
        env={**os.environ, "PYTHONPATH": path, "POINT": point, "NUMBERS": numbers, "COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def check_interrupted(done: subprocess.CompletedProcess[str]) -> None:
    assert done.returncode == 130, (done.returncode, done.stdout, done.stderr)
    assert "Traceback" not in done.stderr + done.stdout
    assert "Exception ignored" not in done.stderr
    assert done.stderr.count("interrupted") == 1, done.stderr
    assert done.stderr.splitlines()[-1] == "interrupted"


MODULE = ("-m", "unrolled.cli.main")
SCRIPT = ("-c", "import sys; sys.argv[0] = 'unrolled'; from unrolled.cli.main import main; sys.exit(main())")


@pytest.mark.parametrize(
    ("point", "number"),
    [
        (r"import typer$", signal.SIGINT),
        (r"import typer$", signal.SIGTERM),
        (r"import numpy", signal.SIGINT),
        (r"import unrolled\.cli\.verbs\.train$", signal.SIGTERM),
        (r"open .*fox\.txt$", signal.SIGINT),
        (r"open .*fox\.txt$", signal.SIGTERM),
        (r"import numba$", signal.SIGINT),
        (r"import unrolled\.engine\.kernels", signal.SIGTERM),
        (r"open .*metrics\.jsonl", signal.SIGINT),
    ],
)
def test_a_training_is_interrupted_in_its_first_moments(folder: Path, point: str, number: int) -> None:
    engine = ("--engine", "numba" if "numba" in point or "kernels" in point else "numpy")
    done = run(folder, point, *MODULE, *TRAIN, "--epochs", "1", "-o", "run", *engine, signals=(number,))
    check_interrupted(done)
    assert not [path for path in (folder / "work").rglob("*") if path.name.endswith(".tmp")]


@pytest.mark.parametrize("command", [SCRIPT, ("-m", "unrolled.cli")])
def test_every_way_to_start_the_command_answers(folder: Path, command: tuple[str, ...]) -> None:
    check_interrupted(run(folder, r"import numpy", *command, "info", "--system"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_after_the_training_keeps_the_run(folder: Path, number: int) -> None:
    pytest.importorskip("matplotlib", reason="the plot extra is not installed")
    done = run(folder, r"import matplotlib", *MODULE, *TRAIN, "--epochs", "1", "-o", "run", signals=(number,))
    check_interrupted(done)
    written = {path.name for path in (folder / "work" / "run").iterdir()}
    assert written == {"best.safetensors", "last.safetensors", "resume.safetensors", "metrics.jsonl"}


def test_two_signals_at_once_are_one_interruption(folder: Path) -> None:
    both = (signal.SIGINT, signal.SIGTERM)
    check_interrupted(run(folder, r"open .*fox\.txt$", *MODULE, *TRAIN, "-o", "run", signals=both))
    check_interrupted(run(folder, r"import numpy", *MODULE, *TRAIN, "-o", "run", signals=both))


def test_without_a_standard_error_the_process_leaves_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def closed(*arguments: object) -> int:
        raise OSError(errno.EBADF, "bad file descriptor")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", closed)
        patch.setattr(os, "_exit", sys.exit)
        with pytest.raises(SystemExit) as ended:
            Interruption()(signal.SIGINT, None)
    assert ended.value.code == 130


def test_a_demo_ends_its_training_even_if_it_is_interrupted_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    class Training:
        def __init__(self, command: list[str]) -> None:
            self.interruptions = 2

        def wait(self, seconds: float | None = None) -> int:
            calls.append("wait")
            if self.interruptions > 0:
                self.interruptions -= 1
                raise KeyboardInterrupt
            return 130

        def terminate(self) -> None:
            calls.append("terminate")

    monkeypatch.setattr(subprocess, "Popen", Training)
    with pytest.raises(KeyboardInterrupt):
        _train("numpy", Path("run"), 1.0, overwrite=False)
    assert calls == ["wait", "wait", "terminate", "wait"]


def test_a_dropped_interruption_ends_the_command(folder: Path) -> None:
    check_interrupted(run(folder, "a destructor", *MODULE, *TRAIN, "-o", "run"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_when_all_is_done_changes_nothing(folder: Path, number: int) -> None:
    done = run(folder, "the end", *MODULE, "info", "model.safetensors", signals=(number,))
    assert (done.returncode, done.stderr) == (0, "")


def test_a_library_that_makes_another_error_of_it_is_no_bad_input(folder: Path) -> None:
    (folder / "hook" / "optuna").mkdir()
    converting = "try:\n    import colorsys\nexcept BaseException as error:\n    raise ImportError('no') from error\n"
    (folder / "hook" / "optuna" / "__init__.py").write_text(converting)
    check_interrupted(run(folder, r"import colorsys", *MODULE, "tune", "fox.txt", "--steps", "5", "-o", "study"))


def test_ignored_signals_stay_ignored(folder: Path) -> None:
    ignoring = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
    hook = folder / "hook" / "sitecustomize.py"
    hook.write_text(ignoring + hook.read_text())
    done = run(folder, r"open .*model\.safetensors", *MODULE, "info", "model.safetensors")
    assert (done.returncode, done.stderr) == (0, "")


VERBS = {
    "tune": (r"open .*fox\.txt$", ("tune", "fox.txt", "--steps", "5", "-o", "new")),
    "lr-find": (r"open .*fox\.txt$", ("lr-find", "fox.txt", "-o", "new")),
    "encode": (r"open .*fox\.txt$", ("encode", "fox.txt", "-o", "new.tokens")),
    "eval": (r"open .*fox\.txt$", ("eval", "model.safetensors", "fox.txt")),
    "generate": (r"import unrolled\.runtime\.models\.engines$", ("generate", "model.safetensors", "--engine", "numpy")),
    "score": (r"open .*fox\.txt$", ("score", "model.safetensors", "fox.txt")),
    "import": (r"open .*model\.safetensors", ("import", "model.safetensors", "-o", "new")),
    "export": (r"open .*new\.onnx", ("export", "model.safetensors", "-o", "new.onnx")),
    "verify": (r"import unrolled\.runtime\.models\.engines$", ("verify", "model.safetensors")),
    "compare": (r"import _?posixsubprocess|subprocess", ("compare", "model.safetensors")),
    "report": (r"open .*metrics\.jsonl", ("report", "run", "-o", "new.html")),
    "info": (r"open .*/cpuinfo$", ("info", "--system")),
    "bench": (r"open .*lines\.jsonl", ("bench", "report", "lines.jsonl")),
}


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_is_interrupted_with_one_line_and_leaves_nothing(folder: Path, verb: str) -> None:
    point, arguments = VERBS[verb]
    if verb == "tune" and find_spec("optuna") is None:
        pytest.skip("the tune extra is not installed")
    work = folder / "work"
    before = {"fox.txt", "model.safetensors"}
    if verb == "report":
        (work / "run").mkdir()
        for name in (BEST_CHECKPOINT, LAST_CHECKPOINT):
            (work / "run" / name).write_bytes((work / "model.safetensors").read_bytes())
        (work / "run" / METRICS).write_text("")
        before.add("run")
    check_interrupted(run(folder, point, *MODULE, *arguments))
    assert {path.name for path in work.iterdir()} == before
