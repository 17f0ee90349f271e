"""Define ``unrolled score``: score or rank texts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from unrolled.cli.options import shared as options
from unrolled.cli.options.engines import EngineOptions
from unrolled.cli.options.groups import with_groups
from unrolled.cli.options.help_texts import one_of
from unrolled.cli.options.refusals import refuse_unused
from unrolled.cli.terminal.console import err, out, print_json, show_readings
from unrolled.cli.terminal.tables import table
from unrolled.engine.checks import check_choice
from unrolled.engine.data.corpus import read_corpus
from unrolled.engine.data.evaluation_batches import batches_to_score
from unrolled.engine.data.readers.options import ReadOptions
from unrolled.engine.data.records import RecordBatches
from unrolled.engine.errors import ConfigError
from unrolled.engine.models.step_contract import StepModel
from unrolled.engine.training.evaluation import evaluate_tokens
from unrolled.runtime import rank
from unrolled.runtime.scoring import ORDERS, TextScore
from unrolled.runtime.scoring import score as score_texts


@with_groups
def score(
    context: typer.Context,
    model: options.Model,
    file: Annotated[
        list[str] | None, typer.Argument(help="Files, each scored as unrolled eval does; - for standard input.")
    ] = None,
    text: Annotated[list[str] | None, typer.Option("--text", "-t", help="Text to score; may be repeated.")] = None,
    prompt: Annotated[str | None, typer.Option("--prompt", "-p", help="Stands before the texts; not counted.")] = None,
    alternative: Annotated[
        list[str] | None, typer.Option("--alternative", "-a", help="Text to rank against the others; may be repeated.")
    ] = None,
    by: Annotated[
        str, typer.Option(metavar="NAME", help=f"What alternatives are ranked by. {one_of(ORDERS)}")
    ] = "logprob",
    eos: Annotated[bool, typer.Option("--eos", help="Count the <eos> behind each text too.")] = False,
    tokens: Annotated[bool, typer.Option("--tokens", help="Show each token.")] = False,
    *,
    reading: options.Reading,
    engine: EngineOptions,
    json: options.Json = False,
) -> None:
    r"""Log-probability and perplexity of texts, of files, or of alternatives behind a prompt, the most probable first.

    In texts \n is a line end, \t a tab and \\ a backslash. Log-probabilities are in nats; without <bos> or a prompt
    the first token of a text is not counted.
    """
    if sum(map(bool, (file, text, alternative))) != 1:
        raise ConfigError("score: needs one of --text, --alternative or files")
    if file and (prompt is not None or eos or tokens):
        raise ConfigError("score: --prompt, --eos and --tokens do not go with files")
    check_choice("by", by, ORDERS)
    if not alternative:
        refuse_unused(context, ["by"], "goes with alternatives")
    if not file:
        refuse_unused(context, ["encoding"], "goes with files")
    if not file and reading.of_records:
        raise ConfigError(f"{', '.join(reading.of_records)}: go with files")
    opened = engine.load(model)
    if file:
        _print_files(opened, [_score_file(opened, name, reading) for name in file], json)
        return
    before = None if prompt is None else options.unescape(prompt)
    texts = options.unescape_all(text or alternative)
    if alternative:
        scores = rank(opened, before, texts, by=by, eos=eos)
        shares = _shares(scores)
    else:
        scores, shares = score_texts(opened, texts, before, eos=eos), [None] * len(texts)
    if json:
        found = [one.to_dict(opened.tokenizer) for one in scores]
        rows = [row if share is None else {**row, "share": share} for row, share in zip(found, shares, strict=True)]
        print_json({"engine": opened.engine, "texts": rows})
        return
    _print_scores(scores, shares)
    if tokens:
        _print_tokens(opened, scores)


def _score_file(model: StepModel, name: str, reading: ReadOptions) -> dict[str, Any]:
    corpus = read_corpus([name], reading)
    batches = batches_to_score(corpus, model.tokenizer, model.training)
    readings = corpus.read_as("records" if isinstance(batches, RecordBatches) else "stream")
    show_readings(err, readings)
    metrics = evaluate_tokens(model, batches)
    total = -metrics.loss * metrics.tokens
    return {
        "file": name,
        "logprob": total,
        "mean": -metrics.loss,
        "perplexity": metrics.perplexity,
        "tokens": metrics.tokens,
        "read": [reading.to_dict() for reading in readings],
    }


def _shares(scores: Sequence[TextScore]) -> list[float | None]:
    """Return the probability of each alternative, given that one of them occurs."""
    best = max(score.logprob for score in scores)
    weights = [math.exp(score.logprob - best) for score in scores]
    total = sum(weights)
    return [weight / total for weight in weights]


def _print_files(model: StepModel, found: Sequence[dict[str, Any]], json: bool) -> None:
    if json:
        print_json({"engine": model.engine, "files": found})
        return
    shown = table("", "file", "log p", "a token", "perplexity", "tokens")
    for file in found:
        figures = f"{file['logprob']:.3f}", f"{file['mean']:.4f}", f"{file['perplexity']:.3f}", f"{file['tokens']:,}"
        shown.add_row(file["file"], *figures)
    out.print(shown, soft_wrap=False)


def _print_scores(scores: Sequence[TextScore], shares: Sequence[float | None]) -> None:
    shown = table("", "text", "log p", "a token", "perplexity", "tokens", *([] if None in shares else ["share"]))
    for score, share in zip(scores, shares, strict=True):
        figures = f"{score.logprob:.3f}", f"{score.mean:.4f}", f"{score.perplexity:.3f}", f"{len(score.tokens):,}"
        shown.add_row(_short(score.text), *figures, *([] if share is None else [f"{share:.2%}"]))
    out.print(shown, soft_wrap=False)


def _print_tokens(model: StepModel, scores: Sequence[TextScore]) -> None:
    for score in scores:
        shown = table(_short(score.text), "token", "log p", "p")
        for token, logprob in zip(score.tokens.tolist(), score.logprobs.tolist(), strict=True):
            shown.add_row(_visible(model.tokenizer.vocabulary[token]), f"{logprob:.4f}", f"{math.exp(logprob):.2%}")
        out.print(shown, soft_wrap=False)


def _visible(text: str) -> str:
    """Return a text in one line, with line ends and outer blanks made visible."""
    return repr(text) if text != text.strip() or not text.isprintable() else text


def _short(text: str, width: int = 60) -> str:
    return _visible(text if len(text) <= width else text[: width - 2] + " …")
