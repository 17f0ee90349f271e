"""Define ``unrolled verify``: check a model file."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer
from rich.text import Text

from unrolled.cli.options import shared as options
from unrolled.cli.options.help_texts import default
from unrolled.cli.terminal.console import out, print_json
from unrolled.cli.terminal.exit_codes import CHECK_FAILED
from unrolled.engine.storage.checkpoint import load_checkpoint, resolve_model_file
from unrolled.export.verification.verify import verify as checks_of
from unrolled.runtime import load


def verify(
    file: options.Model,
    against: Annotated[
        str | None,
        typer.Option(
            help="Checkpoint or run folder to compare with. " + default("the one it was made of, if beside it")
        ),
    ] = None,
    json: options.Json = False,
) -> None:
    """Check a model file by what it says of itself. Exit code 1 where it is not that.

    Checked are names and axes, rules of the ONNX specification that only some runtimes enforce, shapes and values of logits,
    greedy and drawn tokens, texts that the file writes by itself, and the digest of weights, config and tokenizer. A file of
    form generate shows no logits, and is checked by its texts. Of other models than language models, outputs and states of
    padded rows are checked instead of texts. A .pt file is a program: its step, choose and generate are run.
    """
    path = resolve_model_file(file)
    checks = []
    for check in checks_of(path, load, load_checkpoint(against) if against else None):
        checks.append(check)
        if not json:
            mark = ("ok    ", "green") if check.ok else ("FAILED", "bold red")
            out.print(Text.assemble(mark, f"  {check.name:<26} {check.detail}"))
    ok = all(check.ok for check in checks)
    if json:
        print_json({"file": str(path), "ok": ok, "checks": [asdict(check) for check in checks]})
    elif ok:
        if not any(check.name.startswith("sizes") for check in checks):
            out.print("No checkpoint that it was made of lies beside it; it was checked by what it says of itself.")
        out.print(Text(f"{path} is what it says.", style="bold"))
    if not ok:
        raise typer.Exit(CHECK_FAILED)
