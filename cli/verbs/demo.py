"""Define ``unrolled demo``: train, export, generate and compare on the built-in corpus, by the public commands."""

from __future__ import annotations

import contextlib
import shlex
import subprocess
import sys
import webbrowser
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.panel import Panel
from rich.text import Text

from unrolled.bench.machine.system import package_version
from unrolled.bench.parity.agreement import REFERENCE_ENGINE, Agreement, Implementation, implementations
from unrolled.cli.options import shared as options
from unrolled.cli.terminal.console import out, warn
from unrolled.cli.terminal.tables import rate, table
from unrolled.cli.verbs.compare import run_compare, show_agreements
from unrolled.engine.errors import ConfigError, MissingDependencyError
from unrolled.engine.models.heads.next_token import NextTokenHead
from unrolled.engine.runs.run_files import find_run_files
from unrolled.engine.storage.atomic_files import write_atomically
from unrolled.engine.storage.checkpoint import load_checkpoint, resolve_model_file
from unrolled.engine.storage.json_text import to_json
from unrolled.export.formats import SINGLE_FILES, default_name, export_model
from unrolled.export.training_engines import TRAINABLES
from unrolled.export.web import find_onnxruntime_web
from unrolled.report.loss_curves import draw_loss_curves
from unrolled.runtime import generate, load_language_model
from unrolled.runtime.web_server import WebServer

DEMO_OPTIONS = shlex.split(
    "--cell lstm --layers 1 --hidden 192 --batch 32 --length 64 --lr 2e-3 --schedule constant --seed 1"
)
GRACE_S = 10.0  # for an interrupted training to end by itself
PROMPTS = ("The ", "A class ", ">>> ")


def demo(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to write.")] = Path("unrolled-demo"),
    seconds: Annotated[float, typer.Option(help="Training time of all engines together, shared out equally.")] = 150.0,
    overwrite: Annotated[bool, typer.Option(help="Replace an earlier demo in the folder.")] = True,
    web: Annotated[
        bool, typer.Option("--web", help="Open the trained network in a browser; trains first only if there is none.")
    ] = False,
    onnxruntime_web: options.OnnxruntimeWeb = None,
) -> None:
    """Train one network with three engines on real text, export it twice, generate with all, and compare.

    Writes a run folder for each engine, model.onnx, model.pt, the curves and summary.json.
    """
    if onnxruntime_web is not None and not web:
        raise ConfigError("--onnxruntime-web: is for --web")
    if web:
        find_onnxruntime_web(onnxruntime_web)  # fail now rather than after the training
    if not (web and find_run_files(output / "numba")):
        _run_demo(output, seconds, overwrite)
    if web:
        _open_page(output / "numba", onnxruntime_web)


def _open_page(run: Path, onnxruntime_web: Path | None) -> None:
    """Export a run as a page, serve it on this computer until Ctrl-C, and open it in a browser."""
    checkpoint = load_checkpoint(resolve_model_file(run))
    folder = export_model(checkpoint, run / default_name("web"), "web", onnxruntime_web=onnxruntime_web)
    with WebServer(folder) as server:
        out.print(f"{folder} is at {server.url} (Ctrl-C ends)")
        opened = webbrowser.open(server.url)
        if not opened:
            out.print("No browser was found here; open the address in one.")
        with contextlib.suppress(KeyboardInterrupt):
            server.wait()


def _run_demo(output: Path, seconds: float, overwrite: bool) -> None:
    if not seconds > 0:
        raise ConfigError(f"seconds: got {seconds}, needs a number above 0")
    if output.exists() and not output.is_dir():
        raise ConfigError(f"{output}: is a file, a folder was expected")
    engines = [name for name in TRAINABLES if name != "torch" or package_version("torch")]
    if "torch" not in engines:
        warn(out, 'torch is not installed, so its twin is left out: pip install "unrolled[torch]"')
    runs = {name: output / name for name in engines}
    for name, folder in runs.items():
        _train(name, folder, seconds / len(engines), overwrite)
    best = load_checkpoint(runs["numba"])
    artifacts = {f"run_{name}": folder for name, folder in runs.items()}
    for name in SINGLE_FILES:
        if name != "torchscript" or "torch" in engines:
            artifacts[name] = export_model(best, runs["numba"] / default_name(name), name)
    _heading("The trained network on every engine and in every file")
    # Each engine once: training engines on the checkpoint, runtimes on their exported files.
    files = [str(artifacts[name]) for name in SINGLE_FILES if name in artifacts]
    compared = [c for c in implementations(runs["numba"]) if c.engine in engines or c.model in files]
    agreements = run_compare(compared, PROMPTS, tokens=200, number=1, seed=1, console=out)
    samples = _samples(compared)
    _curves(runs, artifacts)
    summary = _summary(engines, runs, artifacts, agreements, samples)
    artifacts["summary"] = output / "summary.json"
    write_atomically(artifacts["summary"], to_json(summary, indent=2).encode())
    _show_summary(summary, agreements, artifacts)


def _heading(text: str) -> None:
    out.rule(Text(text, style="bold"), align="left")


def _train(engine: str, folder: Path, seconds: float, overwrite: bool) -> None:
    """Train in a separate process, because the thread pools of the engines would disturb each other in one."""
    arguments = ["train", "--engine", engine, *DEMO_OPTIONS, "--seconds", f"{seconds:g}", "-o", str(folder)]
    _heading(f"Training with {engine}")
    out.print(f"$ unrolled {shlex.join(arguments)}", style="bold")
    command = [sys.executable, "-m", "unrolled.cli", *arguments, *(["--overwrite"] if overwrite else [])]
    process = subprocess.Popen(command)
    try:
        code = process.wait()
    except KeyboardInterrupt:  # Ctrl-C in a terminal also reached the training, which saves; SIGTERM did not
        try:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(GRACE_S)
        finally:  # also after a second Ctrl-C
            process.terminate()
            process.wait()
        raise
    if code != 0:
        raise typer.Exit(code)


def _samples(compared: Sequence[Implementation]) -> list[dict[str, str]]:
    """Return a text for each prompt from every engine and file, with the same draws."""
    samples = []
    for one in compared:
        model = load_language_model(one.model, one.engine)
        for text in generate(model, PROMPTS, max_new_tokens=400, temperature=0.6, seed=1):
            samples.append({"engine": model.engine, "prompt": text.prompt, "text": text.text})
    return samples


def _curves(runs: dict[str, Path], artifacts: dict[str, Path]) -> None:
    picture = runs["numba"].parent / "curves.png"
    try:
        draw_loss_curves(runs, picture, NextTokenHead.metrics[0], "One network, one seed, three engines")
        artifacts["curves"] = picture
    except MissingDependencyError as error:
        warn(out, f"no picture of the curves: {error}")


def _summary(
    engines: Sequence[str],
    runs: dict[str, Path],
    artifacts: dict[str, Path],
    agreements: Sequence[Agreement],
    samples: list[dict[str, str]],
) -> dict[str, Any]:
    figures = {}
    for name in engines:
        result = load_checkpoint(runs[name] / "last.safetensors").training["result"]
        figures[name] = {
            "val_loss": result["best"]["loss"],
            "val_perplexity": result["best"]["perplexity"],
            "tokens_per_s": result["tokens_per_s"],
            "steps": result["steps"],
            "seconds": result["seconds"],
            "first_call_s": result["first_call_s"],
        }
    return {
        "corpus": load_checkpoint(runs[REFERENCE_ENGINE]).training["corpus"],
        "engines": figures,
        "artifacts": {name: str(path) for name, path in artifacts.items()},
        "agreement": [agreement.to_dict() for agreement in agreements],
        "samples": samples,
    }


def _show_summary(summary: dict[str, Any], agreements: Sequence[Agreement], artifacts: dict[str, Path]) -> None:
    trained = table("Training", "engine", "validation loss", "perplexity", "tokens/s", "steps", "seconds")
    for name, row in summary["engines"].items():
        trained.add_row(
            name,
            f"{row['val_loss']:.4f}",
            f"{row['val_perplexity']:.2f}",
            rate(row["tokens_per_s"]),
            f"{row['steps']:,}",
            f"{row['seconds']:.0f}",
        )
    out.print(trained, soft_wrap=False)
    show_agreements(out, agreements)
    _show_samples(summary["samples"])
    _heading("Written")
    for path in artifacts.values():
        out.print(f"  {path}")
    onnx = artifacts["onnx"]
    out.print(f'\nNext: unrolled generate {onnx} --prompt "def " --temperature 0.7')
    out.print(f"      unrolled demo --web -o {artifacts['run_numba'].parent}    # in a browser")


def _show_samples(samples: Sequence[dict[str, str]]) -> None:
    """Print each text once, with the names of all engines that wrote it."""
    for prompt in PROMPTS:
        writers: dict[str, list[str]] = {}
        for sample in samples:
            if sample["prompt"] == prompt:
                writers.setdefault(sample["text"], []).append(sample["engine"])
        for text, names in writers.items():
            title = f"written by {', '.join(names)}"
            out.print(Panel(Text.assemble((prompt, "bold"), text), title=title, title_align="left"), soft_wrap=False)
