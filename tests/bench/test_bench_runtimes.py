"""Tests of ``unrolled bench runtimes``: findings, differences, and runtimes that are missing or die."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from unrolled.bench.runtimes import cases, tables
from unrolled.bench.runtimes.cases import expected_of, model_of
from unrolled.bench.runtimes.findings import Finding, compared, findings
from unrolled.bench.runtimes.registry import HOSTS, RUNTIMES, Runtime, select_runtimes
from unrolled.bench.runtimes.runtime_process import RuntimeProcess
from unrolled.bench.runtimes.tables import errors_of, table_of
from unrolled.cli.app import app
from unrolled.engine.errors import ConfigError, UnrolledError
from unrolled.engine.processes import worker
from unrolled.export.artifact.forms import FORMS

ONNXRUNTIME, REFERENCE = (next(one for one in RUNTIMES if one.module == name) for name in ("onnxruntime", "onnx"))


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cases, "GENERATED_STEPS", 7)
    stored = {name: cases.STORED[name] for name in ("int8", "quantized")}
    for module in (cases, tables):
        monkeypatch.setattr(module, "STORED", stored)


@pytest.mark.parametrize("runtime", [ONNXRUNTIME, REFERENCE], ids=["onnxruntime", "reference"])
def test_standard_files_compute_and_write_what_the_numpy_engine_does(tmp_path: Path, runtime: Runtime) -> None:
    found = list(findings(tmp_path, sys.executable, HOSTS, [runtime], ["rnn_relu"]))
    assert [(one.form, one.storage) for one in found] == [(f, s) for f in FORMS for s in cases.STORED]
    for one in found:
        if one.storage == "quantized":  # operators of onnxruntime's own domain, which round in int8
            assert (one.error is None) is (runtime is ONNXRUNTIME)
            continue
        assert one.error is None, one.error
        assert one.version
        assert (one.logits is None) is (one.form == "generate")
        assert one.logits is None or one.logits < 1e-4
        assert one.tokens == (None if one.form == "step" else 1.0)


@pytest.mark.skipif(shutil.which("node") is None, reason="Node is not installed")
@pytest.mark.skipif(
    not (HOSTS / "node" / "node_modules" / "onnxruntime-node").exists(),
    reason="onnxruntime-node is not installed: (cd runtime/hosts/node && ONNXRUNTIME_NODE_INSTALL=skip npm install)",
)
def test_node_computes_and_writes_the_same(tmp_path: Path) -> None:
    (node,) = (one for one in RUNTIMES if one.package == "node")
    for one in findings(tmp_path, sys.executable, HOSTS, [node], ["gru"]):
        assert one.error is None, one.error
        assert one.storage == "quantized" or ((one.logits or 0) < 1e-4 and one.tokens in (None, 1.0))


def test_alarm_a_wrong_logit_token_or_shape_is_noticed() -> None:
    expected = expected_of(model_of("gru"), "both")
    got = [{name: np.nan_to_num(value) for name, value in call.outputs.items()} for call in expected]
    assert compared(got, expected) == {"logits": 0.0, "tokens": 1.0}
    got[1]["logits"][0, 2, 5] += 0.25
    got[2]["written"][-1, 1] += 1
    figures = compared(got, expected)
    assert figures["logits"] == pytest.approx(0.25, abs=1e-5)
    assert figures["tokens"] == 1 - 1 / got[0]["written"].size / len(got)
    got[3]["written"] = got[3]["written"][:-1]
    assert compared(got, expected) == {"error": "written has shape (6, 3), must have (7, 3)"}


def test_alarm_a_number_that_is_not_finite_is_no_small_difference() -> None:
    expected = expected_of(model_of("gru"), "step")
    got = [{name: value.copy() for name, value in call.outputs.items()} for call in expected]
    got[0]["logits"][1, 1, 1] = np.nan
    assert np.isnan(compared(got, expected)["logits"])
    assert "nan" in table_of([Finding("r", "1", "gru", "step", "int8", logits=float("nan"))])[1][2]


def test_a_cell_that_a_runtime_computes_otherwise_is_named() -> None:
    found = [Finding("r", "1", cell, "step", "int8", logits=far) for cell, far in (("gru", 2e-6), ("rnn_relu", 9.0))]
    found += [
        Finding("r", "1", "gru", "generate", "int8", tokens=1.0),
        Finding("r", "1", "rnn", "generate", "int8", tokens=0.5),
    ]
    found += [
        Finding("r", "1", cell, "both", "quantized", error=f"Error: node #{i} x.\nStack backtrace: y")
        for i, cell in enumerate("ab")
    ]
    head, step, generate, both = table_of(found)
    assert head == ["runtime", "form", *cases.STORED]
    assert step == ["r 1", "step", "2e-06, rnn_relu 9e+00", ""]
    assert generate == ["r 1", "generate", "50% equal", ""]
    assert both == ["r 1", "both", "", "fails"]
    assert errors_of(found) == ["r: Error: node #0 x. (a both quantized and 1 more)"]


@pytest.mark.skipif(os.name != "posix", reason="a shell script stands for the interpreter")
def test_a_runtime_that_a_file_kills_continues_with_the_next_file(tmp_path: Path) -> None:
    script = tmp_path / "python"
    script.write_text('#!/bin/sh\necho \'{"version": "1.0"}\'\nread line\nexit 3\n', encoding="utf-8")
    script.chmod(0o755)
    found = list(findings(tmp_path, str(script), HOSTS, [ONNXRUNTIME], ["rnn"]))
    assert len(found) == len(FORMS) * len(cases.STORED)
    assert {one.error for one in found} == {"the process ended with code 3"}


@pytest.mark.skipif(os.name != "posix", reason="a shell script stands for the interpreter")
def test_the_process_of_a_runtime_that_is_not_installed_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[subprocess.Popen[str]] = []

    class Watched(subprocess.Popen):  # type: ignore[type-arg]
        def __init__(self, *arguments: Any, **settings: Any) -> None:
            super().__init__(*arguments, **settings)
            started.append(self)

    monkeypatch.setattr(worker.subprocess, "Popen", Watched)
    script = tmp_path / "python"
    script.write_text('#!/bin/sh\necho \'{"missing": "it is not installed"}\'\nread line\n', encoding="utf-8")
    script.chmod(0o755)
    with pytest.raises(UnrolledError, match="it is not installed"):
        RuntimeProcess(ONNXRUNTIME, [str(script)])
    assert [process.returncode is not None for process in started] == [True]


def test_missing_runtimes_are_skipped_with_a_reason(tmp_path: Path) -> None:
    missing = [Runtime("another", package="another")]
    (one,) = findings(tmp_path, sys.executable, tmp_path, missing, ["rnn"])
    assert one.error is not None
    assert one.error.startswith("skipped: ")
    assert table_of([one])[1] == ["another", "skipped", "", ""]
    assert errors_of([one])[0].startswith("another: skipped: ")
    with pytest.raises(ConfigError, match="there are onnxruntime; onnxruntime-node"):
        select_runtimes("theano")


def test_the_command_prints_the_table_and_keeps_the_findings(tmp_path: Path) -> None:
    log = tmp_path / "found.jsonl"
    done = CliRunner().invoke(app, ["bench", "runtimes", "--only", "reference", "--cells", "gru", "--json", str(log)])
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert lines[0] == "| runtime | form | int8 | quantized |"
    assert [line.split(" | ")[1] for line in lines[2:5]] == list(FORMS)
    assert "DynamicQuantizeMatMul" in lines[5]
    kept = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    assert [(one["form"], one["storage"]) for one in kept] == [(f, s) for f in FORMS for s in cases.STORED]
