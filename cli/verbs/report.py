"""Define ``unrolled report``: write a page about runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from unrolled.cli.options import shared as options
from unrolled.cli.options.groups import with_groups
from unrolled.cli.options.help_texts import default
from unrolled.cli.options.refusals import refuse_reading
from unrolled.cli.options.written_files import check_output
from unrolled.cli.terminal.console import err, out, show_readings
from unrolled.engine.data.corpus import read_corpus
from unrolled.engine.errors import ConfigError
from unrolled.report.page import write_report


@with_groups
def report(
    context: typer.Context,
    runs: Annotated[list[Path], typer.Argument(metavar="RUN…", help="Run folders, shown together.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Page to write, .html.")] = Path("report.html"),
    text: Annotated[
        list[str] | None,
        typer.Option(
            help="Text that the networks are shown, best the one they were trained on, of which the validation part is taken; "
            "may be repeated. " + default("the run's own corpus, where it can be found")
        ),
    ] = None,
    *,
    reading: options.Reading,
    overwrite: options.Overwrite = False,
) -> None:
    """Write one page about one run or several: curves, differences, samples, and what the networks do with a text.

    The page is one file that loads nothing. A run's own corpus is a built-in one, or a file of the corpus's name in this
    folder or near the run that holds the very text of the training. (unrolled bench report is about measurements.)
    """
    if output.suffix.lower() not in (".html", ".htm"):
        raise ConfigError(f"--output: got {output}, needs a name that ends in .html")
    check_output(output, overwrite, text or ())
    if text is None:
        refuse_reading(context, reading, "--text")
    corpus = None if text is None else read_corpus(text, reading)
    if corpus is not None:
        show_readings(err, corpus.readings)
    write_report(runs, output, corpus)
    out.print(str(output))
