"""The plan of a study: its options, its space, its limits and its pruner."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from unrolled.engine.canonical import canonical
from unrolled.engine.checks import check_choice
from unrolled.engine.cores import usable_cores
from unrolled.engine.data.corpus import Corpus
from unrolled.engine.data.splits import DEFAULT_SPLIT
from unrolled.engine.data.token_files import EncodedCorpus
from unrolled.engine.errors import ConfigError
from unrolled.engine.runs.recipe import make_experiment, with_default_limit
from unrolled.engine.settings import POSITIVE, Range, Setting, check_settings
from unrolled.engine.storage.json_text import finite
from unrolled.export.training_engines import TRAINABLES
from unrolled.tuning.space import Space, check_space
from unrolled.tuning.trial import RUNGS

STARTUP = 5  # trials before the sampler has losses to learn from, and before any trial is pruned
FIRST_RUNG = 2  # at which a trial may be pruned
PRUNERS: dict[str, Callable[[Any], Any]] = {
    "median": lambda optuna: optuna.pruners.MedianPruner(n_startup_trials=STARTUP - 1, n_warmup_steps=FIRST_RUNG),
    "hyperband": lambda optuna: optuna.pruners.HyperbandPruner(min_resource=1, max_resource=RUNGS, reduction_factor=3),
    "none": lambda optuna: optuna.pruners.NopPruner(),
}


@dataclass(frozen=True)
class Plan:
    """The plan of a study.

    Args:
        options: fixed options of ``train``, by the names of recipes.
        space: options that are searched instead.
        trials: their number in all, those of earlier processes included.
        minutes: no trial starts after them; running ones are finished.
        jobs: trials at a time, each in a process with its share of the cores.
        pruner: a key of ``PRUNERS``.
    """

    options: Mapping[str, Any]
    space: Space
    trials: Annotated[
        int, Setting("trials", "Trials in all, those of an earlier start included.", range=Range("at least 1", 1))
    ] = 20
    minutes: Annotated[
        float | None,
        Setting("minutes", "Minutes after which no new trial begins, counted from this start.", range=POSITIVE),
    ] = None
    jobs: Annotated[int, Setting("jobs", "Trials at a time, each with its share of the cores.")] = 1
    pruner: Annotated[str, Setting("pruner", "Which trials are given up early.", choices=PRUNERS)] = "median"

    def __post_init__(self) -> None:
        object.__setattr__(self, "options", with_default_limit(self.options))
        check_settings(self)
        check_choice("engine", self.options.get("engine", "numba"), TRAINABLES)
        threads_of(self.jobs)
        check_space(self.space, self.options)
        split = self.options.get("split", DEFAULT_SPLIT)
        # alone, because the other options may need those that are searched
        if not make_experiment({"split": split}).data.split[1]:
            raise ConfigError(f"split: got {split}; a search goes by the loss on a validation part")

    @property
    def lanes(self) -> int | None:
        """Return the lanes of validation, the smallest of the batch sizes that are searched; None if they are not."""
        domain = self.space.get("batch")  # fewer lanes start from a zero state less often
        return None if domain is None else min(int(value) for value in domain.extremes if value is not None)

    def options_of(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """Return all options of a trial that are set, as a recipe has them."""
        return {name: value for name, value in {**self.options, **params}.items() if value is not None}

    def settings(self, corpus: Corpus | EncodedCorpus) -> dict[str, Any]:
        """Return everything on which the trials depend, to be stored in the folder."""
        fixed = {name: value for name, value in self.options.items() if name not in self.space}
        # by name, because the default of words is not that of release 0.1.0, with whose studies losses would not compare
        fixed["normalize"] = make_experiment(
            {"level": fixed.get("level"), "normalize": fixed.get("normalize")}
        ).data.normalization
        named = {"name": corpus.name, "characters": corpus.characters, "sha256": corpus.digest}
        space = {name: f"{name}={domain}" for name, domain in self.space.items()}
        return finite(
            {"corpus": named, "options": canonical(Plan, fixed), "search": space, "study": {"pruner": self.pruner}}
        )


def threads_of(jobs: int) -> int | None:
    """Return the threads of each of so many processes, a share of the cores; None for one process, which needs no limit.

    Raises:
        ConfigError: there are more jobs than cores.
    """
    cores = usable_cores()
    if not 1 <= jobs <= cores:
        raise ConfigError(
            f"jobs: got {jobs}, needs 1 to {cores}, the cores that there are; more would wait for each other"
        )
    return None if jobs == 1 else cores // jobs
