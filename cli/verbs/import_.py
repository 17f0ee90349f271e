"""Define ``unrolled import``: make a checkpoint of a model trained elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from unrolled.cli.options import shared as options
from unrolled.cli.options.groups import OptionGroup, options_of, with_groups
from unrolled.cli.options.help_texts import one_of
from unrolled.cli.options.written_files import check_output
from unrolled.cli.terminal.console import emphasis, out, print_json, warn
from unrolled.cli.terminal.tables import table
from unrolled.engine.data.config import DataConfig
from unrolled.engine.errors import ConfigError
from unrolled.engine.models.cells import CELLS
from unrolled.engine.models.parameters import parameter_count
from unrolled.engine.runs.run_files import check_free, find_run_files, remove_earlier_run
from unrolled.engine.settings import Setting, SettingTable
from unrolled.engine.storage.checkpoint import BEST_CHECKPOINT, CHECKPOINT_SUFFIX, Checkpoint, save_checkpoint
from unrolled.engine.tokenizers.preparation import NO_NORMALIZATION, NORMALIZATIONS
from unrolled.export.importing.language_model import Imported, import_weights
from unrolled.export.importing.vocabulary_files import make_tokenizer, read_merges, read_vocabulary
from unrolled.export.importing.weight_files import read_weights


@dataclass(frozen=True)
class StateDictChoice:
    """The model of a file that is imported."""

    state_dict_key: Annotated[
        str | None,
        Setting("state_dict", "Which model of a file that holds several, for instance an average.", metavar="KEY"),
    ] = None


StateDictOptions = Annotated[StateDictChoice, options_of(StateDictChoice)]


@with_groups
def import_model(
    weights: Annotated[
        Path,
        typer.Argument(
            help="A state_dict of a PyTorch language model: .safetensors, or what torch.save wrote, by any name."
        ),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help=f"Run folder, or checkpoint ({CHECKPOINT_SUFFIX}), to write.")
    ],
    vocabulary: Annotated[
        Path | None,
        typer.Option(
            help="Tokens in the order of their ids: a .json list or object from token to id, or a text file with a "
            "token a line; of byte pairs a .json object with vocabulary and merges."
        ),
    ] = None,
    lowercase: Annotated[bool, typer.Option("--lowercase", help="The model's text was lower-cased.")] = False,
    normalize: Annotated[
        str,
        typer.Option(metavar="NAME", help=f"Unicode form of the model's text. {one_of(NORMALIZATIONS)}"),
    ] = NO_NORMALIZATION,
    punctuation: Annotated[bool, typer.Option("--punctuation", help="Punctuation marks are words.")] = False,
    cell: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Where the gates do not say it. " + one_of(CELLS)),
    ] = None,
    tie: Annotated[bool, typer.Option("--tie", help="The output layer shares the embedding's matrix.")] = False,
    embedding: Annotated[
        str | None, typer.Option(metavar="NAME", help="The embedding's matrix, where its name does not say it.")
    ] = None,
    output_layer: Annotated[
        str | None, typer.Option(metavar="NAME", help="The output layer's matrix, where its name does not say it.")
    ] = None,
    recurrent: Annotated[
        str | None, typer.Option(metavar="NAME", help="The recurrent layers' module, where there are several.")
    ] = None,
    ignore: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Leave out a tensor on which the logits do not depend; a pattern with *, may be repeated. Refused for "
            "tensors that are known to change the logits.",
        ),
    ] = None,
    overwrite: options.Overwrite = False,
    force: options.Force = False,
    json: options.Json = False,
    *,
    stored: StateDictOptions,
    tokens: Annotated[Mapping[str, Any], OptionGroup(SettingTable(DataConfig).only(["level", "unknown"]))],
) -> None:
    """Make a checkpoint of a model trained elsewhere, so that it can be run, exported and verified."""
    overwrite = overwrite or force
    path = output if output.suffix == CHECKPOINT_SUFFIX else output / BEST_CHECKPOINT
    earlier = []
    if path != output:
        check_free(output, overwrite)
        earlier = find_run_files(output)
    for name in earlier:  # files of an earlier run, which are removed at the end
        check_output(output / name, overwrite, [weights])
    check_output(path, overwrite, [weights])
    tensors = read_weights(weights, stored.state_dict_key)
    found = import_weights(tensors.arrays, cell, tie, ignore or (), tensors.dtypes, embedding, output_layer, recurrent)
    found.notes[:0] = tensors.notes
    if vocabulary is None:
        raise ConfigError(
            f"--vocabulary is needed: the weights know {found.config.vocab_size} tokens by number alone; name a file with "
            "the tokens in the order of their ids (a .json list or object from token to id, or text with a token a line)"
        )
    level, unknown = tokens["level"], tokens["unknown"]
    words = read_vocabulary(vocabulary, level)
    merges = read_merges(vocabulary) if level == "bpe" else ()
    tokenizer = make_tokenizer(
        words, found.config.vocab_size, level, lowercase, punctuation, unknown, merges, normalize
    )
    record = {"imported": {"file": weights.name, "notes": found.notes}}
    save_checkpoint(path, Checkpoint.of_language_model(found.config, found.params, tokenizer, record))
    if earlier:
        remove_earlier_run(output, BEST_CHECKPOINT)
    if json:
        print_json(
            {
                "source": str(weights),
                "path": str(path),
                "config": found.config.to_dict(),
                "parameters": parameter_count(found.config.spec),
                "tensors": [match._asdict() for match in found.matches],
                "ignored": found.ignored,
                "notes": found.notes,
            }
        )
    else:
        _show_import(weights, path, found)


def _show_import(weights: Path, path: Path, found: Imported) -> None:
    shown = table(f"Recognised in {weights.name}", "in the file", "here", "shape", "note")
    for column in shown.columns[1:]:
        column.justify, column.no_wrap = "left", False
    for match in found.matches:
        shown.add_row(match.source or "–", match.name, " × ".join(map(str, match.shape)), match.note)
    out.print(shown)
    for note in found.notes:
        warn(out, note)
    config = found.config
    size = f"{config.cell}, {config.num_layers} × {config.hidden_size}, {config.vocab_size} tokens"
    emphasis(out, f"{weights} -> ", (str(path), "bold"), f" ({size}, {parameter_count(config.spec):,} parameters)")
