"""``unrolled import``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from unrolled.cli import options
from unrolled.cli.console import emphasis, out, print_json, table, warn
from unrolled.engine.cells import CELLS
from unrolled.engine.checkpoint import BEST, SUFFIX, Checkpoint, save_checkpoint
from unrolled.engine.errors import ConfigError
from unrolled.engine.params import parameter_count
from unrolled.engine.run_folder import check_free, drop_earlier, holds_run
from unrolled.export.importing import Imported, import_weights
from unrolled.export.weight_files import READERS, make_tokenizer, read_merges, read_vocabulary, read_weights


def import_model(
    weights: Annotated[
        Path, typer.Argument(help=f"A state_dict of a PyTorch language model, saved as {', '.join(READERS)}.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help=f"Run folder, or checkpoint ({SUFFIX}), to write.")],
    vocabulary: Annotated[
        Path | None,
        typer.Option(
            help="Tokens in the order of their ids: a .json list or object from token to id, or a text file with a "
            "token a line; of byte pairs a .json object with vocabulary and merges."
        ),
    ] = None,
    level: options.Level = "char",
    lowercase: Annotated[bool, typer.Option("--lowercase", help="The model's text was lower-cased.")] = False,
    punctuation: Annotated[bool, typer.Option("--punctuation", help="Punctuation marks are words.")] = False,
    unknown: options.Unknown = None,
    cell: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Where the gates do not say it. " + options.one_of(CELLS)),
    ] = None,
    tie: Annotated[bool, typer.Option("--tie", help="The output layer shares the embedding's matrix.")] = False,
    ignore: Annotated[bool, typer.Option("--ignore", help="Leave out tensors that are no part of the model.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace what is there.")] = False,
    json: options.Json = False,
) -> None:
    """Make a checkpoint of a model trained elsewhere, so that it can be run, exported and verified."""
    path = output if output.suffix == SUFFIX else output / BEST
    if path == output and path.exists() and not force:
        raise ConfigError(f"{path}: is there already; name another file, or say --force")
    earlier = []
    if path != output:
        check_free(output, force, "--force")
        earlier = holds_run(output)
    stored = read_weights(weights)
    found = import_weights(stored.arrays, cell, tie, ignore, stored.dtypes)
    if vocabulary is None:
        raise ConfigError(
            f"--vocabulary is needed: the weights know {found.config.vocab_size} tokens by number alone; name a file with "
            "the tokens in the order of their ids (a .json list or object from token to id, or text with a token a line)"
        )
    tokens = read_vocabulary(vocabulary, level)
    merges = read_merges(vocabulary) if level == "bpe" else ()
    tokenizer = make_tokenizer(tokens, found.config.vocab_size, level, lowercase, punctuation, unknown, merges)
    record = {"imported": {"file": weights.name, "notes": found.notes}}
    save_checkpoint(path, Checkpoint(found.config, found.params, tokenizer, record))
    if earlier:
        drop_earlier(output, BEST)
    if json:
        print_json(
            {
                "source": str(weights),
                "path": str(path),
                "config": found.config.to_dict(),
                "parameters": parameter_count(found.config),
                "tensors": [match._asdict() for match in found.matches],
                "ignored": found.ignored,
                "notes": found.notes,
            }
        )
    else:
        _show(weights, path, found)


def _show(weights: Path, path: Path, found: Imported) -> None:
    shown = table(f"Recognised in {weights.name}", "in the file", "here", "shape", "note")
    for column in shown.columns[1:]:
        column.justify = "left"
    for match in found.matches:
        shown.add_row(match.source or "–", match.name, " × ".join(map(str, match.shape)), match.note)
    out.print(shown)
    for name in found.ignored:
        out.print(f"ignored: {name}")
    for note in found.notes:
        warn(out, note)
    config = found.config
    size = f"{config.cell}, {config.num_layers} × {config.hidden_size}, {config.vocab_size} tokens"
    emphasis(out, f"{weights} -> ", (str(path), "bold"), f" ({size}, {parameter_count(config):,} parameters)")
