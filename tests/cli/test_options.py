"""Tests that every option of every verb has an effect, is refused, or causes a warning."""

from __future__ import annotations

import ast
import inspect
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import models
import pytest

from unrolled.cli.app import app, bench, run
from unrolled.cli.options.training import without_effect
from unrolled.cli.verbs.lr_find import NO_EFFECT
from unrolled.engine.runs.recipe import TRAINING_SETTINGS
from unrolled.engine.storage.checkpoint import save_checkpoint

TEXT = "".join(f"{number} quick brown foxes jump over the lazy dog.\n" for number in range(20))
VERBS = [command.callback for command in (*app.registered_commands, *bench.registered_commands) if command.callback]


def unread(verb: Callable[..., Any]) -> set[str]:
    """Return the parameters of a verb that its body does not read."""
    verb = inspect.unwrap(verb)
    tree = ast.parse(textwrap.dedent(inspect.getsource(verb)))
    read = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
    parameters = inspect.signature(verb, eval_str=True).parameters.values()
    called = {p.name for p in parameters if any(getattr(m, "callback", None) for m in _metadata(p.annotation))}
    return {p.name for p in parameters} - read - called


def _metadata(annotation: Any) -> tuple[Any, ...]:
    return getattr(annotation, "__metadata__", ())


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb.__name__)
def test_every_option_of_every_verb_is_read(verb: Callable[..., Any]) -> None:
    assert unread(verb) == set()


def test_alarm_an_option_that_nothing_reads_is_found() -> None:
    def verb(used: int, idle: int, renamed: int) -> int:
        renamed = used  # noqa: F841 - what is only assigned is not read
        return used

    assert unread(verb) == {"idle", "renamed"}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "fox.txt").write_text(TEXT)
    (tmp_path / "r.toml").write_text("lr = 0.1\nsteps = 3\nwarmup = 5\ntensorboard = true\n")
    save_checkpoint(tmp_path / "model.safetensors", models.checkpoint("gru", 1))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def command(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["unrolled", *arguments])
    return run()


SMALL = ("--engine", "numpy", "--hidden", "5", "--embed", "4", "--batch", "4", "--length", "8")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        *(
            (f"lr-find fox.txt --{name.replace('_', '-')} 1", f"--{name.replace('_', '-')}: has no effect on unrolled")
            for name in NO_EFFECT
        ),
        ("lr-find fox.txt --no-samples", "--samples: has no effect on unrolled lr-find; leave it out"),
        ("tune fox.txt --tensorboard", "--tensorboard: has no effect on unrolled tune; leave it out"),
        ("report run --encoding utf-8", "--encoding: goes with --text; leave it out"),
        ("report run --column text", "--column: go with --text"),
        ("score model.safetensors --text a --encoding latin-1", "--encoding: goes with files; leave it out"),
        ("score model.safetensors --text a --field x", "--field: go with files"),
        ("score model.safetensors --text a --by mean", "--by: goes with alternatives; leave it out"),
        ("score model.safetensors fox.txt --by mean", "--by: goes with alternatives; leave it out"),
        ("export model.safetensors --encoding utf-8", "--encoding: goes with --measure; leave it out"),
        ("export model.safetensors --no-header", "--no-header: go with --measure"),
        ("train --encoding latin-1", "--encoding: for files; none is named"),
        ("eval model.safetensors --encoding latin-1", "--encoding: for files; none is named"),
        (
            "generate model.safetensors --shard 1/2 --strict",
            "--shard, --strict: only with --input, which names a file of prompts; leave them out",
        ),
        (
            "bench train --workload train-quick --cells gru --vocab 70",
            "--cells, --vocab: a named workload has sizes of its own; leave them out",
        ),
        (
            "bench generate --workload generate-quick --length 7",
            "--length: a named workload has sizes of its own; leave it out",
        ),
        ("export model.safetensors --onnxruntime-web x", "onnxruntime_web: is no setting of format onnx"),
        (
            "export model.safetensors --format torchscript --weights fp16",
            "weights: is no setting of format torchscript",
        ),
    ],
)
def test_an_option_without_effect_is_refused(
    arguments: str, message: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(monkeypatch, *arguments.split()) == 2
    assert message in capsys.readouterr().err.replace("\n", " ")
    assert {path.name for path in folder.iterdir()} == {"fox.txt", "r.toml", "model.safetensors"}


def test_a_recipe_of_train_serves_the_range_test(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert command(monkeypatch, "lr-find", "fox.txt", "--recipe", "r.toml", *SMALL, "--updates", "20", "-o", "lr") == 0


@pytest.mark.parametrize(
    ("given", "line"),
    [
        (("--decay", "0.3"), "--decay: has no effect here; it goes with --schedule step or plateau"),
        (
            ("--decay-after", "2", "--schedule", "plateau"),
            "--decay-after: has no effect here; it goes with --schedule step",
        ),
        (("--decay-patience", "2"), "--decay-patience: has no effect here; it goes with --schedule plateau"),
        (("--variational",), "--variational: has no effect here; it goes with dropout"),
        (("--reset", "--batching", "records"), "--reset: has no effect here; it goes with --batching stream"),
    ],
)
def test_train_says_which_settings_have_no_effect(
    given: tuple[str, ...],
    line: str,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert command(monkeypatch, "train", "fox.txt", *SMALL, "--steps", "2", "--no-samples", "-o", "run", *given) == 0
    assert line in capsys.readouterr().out


def test_what_a_study_chooses_may_have_an_effect() -> None:
    usual = {name: definition.typed_default for name, definition in TRAINING_SETTINGS.definitions.items()}
    assert without_effect(usual) == []
    given = {**usual, "decay": 0.3, "variational": True}
    assert len(without_effect(given)) == 2
    assert without_effect(given, {"schedule", "output_dropout"}) == []
    assert without_effect({**given, "schedule": "step", "dropout": 0.1}) == []
