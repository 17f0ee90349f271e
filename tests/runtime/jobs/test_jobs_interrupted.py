"""Tests of jobs that end early: full disks, kills, signals and pipes leave whole lines."""

from __future__ import annotations

import io
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import models
import pytest
from job_runs import CONFIG, LANES, done, is_complete, mixed, prompts, records, write_input

from unrolled.engine.errors import JobError
from unrolled.engine.models.step_contract import StepModel
from unrolled.engine.signals import DeferredInterrupt
from unrolled.engine.storage.checkpoint import save_checkpoint
from unrolled.runtime import GenerationConfig, load
from unrolled.runtime.jobs import job_writer
from unrolled.runtime.jobs.result_streams import ResultStream
from unrolled.runtime.jobs.runner import Job, Progress, run_job


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_device_that_is_full_is_an_error(model: StepModel, tmp_path: Path) -> None:
    with pytest.raises(JobError, match="No space left"):
        run_job(model, Job(write_input(tmp_path, prompts(3)), "/dev/full"), CONFIG)


WORK = """
import sys
from unrolled.runtime import GenerationConfig, load
from unrolled.runtime.jobs.runner import Job, run_job
source, output, model, limit, engine = sys.argv[1:6]
if int(limit):
    import resource
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), int(limit)))
try:
    config = GenerationConfig(max_new_tokens=6, stop="b", seed=5)
    run_job(load(model, engine), Job(source, output, lanes=2 if engine == "numpy" else 16, resume=True), config)
except Exception as error:
    sys.exit(f"{type(error).__name__}: {error}")
"""


@pytest.fixture(scope="module")
def model_file(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    save_checkpoint(path, models.checkpoint("gru", 1, hidden_size=12))
    return str(path)


def start(source: str, output: Path, model_file: str, limit: int = 0, engine: str = "numpy") -> subprocess.Popen[str]:
    arguments = [sys.executable, "-c", WORK, source, str(output), model_file, str(limit), engine]
    return subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})


def test_a_full_disk_leaves_whole_lines_to_go_on_with(model: StepModel, model_file: str, tmp_path: Path) -> None:
    pytest.importorskip("resource", reason="this system has no limits of files")
    rows = mixed(100)
    whole = done(model, tmp_path, rows).read_bytes()
    output = tmp_path / "part.jsonl"
    process = start(write_input(tmp_path, rows), output, model_file, limit=len(whole) // 2)
    message = process.communicate(timeout=60)[1]
    assert process.returncode == 1
    assert "JobError" in message
    assert "whole lines are kept" in message
    kept = output.read_bytes()
    assert whole.startswith(kept)
    assert kept.endswith(b"\n")
    assert len(whole) // 2 - 200 < len(kept) <= len(whole) // 2
    process = start(str(tmp_path / "in.jsonl"), output, model_file)
    assert (process.communicate(timeout=60)[1], process.returncode) == ("", 0)
    assert output.read_bytes() == whole


def kill_often(model: StepModel, model_file: str, folder: Path, rows: int, kills: int, seed: int) -> int:
    """Kill a job repeatedly, each time after its file has grown by a random part; return the number of kills."""
    whole = done(model, folder, mixed(rows)).read_bytes()
    output, rng, done_kills = folder / "part.jsonl", random.Random(seed), 0
    while True:
        process = start(str(folder / "in.jsonl"), output, model_file)
        reached = output.stat().st_size if output.exists() else 0
        target = reached + rng.randrange(2 * len(whole) // kills) if done_kills < kills else len(whole) + 1
        while process.poll() is None and not (output.exists() and output.stat().st_size >= target):
            time.sleep(0.0005)
        if process.poll() is None:
            time.sleep(rng.random() * 0.01)
            process.kill()
            done_kills += 1
        message = process.communicate(timeout=60)[1]
        if process.returncode == 0:
            break
        assert process.returncode == -signal.SIGKILL, message
        assert whole.startswith(output.read_bytes() if output.exists() else b"")
    assert output.read_bytes() == whole
    assert is_complete(output)
    return done_kills


def test_a_job_that_is_killed_goes_on_to_the_same_file(model: StepModel, model_file: str, tmp_path: Path) -> None:
    assert kill_often(model, model_file, tmp_path, 250, 3, seed=6) >= 1


@pytest.mark.parametrize("engine", ["numba", "onnxruntime"])
def test_a_killed_job_goes_on_with_other_engines(engine: str, model_file: str, tmp_path: Path) -> None:
    """Run 16 lanes, which numba fills by itself; some rows have settings that need single steps."""
    rows = mixed(1500)
    for row in rows[5::9]:
        if isinstance(row, dict):
            row["repetition_penalty"] = 1.3
    source, output = write_input(tmp_path, rows), tmp_path / "part.jsonl"
    model, whole = load(model_file, engine), tmp_path / "whole.jsonl"
    config = GenerationConfig(max_new_tokens=6, stop=("b",), seed=5)
    run_job(model, Job(source, str(whole), lanes=16), config)
    process = start(source, output, model_file, engine=engine)
    while process.poll() is None and not (output.exists() and output.stat().st_size > whole.stat().st_size // 2):
        time.sleep(0.0005)
    process.kill()
    message = process.communicate(timeout=60)[1]
    assert process.returncode == -signal.SIGKILL, message
    kept = output.read_bytes()
    assert whole.read_bytes().startswith(kept)
    assert 0 < len(kept) < whole.stat().st_size
    lines = kept.count(b"\n")
    assert lines - 16 <= run_job(model, Job(source, str(output), lanes=16, resume=True), config).kept <= lines
    assert output.read_bytes() == whole.read_bytes()


@pytest.mark.slow
def test_many_kills_give_the_same_file(model: StepModel, model_file: str, kills: int, tmp_path: Path) -> None:
    killed, attempt = 0, 0
    while killed < kills:
        folder = tmp_path / str(attempt)
        folder.mkdir()
        some = min(kills, 25)
        killed += kill_often(model, model_file, folder, 240 * some, some, seed=attempt)
        attempt += 1
    assert attempt < 10


@pytest.mark.skipif(sys.platform == "win32", reason="signals end a process at once there")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_with_whole_lines_and_what_is_done(
    model: StepModel, tmp_path: Path, number: signal.Signals
) -> None:
    before = signal.getsignal(number)
    output = tmp_path / "out.jsonl"

    def send(progress: Progress) -> None:
        if progress.rows == 30 and not progress.interrupted:
            os.kill(os.getpid(), number)

    progress = run_job(model, Job(write_input(tmp_path, prompts(90)), str(output), lanes=LANES), CONFIG, send)
    assert progress.interrupted
    assert len(records(output)) == progress.rows == 30
    assert Path(f"{output}.job").exists()
    assert signal.getsignal(number) is before


@pytest.mark.skipif(sys.platform == "win32", reason="signals end a process at once there")
def test_a_signal_inside_a_write_waits_for_its_end() -> None:
    order: list[str] = []

    def write() -> None:
        with DeferredInterrupt() as interrupt, interrupt.deferred():
            os.kill(os.getpid(), signal.SIGTERM)
            order.append("written")

    with pytest.raises(KeyboardInterrupt):
        write()
    assert order == ["written"]


@pytest.mark.skipif(sys.platform == "win32", reason="signals end a process at once there")
def test_one_wait_inside_another_ends_with_the_outer_one() -> None:
    order: list[str] = []

    def write() -> None:
        with DeferredInterrupt() as interrupt, interrupt.deferred():
            with interrupt.deferred():
                os.kill(os.getpid(), signal.SIGTERM)
                order.append("written")
            order.append("counted")

    with pytest.raises(KeyboardInterrupt):
        write()
    assert order == ["written", "counted"]


@pytest.mark.skipif(sys.platform == "win32", reason="signals end a process at once there")
@pytest.mark.parametrize("bad", [False, True])
def test_a_row_that_was_written_when_the_signal_came_is_counted(
    bad: bool, model: StepModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows: list[Any] = prompts(90)
    rows[30:40] = ["{"] * 10 if bad else rows[30:40]
    output, write, written = tmp_path / "out.jsonl", job_writer.JobWriter._write_line, 0

    def watched(run: Any, record: Any) -> None:
        nonlocal written
        write(run, record)
        written += 1
        if written == 35:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(job_writer.JobWriter, "_write_line", watched)
    progress = run_job(model, Job(write_input(tmp_path, rows), str(output), lanes=LANES), CONFIG)
    assert progress.interrupted
    assert len(records(output)) == progress.rows == 35
    assert progress.errors == (5 if bad else 0)


def test_memory_and_open_rows_do_not_grow_with_bad_rows(
    model: StepModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    longest = 0
    write = job_writer.JobWriter._write_errors

    def watched(run: Any) -> None:
        nonlocal longest
        longest = max(longest, len(run.waiting))
        write(run)

    monkeypatch.setattr(job_writer.JobWriter, "_write_errors", watched)
    rows: list[Any] = ["{"] * 3000
    rows.insert(100, {"prompt": "a"})
    assert sum("error" in record for record in records(done(model, tmp_path, rows))) == 3000
    assert 1 < longest <= 64


MEMORY = """
import resource, sys
from unrolled.runtime import GenerationConfig, load
from unrolled.runtime.jobs.runner import Job, run_job
model, config = load(sys.argv[1], "numpy"), GenerationConfig(max_new_tokens=3)
peaks = []
for source in sys.argv[2:]:
    run_job(model, Job(source, source + ".out"), config)
    peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
print((peaks[1] - peaks[0]) / 1024)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="peaks are counted in other units elsewhere")
def test_resident_memory_is_flat_over_a_hundred_thousand_rows(model_file: str, tmp_path: Path) -> None:
    few, many = (write_input(tmp_path, prompts(1000) * times, f"{times}.jsonl") for times in (1, 100))
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, model_file, few, many], capture_output=True, text=True, check=True
    )
    assert float(done.stdout) < 10  # MB; 1 was seen
    assert Path(f"{many}.out").read_bytes().count(b"\n") == 100_000


class Narrow(io.RawIOBase):
    """Take three bytes at a time, as a pipe that is nearly full does."""

    def __init__(self) -> None:
        self.taken = b""

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self.taken += bytes(data[:3])
        return min(3, len(data))


def test_a_line_goes_whole_into_a_pipe_that_takes_a_part_at_a_time() -> None:
    pipe: Any = Narrow()
    ResultStream(pipe, "pipe").write(b"a whole line\n")
    assert pipe.taken == b"a whole line\n"
