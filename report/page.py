"""One page about several runs in a single file, with styles, script, figures and images inside."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from importlib import metadata, resources
from pathlib import Path

from unrolled.engine.data.corpus import Corpus
from unrolled.engine.storage.atomic_files import write_atomically
from unrolled.report.curves import curves
from unrolled.report.inside import gate_sections, gradient_section, probe_run, reading_sections
from unrolled.report.markup import text_of
from unrolled.report.runs import Run, read_runs
from unrolled.report.tables import key_figures, name_of, samples, settings


def write_report(runs: Sequence[Path], output: Path, corpus: Corpus | None = None) -> None:
    """Write the page of ``runs`` to ``output``; an earlier page is replaced once the new one is complete.

    Args:
        runs: run folders.
        corpus: text that the networks read; None: each run's own corpus, if it can be found.

    Raises:
        ConfigError, ModelFileError: a run is missing, damaged, or named twice.
        OSError: the disk is full, or the folder cannot be written.
    """
    write_atomically(output, page(read_runs(runs), corpus).encode())


def page(runs: Sequence[Run], corpus: Corpus | None = None) -> str:
    """Return the page as HTML; equal runs and texts give equal pages."""
    found = [probe_run(run, corpus) for run in runs]
    sections = {
        "figures": ("Key figures", "", key_figures(runs)),
        "curves": ("Curves", "", curves(runs)),
        "settings": ("Settings" if len(runs) == 1 else "What differs", "", settings(runs)),
        "samples": (
            "What they wrote",
            "The same draws at every validation, so that only the weights differ.",
            samples(runs),
        ),
        "surprise": (
            "Surprise",
            "How unlikely each token was to the best model of a run: −ln p. Colour goes from none to that of a blind guess.",
            reading_sections(runs, found),
        ),
        "gates": (
            "Gates",
            "Activations while reading that text. First a histogram (square roots of counts); then a dot a unit, the share "
            "of the text at which it is within a tenth of either end; then units, ordered by their mean, over the first "
            "tokens: orange is positive, blue negative, paper is nothing.",
            gate_sections(runs, found),
        ),
        "gradients": (
            "Gradients",
            "How much the loss of one step depends on the state some tokens before it, with the best weights; and the norm of "
            "the gradient of the mean loss by parameter.",
            gradient_section(runs, found),
        ),
    }
    body = "".join(
        f'<section id="{name}"><h2>{title}</h2>{f"<p class=lead>{lead}</p>" if lead else ""}{content}</section>'
        for name, (title, lead, content) in sections.items()
    )
    links = "".join(f'<li><a href="#{name}">{title}</a></li>' for name, (title, _, _) in sections.items())
    return _document(runs, f'<nav aria-label="Sections"><ul>{links}</ul></nav><main>{body}</main>')


def _document(runs: Sequence[Run], body: str) -> str:
    folder = resources.files("unrolled.report")
    style, script = (folder.joinpath(name).read_text("utf-8") for name in ("page.css", "page.js"))
    # Only this script may run, and nothing is loaded from elsewhere, whatever a text on the page contains.
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'unsafe-inline'; img-src data:; script-src 'sha256-{digest}'"
    names = ", ".join(run.label for run in runs)
    corpora = ", ".join(dict.fromkeys(run.corpus for run in runs))
    keys = "".join(f"<li>{name_of(run, color)}</li>" for color, run in enumerate(runs))
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="generator" content="unrolled">'
        f"<title>{text_of(names)}</title><style>{style}</style></head><body>"
        f"<header><p>Training report</p><h1>{text_of(corpora)}</h1><ul class='keys'>{keys}</ul></header>{body}"
        f"<footer>unrolled {metadata.version('unrolled')}</footer><script>{script}</script></body></html>\n"
    )
