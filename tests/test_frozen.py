"""Old files: everything that an earlier release wrote loads, computes the same, and is written again as it was."""

from __future__ import annotations

import json
import pickle
import shutil
import subprocess
import sys
from collections import namedtuple
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from frozen import freeze
from tolerances import assert_close

from unrolled.engine import canonical
from unrolled.engine.data.config import DataConfig
from unrolled.engine.data.token_file_writer import encode_files
from unrolled.engine.data.token_files import read_encoded
from unrolled.engine.errors import ConfigError, JobError, ModelFileError
from unrolled.engine.models import language_model_config, spec
from unrolled.engine.models.heads.next_token import NextTokenHead
from unrolled.engine.models.language_model_config import LanguageModelConfig
from unrolled.engine.models.layers.core_config import CoreConfig
from unrolled.engine.models.spec import ModelSpec
from unrolled.engine.optimizers.config import OptimizerConfig
from unrolled.engine.runs.experiment import ModelSettings
from unrolled.engine.runs.metrics_log import read_metrics
from unrolled.engine.storage import description
from unrolled.engine.storage.checkpoint import load_checkpoint, save_checkpoint
from unrolled.engine.storage.description import text_preprocessing
from unrolled.engine.tokenizers.characters import CharTokenizer
from unrolled.engine.tokenizers.registry import TOKENIZERS, tokenizer_from_dict
from unrolled.engine.training.config import TrainingConfig
from unrolled.engine.training.result import TrainingResult
from unrolled.export.artifact.metadata import PREFIX
from unrolled.export.artifact.weight_storage import WeightStorage
from unrolled.export.formats import export_model
from unrolled.runtime import Context, GenerationConfig, extend, generate, load, read
from unrolled.runtime.jobs.job import identity
from unrolled.runtime.jobs.prompt_files import PromptFile
from unrolled.runtime.jobs.runner import Job, run_job
from unrolled.runtime.models.engines import ENGINES
from unrolled.runtime.models.onnx_model import OnnxModel

RELEASE = Path(__file__).parent / "frozen" / "0.1.0"
EXPECTED: dict[str, Any] = json.loads((RELEASE / "expected.json").read_text(encoding="utf-8"))


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the files, as the current folder: some of them are gone on with."""
    copy = tmp_path / "release"
    shutil.copytree(RELEASE, copy)
    monkeypatch.chdir(copy)
    return copy


def needs_torch(engine: str) -> None:
    if engine in ("torch", "torchscript"):
        pytest.importorskip("torch", reason="the torch extra is not installed")


def assert_same_figures(got: dict[str, Any], expected: dict[str, Any], what: str, exact: bool = True) -> None:
    """Compare digest, texts and loss; ``exact`` is false where processors round differently, so that texts may part."""
    assert got["digest"] == expected["digest"], what
    assert got["texts"].keys() == expected["texts"].keys() == freeze.SETTINGS.keys()
    if exact:
        assert got["texts"] == expected["texts"], what
    if "loss" in expected:
        assert_close(np.float64(got["loss"]), expected["loss"], "frozen loss" if exact else "quantized loss", what=what)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", EXPECTED["checkpoints"])
def test_checkpoints_write_and_score_the_same(name: str, engine: str) -> None:
    needs_torch(engine)
    got = freeze.figures_of(f"{name}.safetensors", engine)
    assert_same_figures(got, EXPECTED["checkpoints"][name], f"{name} on {engine}")


@pytest.mark.parametrize("name", EXPECTED["onnx"])
def test_onnx_files_write_and_score_the_same(name: str) -> None:
    got = freeze.figures_of(name, loss="loss" in EXPECTED["onnx"][name])
    assert_same_figures(got, EXPECTED["onnx"][name], name, exact="quantized" not in name)


def test_torchscript_writes_and_scores_the_same() -> None:
    needs_torch("torchscript")
    assert_same_figures(freeze.figures_of("char-lstm.pt"), EXPECTED["torchscript"], "char-lstm.pt")


def test_alarm_one_weight_or_text_that_is_off_is_seen() -> None:
    expected = EXPECTED["checkpoints"]["char-gru"]
    opened = load_checkpoint("char-gru.safetensors")
    weight = max(opened.params, key=lambda name: opened.params[name].size)
    params = {**opened.params, weight: opened.params[weight] * np.float32(1.05)}
    save_checkpoint("off.safetensors", replace(opened, params=params))
    got = freeze.figures_of("off.safetensors", "numpy")
    with pytest.raises(AssertionError):
        assert_same_figures(got, expected, "another weight")
    with pytest.raises(AssertionError):
        assert_same_figures({**got, "digest": expected["digest"], "texts": expected["texts"]}, expected, "its loss")
    changed = {**expected["texts"], "greedy": ["another text"] * 2}
    with pytest.raises(AssertionError):
        assert_same_figures({**expected, "texts": changed}, expected, "another text")


@pytest.mark.parametrize("name", EXPECTED["checkpoints"])
def test_a_checkpoint_is_written_as_it_was_byte_for_byte(name: str) -> None:
    path = Path(f"{name}.safetensors")
    save_checkpoint("again.safetensors", load_checkpoint(path))
    assert Path("again.safetensors").read_bytes() == path.read_bytes()


def graph_and_metadata(path: str) -> tuple[bytes, dict[str, str]]:
    """The graph, and the metadata but for what a release or a processor decides: producer, golden cases."""
    model = onnx.load(path)
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    for key in ("producer", "golden"):
        del metadata[PREFIX + key]
    return model.graph.SerializeToString(deterministic=True), metadata


@pytest.mark.parametrize("name", [name for name in EXPECTED["onnx"] if "-step-" in name])
def test_a_step_graph_is_written_as_it_was(name: str) -> None:
    source, storage = name.split("-step-")[0], name.split("-step-")[1].removesuffix(".onnx")
    export_model(
        load_checkpoint(f"{source}.safetensors"), Path("again.onnx"), "onnx", "step", weights=freeze.STORAGES[storage]
    )
    assert graph_and_metadata("again.onnx") == graph_and_metadata(name)


@pytest.mark.parametrize("name", EXPECTED["runs"])
def test_a_stopped_run_goes_on_to_the_end_that_it_had(name: str, folder: Path) -> None:
    engine, experiment = freeze.RUNS[name]
    needs_torch(engine)
    expected, run = EXPECTED["runs"][name], folder / f"run-{name}"
    before = len(list(read_metrics(run, "step")))
    result = freeze.prepared(engine, experiment).run(run, resume=True)
    steps = [line["loss"] for line in read_metrics(run, "step")]
    validations = [[line["step"], line["loss"]] for line in read_metrics(run, "validation")]
    assert 0 < len(result.losses) < len(steps) == result.steps
    assert before < len(steps)
    assert_close(np.array(steps, np.float32), np.array(expected["steps"], np.float32), "curve", what=name)
    assert [step for step, _ in validations] == [step for step, _ in expected["validations"]]
    assert_close(np.array(validations, np.float32), np.array(expected["validations"], np.float32), "curve", what=name)
    assert freeze.texts_of(load(run / "last.safetensors", "numpy")) == expected["texts"]


def test_a_stopped_run_still_refuses_another_setting(folder: Path) -> None:
    engine, experiment = freeze.RUNS["numpy-usual"]
    other = replace(experiment, model=replace(experiment.model, hidden_size=11))
    with pytest.raises(ConfigError, match="hidden_size was 10, now 11"):
        freeze.prepared(engine, other).run(folder / "run-numpy-usual", resume=True)


@pytest.mark.parametrize("name", EXPECTED["tokens"])
def test_token_files_hold_the_same_and_are_written_as_they_were(name: str) -> None:
    expected, found = EXPECTED["tokens"][name], read_encoded(name)
    assert list(found.parts) == expected["parts"]
    assert (found.characters, found.digest) == (expected["characters"], expected["corpus"])
    assert found.ids[:50].tolist() == expected["first"]
    assert int(found.ids.astype("u8").sum()) == expected["sum"]
    data = freeze.EXPERIMENTS[Path(name).stem].data
    assert found.prepare(data).train.tokens_per_epoch > 0
    if data.level == "bpe":
        pytest.importorskip("tokenizers", reason="the bpe extra is not installed")
    encode_files(["corpus.txt"], Path("again.tokens"), data)
    assert Path("again.tokens").read_bytes() == Path(name).read_bytes()


@pytest.mark.parametrize("engine", ENGINES)
def test_a_context_is_gone_on_with(engine: str) -> None:
    needs_torch(engine)
    expected, context = EXPECTED["context"], Context.load("context.safetensors")
    assert (context.written, context.digest) == (expected["written"], expected["digest"])
    model = load("char-lstm.safetensors", engine)
    assert generate(model, [""], max_new_tokens=freeze.WRITTEN, seed=3, context=context)[0].text == expected["text"]
    context.save("again.safetensors")
    again = Context.load("again.safetensors")
    assert (again.written, again.digest) == (context.written, context.digest)
    np.testing.assert_array_equal(again.tokens, context.tokens)
    np.testing.assert_array_equal(again.state, context.state)


JOB = GenerationConfig(max_new_tokens=12, temperature=0.8, seed=17, num_return_sequences=2)


@pytest.mark.parametrize(
    ("engine", "file"), [("numpy", "char-lstm.safetensors"), ("onnxruntime", "char-lstm-both-float32.onnx")]
)
def test_an_unfinished_job_goes_on_to_the_same_results(engine: str, file: str) -> None:
    model = load(file, engine)
    output = Path(f"job-{engine}.jsonl")
    whole = Path(f"job-{engine}-whole.jsonl").read_bytes()
    assert whole.startswith(output.read_bytes())
    assert len(output.read_bytes()) < len(whole)
    done = run_job(model, Job("prompts.jsonl", str(output), lanes=1, resume=True), JOB)
    assert (done.rows, done.errors) == (75, 1)
    assert 0 < done.kept < 75
    assert output.read_bytes() == whole


def test_a_later_field_of_weights_counts_in_a_job_only_where_it_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    later = namedtuple("WeightStorage", (*WeightStorage._fields, "outliers"))  # type: ignore[misc]
    model = load("char-lstm-both-float32.onnx", "onnxruntime")
    monkeypatch.setitem(canonical.LATER, "WeightStorage", {"outliers": 0})
    assert isinstance(model, OnnxModel)
    about = json.loads(Path("job-onnxruntime.jsonl.job").read_text().partition("\n}\n")[0] + "}")
    job = Job("prompts.jsonl", "job-onnxruntime.jsonl", lanes=1, resume=True)
    with PromptFile("prompts.jsonl") as prompts:
        for outliers, same in ((0, True), (3, False)):
            model.weights = later(*model.weights[:4], outliers)  # type: ignore[assignment]
            assert (identity(model, job, JOB, prompts)["weights"] == about["weights"]) is same
    with pytest.raises(JobError, match="was begun with weights"):
        run_job(model, job, JOB)
    model.weights = later(*model.weights[:4], 0)  # type: ignore[assignment]
    assert run_job(model, job, JOB).kept > 0
    assert Path("job-onnxruntime.jsonl").read_bytes() == Path("job-onnxruntime-whole.jsonl").read_bytes()


def test_a_study_goes_on() -> None:
    pytest.importorskip("optuna", reason="the tune extra is not installed")
    before = Path("study/study.log").read_text()
    command = [sys.executable, "-m", "unrolled.cli.main", "tune", *freeze.STUDY, "--trials", "3", "--resume", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    trials = json.loads(done.stdout)["trials"]
    assert [trial["state"] for trial in trials] == ["complete"] * 3
    assert Path("study/study.log").read_text().startswith(before)


# Later releases: a class with one setting more, whose value in old files is not the default of new models.


@dataclass(frozen=True)
class LaterCore(CoreConfig):
    """The core of ``LaterConfig``."""

    zoneout: float = 0.1


@dataclass(frozen=True)
class LaterConfig(LanguageModelConfig):
    """A language model with a setting of its core that 0.1.0 did not have."""

    zoneout: float = 0.1

    @cached_property
    def spec(self) -> ModelSpec:
        made = LanguageModelConfig.spec.func(self)
        return replace(made, core=LaterCore(**vars(made.core), zoneout=self.zoneout))

    @classmethod
    def from_spec(cls, spec: ModelSpec) -> LanguageModelConfig | None:
        config = super().from_spec(spec)
        return config if config is None else replace(config, zoneout=spec.core.zoneout)  # type: ignore[attr-defined]


class LaterChars(CharTokenizer):
    """A tokenizer with a setting that 0.1.0 did not have."""

    def __init__(
        self, vocabulary: Any, unknown: str = "error", lowercase: bool = False, normalize: str = "nfc"
    ) -> None:
        super().__init__(vocabulary, unknown, lowercase)
        self.normalize = normalize

    def _settings(self) -> dict[str, Any]:
        return {**super()._settings(), "normalize": self.normalize}


def use_later_language_models(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give language models a setting more, as the next release may."""
    for owner in (LaterConfig, LaterCore):
        monkeypatch.setitem(canonical.LATER, owner.__name__, {"zoneout": 0.0})
    for module in (description, language_model_config):
        monkeypatch.setattr(module, "LanguageModelConfig", LaterConfig)
    monkeypatch.setattr(spec, "CoreConfig", LaterCore)


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next release: language models and character tokenizers with a setting more."""
    use_later_language_models(monkeypatch)
    monkeypatch.setitem(canonical.LATER, "LaterChars", {"normalize": "none"})
    monkeypatch.setitem(TOKENIZERS, "char", LaterChars)


@pytest.mark.usefixtures("later")
@pytest.mark.parametrize("name", [name for name in EXPECTED["checkpoints"] if not name.startswith(("word", "bpe"))])
def test_a_later_setting_changes_no_digest_and_no_byte_of_an_old_checkpoint(name: str) -> None:
    path = Path(f"{name}.safetensors")
    opened = load_checkpoint(path)
    assert isinstance(opened.config, LaterConfig)
    assert isinstance(opened.tokenizer, LaterChars)
    assert (opened.config.zoneout, opened.tokenizer.normalize) == (
        0.0,
        "none",
    )  # as 0.1.0 computed, not today's default
    assert opened.digest == EXPECTED["checkpoints"][name]["digest"]
    save_checkpoint("again.safetensors", opened)
    assert Path("again.safetensors").read_bytes() == path.read_bytes()


@pytest.mark.usefixtures("later")
def test_a_later_setting_with_another_value_is_kept_and_changes_the_digest() -> None:
    opened = load_checkpoint("char-gru.safetensors")
    later_tokenizer = LaterChars(opened.tokenizer.vocabulary, normalize="nfc")
    for changed in (
        replace(opened, spec=replace(opened.config, zoneout=0.3).spec),  # type: ignore[call-arg]
        replace(opened, preprocessing=text_preprocessing(later_tokenizer)),
    ):
        save_checkpoint("changed.safetensors", changed)
        again = load_checkpoint("changed.safetensors")
        assert (again.config, again.tokenizer) == (changed.config, changed.tokenizer)
        assert again.digest == changed.digest != opened.digest


def test_this_release_refuses_a_setting_of_a_later_one(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as next_release:
        use_later_language_models(next_release)
        opened = load_checkpoint("char-gru.safetensors")
        changed = replace(opened.config, zoneout=0.3)  # type: ignore[call-arg]
        save_checkpoint("later.safetensors", replace(opened, spec=changed.spec))
    with pytest.raises(ModelFileError, match="unknown setting zoneout"):
        load_checkpoint("later.safetensors")


@pytest.mark.parametrize(
    ("owner", "made"),
    [
        (LanguageModelConfig, LanguageModelConfig("gru", 7)),
        (DataConfig, DataConfig(split=(0.5, 0.5, 0.0))),
        (TrainingConfig, TrainingConfig(steps=3)),
        (OptimizerConfig, OptimizerConfig()),
        (ModelSettings, ModelSettings()),
        (GenerationConfig, GenerationConfig()),
    ],
)
def test_settings_of_every_kind_leave_out_what_reproduces_the_release(
    owner: type, made: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = canonical.canonical_settings(made)
    name, value = list(values.items())[-1]  # as if it had come later
    monkeypatch.setitem(canonical.LATER, owner.__name__, {name: value})
    assert canonical.canonical_settings(made) == {key: kept for key, kept in values.items() if key != name}
    assert canonical.completed(owner, canonical.canonical_settings(made)) == values
    monkeypatch.setitem(canonical.LATER, owner.__name__, {name: "another value"})
    assert canonical.canonical_settings(made) == values


def test_token_files_and_resumed_runs_take_later_settings(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setitem(canonical.LATER, "DataConfig", {"seed": 0})
    monkeypatch.setitem(canonical.LATER, "TrainingResult", {"plateaus": 0})
    assert "seed" not in DataConfig().to_dict()
    assert DataConfig.from_dict(DataConfig(seed=0).to_dict()).seed == 0
    values = TrainingResult("numpy").to_dict(NextTokenHead(2))
    del values["plateaus"]
    assert TrainingResult.from_dict(values, NextTokenHead(2)).plateaus == 0
    monkeypatch.setitem(canonical.LATER, "DataConfig", {"punctuation": False})
    data = freeze.EXPERIMENTS["char-lstm"].data
    encode_files(["corpus.txt"], Path("later.tokens"), data)
    assert b"punctuation" not in Path("later.tokens").read_bytes()
    assert read_encoded("later.tokens").data["punctuation"] is False
    assert read_encoded("later.tokens").settle(data) == data


def test_storage_of_weights_takes_later_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(canonical.LATER, "WeightStorage", {"quantized": False})
    opened = load_checkpoint("char-gru.safetensors")
    export_model(opened, Path("later.onnx"), "onnx", "step", weights=WeightStorage())
    stored = {entry.key: entry.value for entry in onnx.load("later.onnx").metadata_props}[PREFIX + "weights"]
    assert "quantized" not in stored
    assert load("later.onnx").digest == opened.digest


def test_tokenizers_are_read_as_they_are_written() -> None:
    for name in EXPECTED["checkpoints"]:
        tokenizer = load_checkpoint(f"{name}.safetensors").tokenizer
        assert tokenizer_from_dict(tokenizer.to_dict()) == tokenizer


@pytest.mark.parametrize("name", ["char-lstm-generate-float32.onnx", "char-lstm-both-fp16.onnx", "char-lstm.pt"])
def test_files_follow_later_rules(name: str) -> None:
    """Temperature 0 is greedy, a model pickles, and one that draws inside reads and extends."""
    needs_torch("torchscript" if name.endswith(".pt") else "")
    model = load(name)
    prompt = model.tokenizer.start_prompt() * 2
    greedy, zero = (
        generate(model, prompt, max_new_tokens=8, **one)[0] for one in ({"do_sample": False}, {"temperature": 0})
    )
    assert zero == greedy
    story = read(model, prompt)
    first = generate(model, "", context=story, do_sample=False, max_new_tokens=5)[0]
    rest = generate(model, "", context=extend(model, story, first), do_sample=False, max_new_tokens=3)[0]
    assert first.tokens + rest.tokens == greedy.tokens
    assert generate(pickle.loads(pickle.dumps(model)), prompt, do_sample=False, max_new_tokens=8)[0] == greedy
