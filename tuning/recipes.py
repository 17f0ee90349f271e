"""Recipe of the best trial, for ``train --recipe``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from unrolled.engine.data.corpus import Corpus
from unrolled.engine.data.token_files import EncodedCorpus
from unrolled.engine.storage.atomic_files import write_atomically
from unrolled.tuning.outcomes import Trial
from unrolled.tuning.plan import Plan


def _toml(value: Any) -> str:
    """Return a bool, number or text as TOML; strings of JSON are basic strings of TOML except for the delete character."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _key(name: str) -> str:
    return name.replace("_", "-")


def _comment(line: str) -> str:
    """Return a line that TOML accepts, whatever characters a file's name has."""
    return "".join(char if char.isprintable() else "?" for char in " ".join(line.split()))


def recipe_text(options: Mapping[str, Any], searched: Mapping[str, Any], comment: list[str]) -> str:
    """Return a TOML file of all options that are set: searched ones first, then the fixed ones."""
    lines = [f"# {_comment(line)}" for line in comment]
    lines += ["", "# found"] + [f"{_key(name)} = {_toml(options[name])}" for name in searched if name in options]
    lines += ["", "# as given"] + [f"{_key(name)} = {_toml(options[name])}" for name in options if name not in searched]
    return "\n".join(lines) + "\n"


def write_best(path: Path, trial: Trial, plan: Plan, corpus: Corpus | EncodedCorpus) -> None:
    """Write the recipe of a trial atomically; its comment names the study and the corpus."""
    lanes = f" in {plan.lanes} lanes" if plan.lanes is not None else ""
    comment = [
        f"Validation loss {trial.loss:.4f} nats a token{lanes}, trial {trial.number} of a study by unrolled tune",
        f"on {corpus.name} ({corpus.characters:,} characters, SHA-256 {corpus.digest[:16]}…).",
        "Its limit is a trial's: to train for longer, change it here.",
    ]
    text = recipe_text(plan.options_of(trial.params), trial.params, comment)
    write_atomically(path, text.encode(errors="replace"))  # UTF-8 has no lone surrogates
