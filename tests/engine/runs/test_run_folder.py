"""Run folders: their files, overwriting, and the last checkpoint."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from training_runs import TEXT, experiment

from unrolled.engine.data.config import DataConfig
from unrolled.engine.data.corpus import Corpus
from unrolled.engine.errors import ConfigError
from unrolled.engine.network.language_model import LanguageModel
from unrolled.engine.runs.experiment import Experiment, prepare_run
from unrolled.engine.runs.metrics_log import read_metrics
from unrolled.engine.storage.checkpoint import load_checkpoint
from unrolled.engine.tokenizers.registry import TOKENIZERS
from unrolled.engine.training.evaluation import evaluate_tokens
from unrolled.engine.training.observers import TrainingObserver
from unrolled.engine.training.result import TrainingResult
from unrolled.engine.training.trainable import Trainable


@pytest.mark.parametrize("batching", ["stream", "records"])
@pytest.mark.parametrize("level", TOKENIZERS)
def test_a_run_folder_holds_what_it_should(tmp_path: Path, batching: str, level: str) -> None:
    text = "".join(f"{number} {line}" for number, line in enumerate(TEXT.splitlines(keepends=True)))
    run = prepare_run(Corpus("fox", text), experiment(batching, level))
    result = run.run(tmp_path / "run")
    steps = list(read_metrics(tmp_path / "run", "step"))
    validations = list(read_metrics(tmp_path / "run", "validation"))
    assert [line["step"] for line in steps] == list(range(1, 13))
    assert [line["loss"] for line in steps] == result.losses
    assert [line["step"] for line in validations] == [5, 10, 12]
    assert set(validations[0]) >= {"loss", "perplexity", "bits_per_token", "accuracy", "tokens", "best"}
    assert validations[0]["perplexity"] == pytest.approx(math.exp(validations[0]["loss"]))
    assert validations[0]["bits_per_token"] == pytest.approx(validations[0]["loss"] / math.log(2))
    best = load_checkpoint(tmp_path / "run")
    assert best.tokenizer == run.dataset.tokenizer
    assert best.training["corpus"]["name"] == "fox"
    assert best.training["result"]["best"]["loss"] == pytest.approx(min(line["loss"] for line in validations))
    assert run.dataset.validation is not None
    again = evaluate_tokens(LanguageModel(best.config, best.params), run.dataset.validation)
    assert again.loss == pytest.approx(result.best.loss if result.best else 0, rel=1e-6)


def test_without_validation_the_last_checkpoint_is_the_best(tmp_path: Path) -> None:
    base = experiment()
    settings = Experiment(base.training, DataConfig(batch_size=4, length=16, split=(1.0, 0.0, 0.0)), base.model)
    result = prepare_run(Corpus("fox", TEXT), settings).run(tmp_path / "run")
    assert result.best is None
    best, last = (load_checkpoint(tmp_path / "run" / f"{name}.safetensors") for name in ("best", "last"))
    assert all((best.params[name] == value).all() for name, value in last.params.items())


def test_an_earlier_run_is_not_overwritten_unasked(tmp_path: Path) -> None:
    run = prepare_run(Corpus("fox", TEXT), experiment())
    run.run(tmp_path / "run")
    before = (tmp_path / "run" / "best.safetensors").read_bytes()
    with pytest.raises(ConfigError, match="holds a run already"):
        prepare_run(Corpus("fox", TEXT), experiment()).run(tmp_path / "run")
    assert (tmp_path / "run" / "best.safetensors").read_bytes() == before
    prepare_run(Corpus("fox", TEXT), experiment(cell="rnn")).run(tmp_path / "run", overwrite=True)
    assert load_checkpoint(tmp_path / "run").config.cell == "rnn"


def test_files_that_are_not_of_a_run_are_left_alone(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    for name in ("resnet.pt", "model.onnx", "curve.png", "notes.txt"):
        (folder / name).write_text("mine")
    prepare_run(Corpus("fox", TEXT), experiment()).run(folder)
    assert (folder / "model.onnx").read_text() == "mine"
    prepare_run(Corpus("fox", TEXT), experiment()).run(folder, overwrite=True)
    assert sorted(path.name for path in folder.iterdir()) == [
        "best.safetensors",
        "last.safetensors",
        "metrics.jsonl",
        "notes.txt",
        "resnet.pt",
        "resume.safetensors",
    ]


def test_a_full_disk_leaves_the_earlier_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare_run(Corpus("fox", TEXT), experiment()).run(tmp_path / "run")
    before = {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()}

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        prepare_run(Corpus("fox", TEXT), experiment(cell="rnn")).run(tmp_path / "run", overwrite=True)
    assert {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()} == before


def test_the_last_checkpoint_is_written_as_the_training_goes(tmp_path: Path) -> None:
    seen = []

    class Look(TrainingObserver):
        def on_interval(self, trainable: Trainable, result: TrainingResult) -> None:
            seen.append(load_checkpoint(tmp_path / "run" / "last.safetensors").training["result"]["steps"])

    prepare_run(Corpus("fox", TEXT), experiment()).run(tmp_path / "run", observers=[Look()])
    assert seen == [5, 10, 12]


def test_metrics_are_one_json_object_a_line(tmp_path: Path) -> None:
    prepare_run(Corpus("fox", TEXT), experiment()).run(tmp_path / "run")
    for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines():
        assert json.loads(line)["event"] in ("step", "validation", "sample")
