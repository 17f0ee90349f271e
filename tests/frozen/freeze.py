"""Write the files of the installed release that later releases must go on reading: python tests/frozen/freeze.py FOLDER.

Run it once with a release, and commit the folder under the release's version. ``expected.json`` in it records what the
release computed from each file: digests, texts, losses. The tests in ``test_frozen.py`` hold every later version against it.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from unrolled.engine.data.config import DataConfig
from unrolled.engine.data.corpus import read_corpus
from unrolled.engine.data.readers.options import ReadOptions
from unrolled.engine.data.token_file_writer import encode_files
from unrolled.engine.data.token_files import read_encoded
from unrolled.engine.models.dropout import Dropout
from unrolled.engine.optimizers.config import OptimizerConfig
from unrolled.engine.optimizers.schedules import DecayConfig
from unrolled.engine.runs.experiment import Experiment, ModelSettings, prepare_run
from unrolled.engine.runs.metrics_log import read_metrics
from unrolled.engine.storage.checkpoint import load_checkpoint
from unrolled.engine.training.config import TrainingConfig
from unrolled.engine.training.events import StepEvent
from unrolled.engine.training.observers import TrainingObserver
from unrolled.export.artifact.weight_storage import FLOAT32_STORAGE, INT8_STORAGE
from unrolled.export.formats import export_model
from unrolled.export.training_engines import make_trainable
from unrolled.runtime import GenerationConfig, extend, generate, load, read, score
from unrolled.runtime.jobs import runner as jobs
from unrolled.runtime.jobs.runner import Job, run_job

WORDS = ["river", "stone", "light", "morning", "window", "garden", "letter", "silver", "winter"]
WORDS += ["over", "under", "quiet", "café", "naïve", "two", "three"]
PROMPT = "river "
SETTINGS: dict[str, dict[str, Any]] = {
    "greedy": {"do_sample": False},
    "sampled": {"temperature": 0.9, "seed": 5},
    "filtered": {"temperature": 1.1, "top_k": 6, "top_p": 0.9, "seed": 2**63 + 11},
}
WRITTEN = 40  # tokens a text
SMALL = ModelSettings("lstm", 6, 10, 1)


def write_inputs(folder: Path) -> None:
    """Write a text, a table of records and a file of prompts, all random with fixed seeds."""
    rng = random.Random(7)
    lines = [" ".join(rng.choice(WORDS) for _ in range(rng.randint(4, 9))).capitalize() + "." for _ in range(110)]
    (folder / "corpus.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    names = sorted({"".join(rng.choice("abdeiklmnors") for _ in range(rng.randint(3, 9))) for _ in range(90)})
    rows = "".join(f"{number},{name}\n" for number, name in enumerate(names))
    (folder / "names.csv").write_text("id,name\n" + rows, encoding="utf-8")
    with (folder / "prompts.jsonl").open("w", encoding="utf-8") as file:
        for index in range(75):
            row: dict[str, Any] = {"id": f"row {index}", "prompt": rng.choice(WORDS) + " "}
            if index % 5 == 1:
                row["seed"] = rng.getrandbits(50)
            if index % 7 == 3:
                row["temperature"] = 1.25
            if index == 20:
                row["prompt"] = "unknown: 漢"
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


EXPERIMENTS: dict[str, Experiment] = {
    "char-lstm": Experiment(TrainingConfig(steps=30), model=replace(SMALL, num_layers=2)),
    "char-gru": Experiment(TrainingConfig(steps=30), model=replace(SMALL, cell="gru")),
    "char-rnn": Experiment(TrainingConfig(steps=30), model=replace(SMALL, cell="rnn", num_layers=2)),
    "tied-lstm": Experiment(
        TrainingConfig(steps=30),
        DataConfig(lowercase=True, unknown="skip"),
        replace(SMALL, embedding_size=10, tie_weights=True),
    ),
    "word-lstm": Experiment(
        TrainingConfig(steps=30), DataConfig("word", punctuation=True, vocab_size=15, normalize="none"), SMALL
    ),
    "bpe-gru": Experiment(
        TrainingConfig(steps=30), DataConfig("bpe", vocab_size=280), replace(SMALL, cell="gru", hidden_size=8)
    ),
    "records-lstm": Experiment(
        TrainingConfig(steps=30), DataConfig(batching="records", length=12, unknown="replace"), SMALL
    ),
}
RUNS: dict[str, tuple[str, Experiment]] = {
    "numpy-stream": (
        "numpy",
        Experiment(
            TrainingConfig(steps=24, validate_every=5, seed=4, dropout=Dropout(0.1, 0.2), warmup=3, average=0.9),
            DataConfig(batch_size=4, length=13, split=(0.8, 0.2, 0.0)),
            ModelSettings("gru", 5, 7, 2, dropout=0.3),
        ),
    ),
    "numpy-usual": ("numpy", Experiment(TrainingConfig(epochs=6), DataConfig(batch_size=4, length=20), SMALL)),
    "numba-records": (
        "numba",
        Experiment(
            TrainingConfig(epochs=5, validate_every=4, seed=9, schedule="plateau", decay=DecayConfig(0.7)),
            DataConfig(batching="records", batch_size=8, length=12, split=(0.7, 0.2, 0.1), seed=9),
            ModelSettings("lstm", 5, 8),
            OptimizerConfig("rmsprop", 0.01, label_smoothing=0.05),
        ),
    ),
    "torch-stream": (
        "torch",
        Experiment(
            TrainingConfig(steps=20, validate_every=6, schedule="constant"),
            DataConfig(batch_size=3, length=16),
            ModelSettings("rnn", 5, 8),
            OptimizerConfig("sgd", 0.2, momentum=0.5),
        ),
    ),
}
STORAGES = {
    "float32": FLOAT32_STORAGE,
    "fp16": FLOAT32_STORAGE._replace(storage="fp16"),
    "int8": FLOAT32_STORAGE._replace(storage="int8"),
    "quantized": INT8_STORAGE,
}
EXPORTS = [
    *(
        (name, form, storage)
        for name in ("char-lstm",)
        for form in ("step", "generate", "both")
        for storage in STORAGES
    ),
    *((name, form, "float32") for name in ("char-gru", "char-rnn", "records-lstm") for form in ("step", "both")),
    ("word-lstm", "both", "float32"),
    ("bpe-gru", "both", "int8"),
    ("tied-lstm", "step", "float32"),
]


STUDY = ["corpus.txt", "-o", "study", "--engine", "numpy", "--steps", "4", "--hidden", "8", "--embed", "4"]
STUDY += ["--batch", "4", "--length", "16", "--search", "lr", "--search", "init"]


def corpus_of(experiment: Experiment) -> Any:
    if experiment.data.batching == "records":
        return read_corpus(["names.csv"], ReadOptions(column="name"))
    return read_corpus(["corpus.txt"])


def prepared(engine: str, experiment: Experiment) -> Any:
    return prepare_run(
        corpus_of(experiment),
        experiment,
        lambda spec, params, rule, clip: make_trainable(engine, spec, params, rule, clip, "float32"),
    )


class StopAt(TrainingObserver):
    """Fails in a step, as a process does that is lost after its last save."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step(self, event: StepEvent) -> None:
        if event.step == self.step:
            raise RuntimeError("stopped")


def texts_of(model: Any) -> dict[str, list[str]]:
    """Two texts for each of ``SETTINGS``."""
    prompts = ["" if model.tokenizer.bos_id is not None else PROMPT] * 2
    return {
        name: [text.text for text in generate(model, prompts, max_new_tokens=WRITTEN, **settings)]
        for name, settings in SETTINGS.items()
    }


def loss_of(model: Any) -> float:
    """Mean loss of the first two lines of the text, or of two names, in nats a token."""
    if model.tokenizer.bos_id is not None:
        texts = list(read_corpus(["names.csv"], ReadOptions(column="name")).records[:2])
    else:
        texts = Path("corpus.txt").read_text(encoding="utf-8").splitlines()[:2]
    scores = score(model, texts)
    return -sum(one.logprob for one in scores) / sum(len(one.tokens) for one in scores)


def figures_of(path: str, engine: str | None = None, loss: bool = True) -> dict[str, Any]:
    model = load(path, engine)
    found = {"digest": model.digest, "texts": texts_of(model)}
    return {**found, "loss": loss_of(model)} if loss else found


def stop_job(output: str, job: Job, model: Any, config: GenerationConfig, rows: int) -> None:
    """Write an unfinished job: its first ``rows`` rows or a few more."""

    def observe(progress: Any) -> None:
        if progress.rows >= rows and not progress.interrupted:
            raise KeyboardInterrupt

    usual, jobs.PROGRESS_S = jobs.PROGRESS_S, 0.0
    try:
        if not run_job(model, replace(job, output=output), config, observe).interrupted:
            raise RuntimeError(f"{output}: is finished")
    finally:
        jobs.PROGRESS_S = usual


def stop_run(folder: str, run: Any, step: int) -> None:
    """Train until ``step``, and leave the folder as a lost process would."""
    try:
        run.run(folder, observers=[StopAt(step)])
    except RuntimeError as error:
        if str(error) != "stopped":
            raise
    else:
        raise RuntimeError(f"{folder}: was not stopped")


def freeze() -> dict[str, Any]:
    """Write all files into the current folder; returns what ``expected.json`` holds."""
    write_inputs(Path())
    expected: dict[str, Any] = {"checkpoints": {}, "onnx": {}, "runs": {}, "tokens": {}}
    for name, experiment in EXPERIMENTS.items():
        prepared("numpy", experiment).run("scratch", overwrite=True)
        shutil.copy("scratch/last.safetensors", f"{name}.safetensors")
        expected["checkpoints"][name] = figures_of(f"{name}.safetensors", "numpy")
    for name, form, storage in EXPORTS:
        file = f"{name}-{form}-{storage}.onnx"
        export_model(load_checkpoint(f"{name}.safetensors"), Path(file), "onnx", form, weights=STORAGES[storage])
        expected["onnx"][file] = figures_of(file, loss=form != "generate")
    export_model(load_checkpoint("char-lstm.safetensors"), Path("char-lstm.pt"), "torchscript")
    expected["torchscript"] = figures_of("char-lstm.pt")
    for name, (engine, experiment) in RUNS.items():
        prepared(engine, experiment).run("scratch", overwrite=True)
        steps = [line["loss"] for line in read_metrics("scratch", "step")]
        stop_run(f"run-{name}", prepared(engine, experiment), len(steps) * 2 // 3)
        expected["runs"][name] = {
            "steps": steps,
            "validations": [[line["step"], line["loss"]] for line in read_metrics("scratch", "validation")],
            "texts": texts_of(load("scratch/last.safetensors", "numpy")),
        }
    for name in ("char-lstm", "word-lstm", "bpe-gru"):
        file = Path(f"{name}.tokens")
        encode_files(["corpus.txt"], file, EXPERIMENTS[name].data)
        found = read_encoded(file)
        expected["tokens"][file.name] = {
            "parts": list(found.parts),
            "characters": found.characters,
            "corpus": found.digest,
            "first": found.ids[:50].tolist(),
            "sum": int(found.ids.astype("u8").sum()),
        }
    model = load("char-lstm.safetensors", "numpy")
    context = extend(
        model,
        read(model, PROMPT),
        generate(model, [""], max_new_tokens=9, seed=3, context=read(model, PROMPT))[0],
    )
    context.save("context.safetensors")
    more = generate(model, [""], max_new_tokens=WRITTEN, seed=3, context=context)[0]
    expected["context"] = {"written": context.written, "digest": context.digest, "text": more.text}
    config = GenerationConfig(max_new_tokens=12, temperature=0.8, seed=17, num_return_sequences=2)
    for engine, file in (("numpy", "char-lstm.safetensors"), ("onnxruntime", "char-lstm-both-float32.onnx")):
        job = Job("prompts.jsonl", f"job-{engine}-whole.jsonl", lanes=1)
        opened = load(file, engine if file.endswith("safetensors") else None)
        run_job(opened, job, config)
        stop_job(f"job-{engine}.jsonl", job, opened, config, rows=50)
    command = [sys.executable, "-m", "unrolled.cli.main", "tune", *STUDY, "--trials", "2"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return expected


def main(folder: str) -> None:
    Path(folder).mkdir(parents=True)
    os.chdir(folder)
    expected = freeze()
    shutil.rmtree("scratch")
    for leftover in [*Path().rglob("*.png"), *Path().rglob("*.lock")]:
        leftover.unlink()
    Path("expected.json").write_text(json.dumps(expected, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
