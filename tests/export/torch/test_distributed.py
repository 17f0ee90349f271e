"""Several processes train as one process does on the joint batch, stop together, and write one run folder."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import models
import numpy as np
import pytest
from tolerances import assert_close

from unrolled.engine.data.corpus import Corpus
from unrolled.engine.errors import ConfigError, MissingDependencyError
from unrolled.engine.process_group import SINGLE_PROCESS
from unrolled.engine.runs.experiment import prepare_run
from unrolled.engine.runs.metrics_log import read_metrics
from unrolled.engine.storage.checkpoint import load_checkpoint
from unrolled.export.training_engines import make_trainable, training_group

torch_distributed = pytest.importorskip("torch.distributed", reason="the torch extra is not installed")
if not (torch_distributed.is_available() and torch_distributed.is_gloo_available()):
    pytest.skip("this torch has no gloo", allow_module_level=True)

import ranks  # noqa: E402 - needs torch

SUPPORT = Path(__file__).parents[2] / "support"


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder to which two processes wrote their findings."""
    folder = tmp_path_factory.mktemp("ranks")
    common = {**os.environ, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    common |= {"OMP_NUM_THREADS": "1"}
    started = [
        subprocess.Popen(
            [sys.executable, str(SUPPORT / "ranks.py"), str(folder)],
            env={**common, "RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        printed = [process.communicate(timeout=120)[0] for process in started]
    finally:
        for process in started:
            process.kill()
    assert [process.returncode for process in started] == [0, 0], "\n".join(printed)
    return folder


def found(folder: Path, rank: int) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((folder / f"found-{rank}.json").read_text())
    return values


def curves(folder: Path, case: str, rank: int = 0) -> dict[str, Any]:
    with np.load(folder / f"curves-{rank}.npz") as file:
        return {name.removeprefix(f"{case}/"): file[name] for name in file.files if name.startswith(f"{case}/")}


@pytest.mark.parametrize("case", ranks.CASES)
def test_two_processes_train_as_one_with_the_joint_batch(case: str, pair: Path) -> None:
    expected = ranks.curve(case)
    for rank in range(2):
        got = curves(pair, case, rank)
        assert set(got) == set(expected)
        assert len(got["losses"]) == ranks.STEPS
        for name, value in expected.items():
            assert_close(got[name], np.asarray(value), "engine", what=f"{name} of process {rank}")
    for name, value in curves(pair, case, 0).items():
        np.testing.assert_array_equal(curves(pair, case, 1)[name], value, err_msg=name)


def test_alarm_processes_that_count_alike_whatever_their_tokens_go_another_way(pair: Path) -> None:
    got, expected = curves(pair, "wrong"), ranks.curve("records")
    assert_close(got["losses"][0], expected["losses"][0], "engine")  # the first loss is before any update
    with pytest.raises(AssertionError):
        assert_close(got["losses"], np.asarray(expected["losses"]), "curve")


def test_rows_of_a_batch_are_taken_from_arrays_of_any_axes() -> None:
    from unrolled.export.torch.distributed import _batch_rows

    spec = models.spec("gru", "static+tokens+values", 1, True)
    batch = models.spec_batch(spec, 5, 4, lengths=models.ragged(5, 4))
    rows = slice(1, 3)
    part = _batch_rows(spec, batch, rows)
    for name, array in part.inputs.items():
        np.testing.assert_array_equal(
            array, batch.inputs[name][rows] if name == "static" else batch.inputs[name][:, rows]
        )
    assert batch.lengths is not None
    np.testing.assert_array_equal(part.lengths, batch.lengths[rows])
    np.testing.assert_array_equal(part.targets, batch.targets[:, rows])
    np.testing.assert_array_equal(part.weights, batch.weights[:, rows])
    # A head that predicts two values a sequence, with a weight for each sequence.
    pooled: Any = SimpleNamespace(inputs=spec.inputs, head=SimpleNamespace(target_axes=("batch", 2)))
    values = batch._replace(targets=np.arange(8.0).reshape(4, 2), weights=np.arange(4.0))
    part = _batch_rows(pooled, values, rows)
    np.testing.assert_array_equal(part.targets, [[2, 3], [4, 5]])
    np.testing.assert_array_equal(part.weights, [1, 2])


def test_all_processes_stop_at_one_step(pair: Path) -> None:
    first, second = found(pair, 0), found(pair, 1)
    for name in (
        "ctrl_c",
        "sigterm",
    ):  # sent to the second process alone after its third step; they agree on it in the next
        assert first[name] == second[name] == [4, True]
    assert first["saving"] == second["saving"] == [5, True]
    assert 0 < first["seconds"] == second["seconds"] < 30  # the maximum of both clocks
    assert "loss" in first["diverged"]
    assert first["diverged"] == second["diverged"]


def test_a_run_of_several_processes_goes_on_with_any_number(pair: Path) -> None:
    whole, stopped = (load_checkpoint(pair / name / "last.safetensors") for name in ("whole", "stopped"))
    assert stopped.digest == whole.digest
    run = prepare_run(Corpus("fox", ranks.TEXT), ranks.RESUMED, lambda *args: make_trainable("torch", *args))
    assert run.run(pair / "half", resume=True).steps == ranks.STEPS
    alone = load_checkpoint(pair / "half" / "last.safetensors")
    for name, value in whole.params.items():
        assert_close(alone.params[name], value, "curve", np.float32, name)
    steps = [line["step"] for line in read_metrics(pair / "stopped", "step")]
    assert steps == list(range(1, ranks.STEPS + 1))


def test_what_stops_one_process_stops_all(pair: Path) -> None:
    for rank in range(2):
        other, taken = found(pair, rank)["errors"]
        assert "differ in corpus" in other
        assert "holds a run already" in taken
    assert not (pair / "other").exists()
    assert "has ended or does not answer" in found(pair, 1)["lost"]


def test_a_group_ends_with_its_block(pair: Path) -> None:
    assert [found(pair, rank)["ended"] for rank in range(2)] == [True, True]


def test_each_process_warms_up_with_its_rows_and_asks_the_others_once_a_step(pair: Path) -> None:
    assert [found(pair, rank)["rows"] for rank in range(2)] == [[2], [3]]
    for rank in range(2):
        assert found(pair, rank)["asked"] == 1 + 10 + 1  # before the first step, after each, after the last interval


def test_an_environment_that_leads_nowhere_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "none"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match="do not find each other"), training_group("torch"):
        pass


def test_a_torch_without_gloo_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "127.0.0.1"}.items():
        monkeypatch.setenv(name, value)
    for missing in ("is_gloo_available", "is_available"):
        monkeypatch.setattr(torch_distributed, missing, lambda: False)
        with pytest.raises(MissingDependencyError, match=r"need torch\.distributed with gloo"), training_group("torch"):
            pass


@pytest.mark.parametrize("engine", ["numba", "numpy"])
def test_other_engines_say_that_they_train_in_one_process(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with training_group(engine) as group:
        assert group is SINGLE_PROCESS
    for name, value in {"WORLD_SIZE": "2", "RANK": "1", "MASTER_ADDR": "127.0.0.1"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=f"engine: {engine} trains in one process"), training_group(engine):
        pass
    monkeypatch.setenv("WORLD_SIZE", "1")
    with training_group(engine) as group:
        assert group is SINGLE_PROCESS


def torchrun(folder: Path, *options: str) -> subprocess.Popen[str]:
    text = folder / "fox.txt"
    text.write_text(ranks.TEXT, encoding="utf-8")
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "unrolled.cli.main"]
    sizes = ["--hidden", "8", "--embed", "4", "--batch", "5", "--length", "13", "--no-samples", "--split", "0.8,0.2,0"]
    return subprocess.Popen(
        [sys.executable, *launcher, "train", str(text), *sizes, "-o", str(folder / "run"), *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


@pytest.mark.slow
def test_torchrun_is_stopped_and_goes_on(tmp_path: Path) -> None:
    last = tmp_path / "run" / "last.safetensors"
    # A schedule that depends on the limit would not allow another one.
    settings = ["--engine", "torch", "--schedule", "constant"]
    running = torchrun(tmp_path, *settings, "--steps", "1000000", "--validate-every", "10")
    for _ in range(600):
        if last.exists():
            break
        time.sleep(0.1)
    running.terminate()
    printed, _ = running.communicate(timeout=60)
    assert "interrupted after" in printed, printed
    assert printed.count("validation loss") >= 2  # printed by one process
    steps = load_checkpoint(last).training["result"]["steps"]
    again = torchrun(tmp_path, *settings, "--steps", str(steps + 20), "--validate-every", "10", "--resume")
    printed, _ = again.communicate(timeout=60)
    assert again.returncode == 0, printed
    assert f"trained for {steps + 20:,} steps" in printed
    assert [line["step"] for line in read_metrics(tmp_path / "run", "step")] == list(range(1, steps + 21))


@pytest.mark.slow
def test_torchrun_with_an_engine_of_one_process(tmp_path: Path) -> None:
    running = torchrun(tmp_path, "--engine", "numpy", "--steps", "3")
    printed, _ = running.communicate(timeout=60)
    assert running.returncode != 0
    assert "engine: numpy trains in one process" in printed
    assert not (tmp_path / "run").exists()
