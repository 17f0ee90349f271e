"""Define ``unrolled eval``: score files as in training."""

from __future__ import annotations

from typing import Annotated

import typer

from unrolled.cli.options import shared as options
from unrolled.cli.options.engines import EngineOptions
from unrolled.cli.options.groups import with_groups
from unrolled.cli.options.help_texts import default, one_of
from unrolled.cli.terminal.console import emphasis, err, out, print_json, show_readings
from unrolled.engine.data.evaluation_batches import batches_to_score
from unrolled.engine.data.opening import open_corpus
from unrolled.engine.data.records import RecordBatches
from unrolled.engine.data.splits import BATCHINGS, PARTS
from unrolled.engine.training.evaluation import count_unknown, evaluate_tokens


@with_groups
def evaluate(
    model: options.Model,
    corpus: options.CorpusArgument = None,
    part: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help=f"Score only this part of the corpus that the model was trained on, split as then. {one_of(PARTS)}",
        ),
    ] = None,
    batching: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help=f"How the text is read. {one_of(BATCHINGS)} {default('records for a model with <bos>, else stream')}",
        ),
    ] = None,
    batch: Annotated[
        int | None,
        typer.Option(help="Lanes or records at a time. " + default("1; with --part as in training")),
    ] = None,
    length: Annotated[
        int | None,
        typer.Option(help="Tokens a call of a stream. " + default("512; with --part as in training")),
    ] = None,
    *,
    reading: options.Reading,
    engine: EngineOptions,
    json: options.Json = False,
) -> None:
    """Score a text: loss, perplexity, bits per token, accuracy and the number of tokens predicted.

    A whole text is scored as one stream whose state is carried from the first token to the last, or record by record.
    With --part and the defaults the figures are those that the training showed.
    """
    opened = engine.load(model)
    text = open_corpus(corpus or (), reading)
    batches = batches_to_score(text, opened.tokenizer, opened.training, part, batching, batch, length)
    metrics = evaluate_tokens(opened, batches)
    unknown = count_unknown(batches, opened.tokenizer.unk_id)
    readings = text.read_as("records" if isinstance(batches, RecordBatches) else "stream")
    if json:
        show_readings(err, readings)
        read = [reading.to_dict() for reading in readings]
        figures = {**metrics.to_dict(), "unknown": unknown, "read": read}
        print_json({"model": model, "engine": opened.engine, "corpus": text.name, "part": part, **figures})
        return
    emphasis(out, (text.name, "bold"), f"{', ' + part if part else ''} by {model} on {opened.engine}")
    show_readings(out, readings)
    out.print(f"  loss            {metrics.loss:.4f} nats a token")
    out.print(f"  perplexity      {metrics.perplexity:.3f}")
    out.print(f"  bits_per_token  {metrics.bits_per_token:.4f}")
    out.print(f"  accuracy        {metrics.accuracy:.2%}")
    out.print(f"  tokens          {metrics.tokens:,}")
    if unknown is not None:
        out.print(f"  unknown         {unknown:,} ({unknown / metrics.tokens:.2%})")
