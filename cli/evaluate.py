"""``unrolled eval``."""

from __future__ import annotations

from typing import Annotated

import typer

from unrolled.cli import options
from unrolled.cli.console import out, print_json
from unrolled.engine.batches import make_batches
from unrolled.engine.corpus import ReadOptions, read_corpus
from unrolled.engine.evaluation import evaluate as score
from unrolled.engine.evaluation import step_evaluator
from unrolled.runtime import load


def evaluate(
    model: options.Model,
    corpus: options.CorpusArgument = None,
    column: options.Column = None,
    field: options.Field = None,
    encoding: options.Encoding = "utf-8",
    batching: Annotated[
        str | None,
        typer.Option(
            metavar="stream|records",
            help="[default: records for a model with <bos>, else stream]",
            show_default=False,
        ),
    ] = None,
    batch: Annotated[int, typer.Option(help="Lanes or records at a time; 1 carries one state through all.")] = 1,
    length: Annotated[int, typer.Option(help="Tokens a call of a stream; changes no figure.")] = 512,
    engine: options.Engine = None,
    json: options.Json = False,
) -> None:
    """Score a text: loss, perplexity, bits per token, accuracy and the number of tokens predicted.

    The whole text is scored, as one stream whose state is carried from the first token to the last, or record by record.
    """
    opened = load(model, engine)
    text = read_corpus(corpus or (), ReadOptions(column, field, encoding))
    records = batching == "records" or (batching is None and opened.tokenizer.bos_id is not None)
    longest = length if not records else max(length, *(len(record) + 1 for record in text.records))
    batches = make_batches(text.records if records else text.text, opened.tokenizer, batch, longest)
    metrics = score(step_evaluator(opened), opened.config, batches)
    if json:
        print_json({"model": model, "engine": opened.engine, "corpus": text.name, **metrics.to_dict()})
        return
    out.print(f"[bold]{text.name}[/] by {model} on {opened.engine}")
    out.print(f"  loss            {metrics.loss:.4f} nats a token")
    out.print(f"  perplexity      {metrics.perplexity:.3f}")
    out.print(f"  bits_per_token  {metrics.bits_per_token:.4f}")
    out.print(f"  accuracy        {metrics.accuracy:.2%}")
    out.print(f"  tokens          {metrics.tokens:,}")
