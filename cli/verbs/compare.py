"""Define ``unrolled compare``: compare all engines and files of a model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer
from rich.console import Console

from unrolled.bench.parity.agreement import Agreement, Implementation, implementations
from unrolled.bench.parity.agreement import compare as compare_all
from unrolled.cli.options import shared as options
from unrolled.cli.terminal.console import err, out, print_json, warn
from unrolled.cli.terminal.exit_codes import CHECK_FAILED
from unrolled.cli.terminal.tables import percentage, rate, table
from unrolled.engine.storage.checkpoint import CHECKPOINT_SUFFIX

MOST_DIVERGENCES = 8  # divergences shown for each engine; --json has all


def compare(
    run: Annotated[str, typer.Argument(help="A run folder or a checkpoint; exported files beside it take part.")],
    prompt: options.Prompts = None,
    tokens: Annotated[int, typer.Option(help="Written behind each prompt, greedily and sampled.")] = 200,
    number: Annotated[int, typer.Option("-n", "--number", help="Texts sampled behind each prompt.")] = 1,
    seed: options.Seed = 0,
    json: options.Json = False,
) -> None:
    """Run every engine and file of a model on the same prompts, each in its own process, and hold them against NumPy's.

    Shown are the largest difference of a logit, the shares of equal tokens, and the speed of sampled generation; and where
    sampled texts first differ, and how near to a border between two tokens that draw was. Exit code 1 where nothing but the
    reference ran.
    """
    prompts = [options.unescape(text) for text in prompt or []]
    agreements = run_compare(implementations(run), prompts, tokens, number, seed, err)
    if json:
        asked = {"reference": "numpy", "tokens": tokens, "number": number}
        print_json({**asked, "agreement": [a.to_dict() for a in agreements]})
    else:
        show_agreements(out, agreements)
    others = agreements[1:]  # the first is the reference
    if others and all(one.error is not None for one in others):
        warn(err, "nothing was compared: the reference alone ran")
        raise typer.Exit(CHECK_FAILED)


def run_compare(
    compared: Sequence[Implementation], prompts: Sequence[str], tokens: int, number: int, seed: int, console: Console
) -> list[Agreement]:
    """Return all agreements; in a terminal a status line names the engine or file that is running."""
    with console.status("comparing") as status:

        def say(one: Implementation) -> None:
            status.update(f"comparing: {one.name}")

        return list(compare_all(compared, prompts, tokens, number, seed, say))


def show_agreements(console: Console, agreements: Sequence[Agreement]) -> None:
    shown = table(
        "Agreement with NumPy; speed in tokens/s, 1 and 64 texts at once",
        "engine",
        "logit error",
        "greedy",
        "sampled",
        "speed, 1",
        "speed, 64",
    )
    for a in agreements:
        if a.error is not None:
            continue
        shown.add_row(
            a.engine if a.source.endswith(CHECKPOINT_SUFFIX) else a.source,
            "-" if a.max_logit_error is None else f"{a.max_logit_error:.1e}",
            percentage(a.greedy_match),
            percentage(a.sampled_match),
            rate(a.tokens_per_s_1),
            rate(a.tokens_per_s_64),
        )
    console.print(shown, soft_wrap=False)
    for a in agreements:
        if a.error is not None:
            warn(console, f"{a.engine} did not run: {a.error}")
        elif a.remark is not None:
            warn(console, f"{a.source}: {a.remark}")
        if a.divergences:
            show_divergences(console, a)


def show_divergences(console: Console, agreement: Agreement) -> None:
    """Print the number of texts that differ, and where the first ones diverge and why."""
    found = agreement.divergences or ()
    faults = sum(not divergence.explained for divergence in found)
    name = agreement.engine if agreement.source.endswith(CHECKPOINT_SUFFIX) else agreement.source
    verdict = f"{faults} of them by more than rounding explains" if faults else "each by rounding"
    warn(
        console, f"{name}: {percentage(agreement.equal_texts)} of the texts are equal, {len(found)} are not, {verdict}"
    )
    for divergence in sorted(found, key=lambda divergence: divergence.explained)[:MOST_DIVERGENCES]:
        margin = (
            "which NumPy cannot draw there" if divergence.margin is None else f"{divergence.margin:.1e} from the border"
        )
        console.print(
            f"  text {divergence.index}, step {divergence.step}: token {divergence.got} for {divergence.expected}, {margin}"
        )
    if len(found) > MOST_DIVERGENCES:
        console.print("  …")
