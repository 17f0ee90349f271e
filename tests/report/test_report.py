"""Tests of the report page and event files: values against independent computations, and escaping of hostile text."""

from __future__ import annotations

import json
import math
import re
import struct
import zlib
from base64 import b64decode
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import models
import numpy as np
import pytest
from tolerances import assert_close

from unrolled.cli.app import app
from unrolled.engine.data.config import DataConfig
from unrolled.engine.data.corpus import BUILTINS, Corpus
from unrolled.engine.data.splits import split_corpus
from unrolled.engine.errors import ConfigError, CorpusError, MissingDependencyError, ModelFileError
from unrolled.engine.models.cells import CELLS
from unrolled.engine.models.inputs.batch import Batch
from unrolled.engine.models.layers import output_loss
from unrolled.engine.models.step_contract import zero_state
from unrolled.engine.network.language_model import LanguageModel
from unrolled.engine.network.network import Network
from unrolled.engine.runs.experiment import Experiment, ModelSettings, prepare_run
from unrolled.engine.runs.metrics_log import read_metrics
from unrolled.engine.storage.checkpoint import Checkpoint, load_checkpoint
from unrolled.engine.tokenizers.words import WordTokenizer
from unrolled.engine.training.config import TrainingConfig
from unrolled.engine.training.events import StepEvent
from unrolled.engine.training.observers import TrainingObserver
from unrolled.engine.training.trainable import Trainable
from unrolled.report.charts import nice_ticks
from unrolled.report.heldout import _id_rows, find_corpus, held_out
from unrolled.report.image import OPACITY_LEVELS, heat_map
from unrolled.report.page import page, write_report
from unrolled.report.probe import gradient_reach, parameter_gradients, read_rows, windows
from unrolled.report.runs import differences, read_runs

HOSTILE = "</script><script>alert(1)</script>&amp;\"'<img src=x onerror=alert(2)>\x00\u202e\u2028]]>"
TEXT = f"the quick brown fox jumps over the lazy dog {HOSTILE}\n" * 60
CORPUS = Corpus("<b>fox</b>.txt", TEXT)
EXPERIMENT = Experiment(
    TrainingConfig(steps=9, validate_every=4, seed=4),
    DataConfig(batch_size=4, length=13, split=(0.8, 0.2, 0.0)),
    ModelSettings("gru", 5, 7, 1),
)


def say(trainable: Trainable) -> str:
    return HOSTILE


def train(folder: Path, experiment: Experiment = EXPERIMENT, observers: Any = (), **settings: Any) -> Path:
    prepare_run(CORPUS, experiment).run(folder, observers=observers, sampler=say, **settings)
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Return two runs whose cells and seeds differ; the second has a hostile name."""
    folder = tmp_path_factory.mktemp("runs")
    other = replace(
        EXPERIMENT, training=replace(EXPERIMENT.training, seed=5), model=replace(EXPERIMENT.model, cell="lstm")
    )
    return [train(folder / "first"), train(folder / "<i>&second", other)]


class Page(HTMLParser):
    """Elements, their attributes, and the text of blocks of JSON."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.blocks: list[Any] = []
        self._json = False
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        self._json = ("type", "application/json") in attrs

    def handle_data(self, data: str) -> None:
        if self._json:
            self.blocks.append(json.loads(data))
            self._json = False


def test_the_page_holds_no_element_or_address_from_a_text(runs: list[Path]) -> None:
    text = page(read_runs(runs), CORPUS)
    found = Page(text)
    assert "onerror" not in {name for _, name, _ in found.attributes}
    scripts = [value for tag, name, value in found.attributes if (tag, name) == ("script", "type")]
    assert found.tags.count("script") == len(scripts) + 1  # blocks of data, and the page's own
    assert {tag for tag in found.tags if tag in ("link", "iframe", "object", "embed", "base", "form")} == set()
    for _, name, value in found.attributes:
        if name in ("src", "href"):
            assert value.startswith(("data:image/png;base64,", "#"))
    assert "http" not in re.sub(r'http-equiv="', "", text)
    assert "url(" not in text
    assert "\x00" not in text
    policy = next(v for t, n, v in found.attributes if (t, n) == ("meta", "content") and "default-src" in v)
    assert policy.startswith("default-src 'none'")
    assert "&lt;b&gt;fox&lt;/b&gt;.txt" in text


def test_alarm_a_text_that_is_not_escaped_is_seen() -> None:
    assert "img" in Page(f"<p>{HOSTILE}</p>").tags


def test_every_label_and_image_is_named_and_the_page_is_the_same_again(runs: list[Path]) -> None:
    text = page(read_runs(runs), CORPUS)
    assert text == page(read_runs(runs), CORPUS)
    for tag in re.findall(r"<svg[^>]*>", text):
        assert 'role="img"' in tag
        assert "aria-label=" in tag
    for tag in re.findall(r"<img[^>]*>", text):
        assert 'alt="Activations' in tag
    for tag in re.findall(r'<[^>]*tabindex="0"[^>]*>', text):
        assert "aria-label=" in tag


def test_curves_hold_the_metrics(runs: list[Path]) -> None:
    charts = [block for block in Page(page(read_runs(runs), CORPUS)).blocks if isinstance(block, dict)]
    loss = charts[0]
    assert [line["label"] for line in loss["lines"]] == [
        "first", "<i>&second", "first, validation", "<i>&second, validation",
    ]  # fmt: skip
    for run, line in zip(runs, loss["lines"][:2], strict=True):
        assert line["x"] == [float(row["step"]) for row in read_metrics(run, "step")]
        assert line["y"] == pytest.approx([row["loss"] for row in read_metrics(run, "step")], rel=1e-4)
    assert loss["lines"][2]["x"] == [4, 8, 9]
    assert charts[3]["x"] == "seconds of training"


def test_what_differs_and_what_is_common(runs: list[Path]) -> None:
    differing, common = differences(read_runs(runs))
    assert differing == {"model.cell": ["gru", "lstm"], "training.seed": [4, 5]}
    assert common["model.hidden_size"] == 7
    assert common["optimizer.clip_norm"] == 1.0


def test_each_run_is_said_to_have_clipped_at_its_own_norm(runs: list[Path], tmp_path: Path) -> None:
    never = replace(EXPERIMENT, clip_norm=1e6)
    always = replace(EXPERIMENT, clip_norm=1e-6)
    found = page(read_runs([train(tmp_path / "<never>", never), train(tmp_path / "always", always)]), CORPUS)
    assert "&lt;never&gt;: above 1e+06, 0% of the steps; always: above 1e-06, 100% of the steps." in found


def test_lone_surrogates_in_names_do_not_stop_the_page(runs: list[Path], tmp_path: Path) -> None:
    """Names that are not UTF-8 come from the file system with surrogates."""
    first, second = read_runs(runs)
    strange = replace(first, label="caf\udce9")
    training = {**first.checkpoint.training, "corpus": {"name": "b\udcfcch.txt", "sha256": CORPUS.digest}}
    strange = replace(strange, checkpoint=replace(first.checkpoint, training=training))
    text = page([strange, second], replace(CORPUS, name="b\udcfcch.txt"))
    assert "caf?" in text.encode().decode()


def test_samples_are_lines_in_every_reader(runs: list[Path]) -> None:
    lines = list(read_metrics(runs[0], "sample"))
    assert [(line["step"], line["text"]) for line in lines] == [(step, HOSTILE) for step in (4, 8, 9)]
    whole = (runs[0] / "metrics.jsonl").read_text("utf-8")
    assert [json.loads(line)["event"] for line in whole.splitlines()].count("sample") == 3
    assert whole.isascii()


def test_the_page_notes_missing_samples_and_text(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "er" / "run"
    prepare_run(CORPUS, EXPERIMENT).run(folder)
    text = page(read_runs([folder]))
    assert "No samples were recorded" in text
    assert text.count("name a text with --text") == 3
    assert "Gradient norm" in text
    strange = page(read_runs([folder]), Corpus("other", "ÄÖÜ" * 50))
    assert "the vocabulary has no character" in strange


def test_the_held_out_text_is_the_validation_part(runs: list[Path], tmp_path: Path) -> None:
    checkpoint = load_checkpoint(runs[0])
    found = held_out(checkpoint, CORPUS, 50)
    validation = split_corpus(CORPUS, "stream", (0.8, 0.2, 0.0)).validation
    assert isinstance(validation, str)
    assert checkpoint.tokenizer.decode(found.rows[0].tolist()) == validation[:51]
    assert "validation part" in found.source
    assert "which is not the corpus that" in held_out(checkpoint, Corpus("x", TEXT[7:]), 50).source
    with pytest.raises(CorpusError, match="--text"):
        find_corpus(checkpoint, tmp_path / "a" / "b" / "c", None)


def test_a_runs_own_corpus_is_found_by_name_and_digest(tmp_path: Path) -> None:
    prepare_run(Corpus("fox.txt", TEXT), EXPERIMENT).run(tmp_path / "run")
    checkpoint = load_checkpoint(tmp_path / "run")
    (tmp_path / "fox.txt").write_text(TEXT + "x", "utf-8", newline="")
    with pytest.raises(CorpusError, match="does not hold the text of the training"):
        find_corpus(checkpoint, tmp_path / "run", None)
    (tmp_path / "fox.txt").write_text(TEXT, "utf-8", newline="")
    assert find_corpus(checkpoint, tmp_path / "run", None).text == TEXT


def trained_on(corpus: Corpus, name: str | None = None) -> Checkpoint:
    record = {"name": name or corpus.name, "sha256": corpus.digest}
    return replace(models.checkpoint("rnn"), training={"corpus": record})


@pytest.mark.parametrize("name", BUILTINS)
def test_every_built_in_corpus_is_found_and_shadows_no_file(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built_in = Corpus(name, "one\ntwo\n")
    monkeypatch.setitem(BUILTINS, name, lambda: built_in)
    assert find_corpus(trained_on(built_in), tmp_path / "run", None) is built_in
    (tmp_path / name).write_text(TEXT, "utf-8", newline="")
    assert find_corpus(trained_on(CORPUS, name), tmp_path / "run", None).text == TEXT
    with pytest.raises(CorpusError, match="does not hold the text"):
        find_corpus(trained_on(Corpus(name, "three")), tmp_path / "run", None)
    with pytest.raises(CorpusError, match=f"{name} of this Python is not that of the training"):
        find_corpus(trained_on(Corpus(name, "three")), tmp_path / "a" / "b" / "c" / "run", None)


def test_a_table_of_several_columns_asks_for_its_column(tmp_path: Path) -> None:
    corpus = Corpus("names.csv", ("anna", "bob"))
    (tmp_path / "names.csv").write_text("age,name\n3,anna\n4,bob\n")
    with pytest.raises(CorpusError, match=r"give --text .*names\.csv with --column or --field"):
        find_corpus(trained_on(corpus), tmp_path / "run", None)
    (tmp_path / "names.csv").write_text("name\nanna\nbob\n")
    assert find_corpus(trained_on(corpus), tmp_path / "run", None).records == ("anna", "bob")


def test_the_name_of_a_corpus_of_many_files_is_no_error(tmp_path: Path) -> None:
    corpus = Corpus(", ".join(f"chapter {number}.txt" for number in range(40)), TEXT)
    with pytest.raises(CorpusError, match="name a text with --text"):
        find_corpus(trained_on(corpus), tmp_path / "run", None)


@pytest.mark.parametrize("most", [1, 2, 3, 30])
def test_no_word_of_the_held_out_text_is_cut_in_two(most: int) -> None:
    text = "antidisestablishmentarianism is long " * 20
    tokenizer = WordTokenizer.fit(text)
    (row,) = _id_rows(text, tokenizer, most)
    assert row.tolist() == tokenizer.encode(text)[: most + 1].tolist()


def test_records_are_read_one_by_one(tmp_path: Path) -> None:
    corpus = Corpus("names", ("anna", "bob", "carla", "dieter", "emma") * 6)
    experiment = replace(EXPERIMENT, data=replace(EXPERIMENT.data, batching="records"))
    prepare_run(corpus, experiment).run(tmp_path / "run")
    checkpoint = load_checkpoint(tmp_path / "run")
    found = held_out(checkpoint, corpus, 12)
    assert all(row[0] == checkpoint.tokenizer.bos_id for row in found.rows)
    reading = read_rows(checkpoint, found.rows)
    assert reading.starts == np.cumsum([0, *(len(row) - 1 for row in found.rows[:-1])]).tolist()
    assert "Gates" in page(read_runs([tmp_path / "run"]), corpus)


@pytest.mark.parametrize("cell", models.ALL_CELLS)
def test_surprise_and_gates_are_the_references(cell: str) -> None:
    checkpoint = models.checkpoint(cell)
    model = LanguageModel(checkpoint.config, checkpoint.params)
    row = np.random.default_rng(5).integers(0, models.V, 9)
    reading = read_rows(checkpoint, [row, row[:4]])
    logits, _ = model.step(row[:-1, None], zero_state(checkpoint.config, 1))
    logp = logits[:, 0] - np.log(np.exp(logits[:, 0].astype(np.float64)).sum(-1, keepdims=True))
    expected = -logp[np.arange(8), row[1:]]
    assert_close(np.array([one.nats for one in reading.surprises[:8]]), expected, "engine", "float32")
    assert [one.nats for one in reading.surprises[8:]] == pytest.approx(expected[:3].tolist(), rel=1e-4)
    assert [one.likely[0][0] for one in reading.surprises[:8]] == logp.argmax(-1).tolist()
    assert [(gate.layer, gate.name) for gate in reading.gates] == [
        (layer, name) for layer in range(2) for name in CELLS[cell].gate_names
    ]
    for gate in reading.gates:
        assert gate.values.shape == (11, models.H)
        low = {"sigmoid": 0, "tanh": -1, "relu": 0}[gate.kind]
        assert gate.values.min() >= low
        assert gate.kind == "relu" or gate.values.max() <= 1
        assert gate.high is None or (gate.low + gate.high <= 1).all()


@pytest.mark.parametrize("cell", models.ALL_CELLS)
def test_gradients_over_distances_are_differences_of_the_loss(cell: str) -> None:
    """Compare with finite differences: move the state at each step a little, and compute the loss of the last step."""
    checkpoint = models.checkpoint(cell)
    params = {name: value.astype(np.float64) for name, value in checkpoint.params.items()}
    model = LanguageModel(checkpoint.config, params)
    ids = np.random.default_rng(6).integers(0, models.V, (7, 1))
    reach = gradient_reach(checkpoint, ids)
    T = len(ids) - 1

    def loss(state: Any, t: int) -> float:
        logits, _ = model.step(ids[t:-1], state)
        last = logits[-1, 0]
        return float(np.log(np.exp(last).sum()) - last[ids[-1, 0]])

    for distance in range(1, T):  # at distance 0 no later step reads the state
        t = T - distance
        _, state = model.step(ids[:t], zero_state(checkpoint.config, 1, np.float64))
        # upper layer only: the lower layer's output also acts at the same step, not through its state
        gradient = np.empty(models.H)
        for unit in range(models.H):
            moved = [state.copy(), state.copy()]
            for sign, one in zip((1, -1), moved, strict=True):
                one[0, 1, 0, unit] += sign * 1e-6
            gradient[unit] = (loss(moved[0], t) - loss(moved[1], t)) / 2e-6
        assert_close(reach[1, distance], np.linalg.norm(gradient), "difference", "float64")
    assert (reach > 0).sum() >= 2 * T - 4  # some are 0 with relu


def test_pieces_for_gradients_are_many_and_long() -> None:
    def shape(*lengths: int) -> tuple[int, ...]:
        rows = [np.arange(length + 1) + 1000 * place for place, length in enumerate(lengths)]
        made = windows(rows)
        assert (np.diff(made, axis=0) == 1).all()  # each piece is of one row
        return made.shape

    assert shape(39) == (40, 1)
    assert shape(7000) == (201, 32)
    assert shape(250) == (126, 2)
    assert shape(1) == (2, 1)
    # records: pieces of the size that uses most tokens
    assert shape(100, *[20] * 40, *[5] * 60) == (21, 32)
    assert shape(*[3] * 10) == (4, 10)


def test_surprise_is_the_same_in_pieces_of_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = models.checkpoint("gru")
    rows = [np.random.default_rng(8).integers(0, models.V, 20)]
    whole = read_rows(checkpoint, rows).surprises
    monkeypatch.setattr(output_loss, "LOGITS_BYTES", 3 * 8 * models.V)  # three positions in each piece
    pieces = read_rows(checkpoint, rows).surprises
    assert [one.token for one in pieces] == rows[0][1:].tolist()
    for one, other in zip(whole, pieces, strict=True):
        assert one.nats == pytest.approx(other.nats, rel=1e-5)
        assert [token for token, _ in one.likely] == [token for token, _ in other.likely]
        assert [p for _, p in one.likely] == sorted((p for _, p in one.likely), reverse=True)
        assert len({token for token, _ in one.likely}) == 3


def test_norms_of_parameters_are_the_models_gradients() -> None:
    checkpoint = models.checkpoint("lstm")
    ids = windows([np.random.default_rng(7).integers(0, models.V, 40)])
    assert ids.shape == (40, 1)
    batch = Batch.of_tokens(ids[:-1], ids[1:])
    model = Network(checkpoint.config.spec, checkpoint.params)
    expected = model.gradients(batch, zero_state(checkpoint.config, 1)).params
    for name, (weight, gradient) in parameter_gradients(checkpoint, ids).items():
        assert gradient == pytest.approx(float(np.linalg.norm(expected[name])), rel=1e-5)
        assert weight == pytest.approx(float(np.linalg.norm(checkpoint.params[name])), rel=1e-5)


def test_a_heat_map_is_a_png_of_its_values() -> None:
    values = np.array([[0.0, 1.0, -1.0], [0.5, -0.25, 2.0]])
    data = b64decode(heat_map(values).partition(",")[2])
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    chunks, place = {}, 8
    while place < len(data):
        (size,), kind = struct.unpack(">I", data[place : place + 4]), data[place + 4 : place + 8]
        body = data[place + 8 : place + 8 + size]
        assert struct.unpack(">I", data[place + 8 + size : place + 12 + size])[0] == zlib.crc32(kind + body)
        chunks[kind] = body
        place += 12 + size
    assert struct.unpack(">II", chunks[b"IHDR"][:8]) == (3, 2)
    rows = np.frombuffer(zlib.decompress(chunks[b"IDAT"]), np.uint8).reshape(2, 4)
    assert rows[:, 0].tolist() == [0, 0]
    assert rows[:, 1:].astype(int).tolist() == [
        [OPACITY_LEVELS, 2 * OPACITY_LEVELS, 0],
        [OPACITY_LEVELS + 64, OPACITY_LEVELS - 32, 2 * OPACITY_LEVELS],
    ]
    assert chunks[b"tRNS"][OPACITY_LEVELS] == 0
    with pytest.raises(ValueError, match="needs rows and columns"):
        heat_map(np.zeros((0, 3)))


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (1.3, 4.1), (0, 4302), (-1e-7, 3e-7)])
def test_ticks_are_few_round_and_inside(low: float, high: float) -> None:
    ticks = nice_ticks(low, high)
    assert 3 <= len(ticks) <= 7
    assert low - 1e-12 <= ticks[0]
    assert ticks[-1] <= high * (1 + 1e-9) + 1e-12
    assert math.isclose(ticks[1] - ticks[0], ticks[-1] - ticks[-2], rel_tol=1e-6)


def test_bad_runs_are_named(runs: list[Path], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "damaged").mkdir()
    for name in ("best.safetensors", "metrics.jsonl"):
        (tmp_path / "damaged" / name).write_bytes((runs[0] / name).read_bytes())
    (tmp_path / "damaged" / "metrics.jsonl").write_text("{]\n")
    for bad, error, message in (
        ([tmp_path / "no"], ModelFileError, "no such folder"),
        ([tmp_path / "file"], ConfigError, "is a file"),
        ([tmp_path], ModelFileError, "is no run folder"),
        ([tmp_path / "damaged"], ModelFileError, "metrics.jsonl: a line is not JSON"),
        ([runs[0], runs[0] / ".." / "first"], ConfigError, "named twice"),
        ([], ConfigError, "none is named"),
    ):
        with pytest.raises(error, match=message):
            write_report(bad, tmp_path / "r.html")
    assert not (tmp_path / "r.html").exists()


def test_the_command_writes_the_page(runs: list[Path], tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text(TEXT, "utf-8", newline="")
    app(
        ["report", str(runs[0]), "--text", str(tmp_path / "text.txt"), "-o", str(tmp_path / "r.html")],
        standalone_mode=False,
    )
    assert (tmp_path / "r.html").read_text("utf-8").startswith("<!DOCTYPE html>")
    with pytest.raises(ConfigError, match=r"ends in \.html"):
        app(["report", str(runs[0]), "-o", str(tmp_path / "r.pdf")], standalone_mode=False)


class StopAt(TrainingObserver):
    """Observer that raises in a step after the last save."""

    def on_step(self, event: StepEvent) -> None:
        if event.step == 7:
            raise RuntimeError("stopped")


def events_in(run: Path) -> dict[str, list[tuple[int, Any]]]:
    """Return steps and values by tag, from the only event file of a run."""
    pytest.importorskip("tensorboard", reason="the tensorboard extra is not installed")
    from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
    from tensorboard.compat.proto.event_pb2 import Event

    (file,) = (run / "tensorboard").iterdir()
    found: dict[str, list[tuple[int, Any]]] = {}
    for raw in RawEventFileLoader(str(file)).Load():
        event = Event.FromString(raw)
        for value in event.summary.value:
            text = value.WhichOneof("value") == "tensor"
            what = value.tensor.string_val[0].decode() if text else value.simple_value
            found.setdefault(value.tag, []).append((event.step, what))
    return found


def test_event_files_hold_the_metrics_also_of_a_run_that_went_on(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="the tensorboard extra is not installed")
    from unrolled.report.tensorboard import EventFiles

    folder = tmp_path / "run"
    with pytest.raises(RuntimeError):
        train(folder, observers=[EventFiles(folder), StopAt()])
    assert [step for step, _ in events_in(folder)["loss/training"]] == [1, 2, 3, 4]  # only saved steps
    train(folder, observers=[EventFiles(folder)], resume=True)
    found = events_in(folder)
    for tag, event, key in (
        ("loss/training", "step", "loss"),
        ("gradient_norm", "step", "grad_norm"),
        ("accuracy/training", "step", "accuracy"),
        ("learning_rate", "step", "learning_rate"),
        ("tokens_per_s", "step", "tokens_per_s"),
        ("loss/validation", "validation", "loss"),
        ("perplexity/validation", "validation", "perplexity"),
        ("accuracy/validation", "validation", "accuracy"),
    ):
        lines = list(read_metrics(folder, event))
        assert [step for step, _ in found[tag]] == [line["step"] for line in lines], tag
        assert [value for _, value in found[tag]] == pytest.approx([line[key] for line in lines], rel=1e-6), tag
    assert found["perplexity/training"][0][1] == pytest.approx(math.exp(found["loss/training"][0][1]), rel=1e-5)
    assert [step for step, _ in found["sample"]] == [4, 8, 9]
    assert found["sample"][0][1] == "    " + HOSTILE
    train(folder, overwrite=True)
    assert not (folder / "tensorboard").exists()


def test_an_event_file_that_cannot_be_removed_is_outdated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows removes no file that an open TensorBoard reads."""
    pytest.importorskip("tensorboard", reason="the tensorboard extra is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    from unrolled.report.tensorboard import EventFiles

    unlink = Path.unlink

    def refuse(path: Path, missing_ok: bool = False) -> None:
        if path.name.startswith("events.out"):
            raise PermissionError(13, "in use", str(path))
        unlink(path, missing_ok)

    monkeypatch.setattr(Path, "unlink", refuse)
    for steps in (9, 5):
        experiment = replace(EXPERIMENT, training=replace(EXPERIMENT.training, steps=steps))
        train(tmp_path / "run", experiment, [EventFiles(tmp_path / "run")], overwrite=True)
    events = tmp_path / "run" / "tensorboard"
    assert len(list(events.iterdir())) == 2
    read = EventAccumulator(str(events))
    read.Reload()
    assert [event.step for event in read.Scalars("learning_rate")] == [1, 2, 3, 4, 5]


def test_without_tensorboard_no_training_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "tensorboard.summary.writer.event_file_writer", None)
    (tmp_path / "fox.txt").write_text(TEXT, "utf-8")
    with pytest.raises(MissingDependencyError, match=r"unrolled\[tensorboard\]"):
        app(["train", str(tmp_path / "fox.txt"), "--tensorboard", "-o", str(tmp_path / "run")], standalone_mode=False)
    assert not (tmp_path / "run").exists()
