"""The options of ``train`` that decide a training, for the verbs that try trainings out."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Annotated, Any

import typer

from unrolled.cli.options import shared as options
from unrolled.cli.options.effects import refuse
from unrolled.cli.verbs.train import train
from unrolled.engine.runs.recipe import TRAINING_OPTIONS

SHARED_SETTINGS = (*options.READING, "engine", "precision", *TRAINING_OPTIONS)
IGNORED = ("samples", "tensorboard")  # of train: recipes may have them


def with_settings(hidden: tuple[str, ...] = ()) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """A verb with ``train``'s own settings behind its parameters, which it gets as ``settings``, by their names.

    Args:
        hidden: those that its help does not show and that are refused when they are typed, because they have no effect
            on it; recipes may have them.
    """

    def decorate(verb: Callable[..., None]) -> Callable[..., None]:
        own = [p for p in _parameters(verb) if p.kind is not p.VAR_KEYWORD]
        taken = [p for p in _parameters(train) if p.name in (*SHARED_SETTINGS, *IGNORED)]
        if twice := {p.name for p in own} & {p.name for p in taken}:
            raise TypeError(f"{verb.__name__}: {', '.join(sorted(twice))} comes from train")
        shown = [_hide(p) if p.name in (*hidden, *IGNORED) else p for p in taken]

        @wraps(verb)
        def run(**values: Any) -> None:
            named = {p.name: values[p.name] for p in own}
            verb(**named, **{p.name: values[p.name] for p in taken if p.name not in IGNORED})

        run.__signature__ = inspect.Signature([*own, *shown])  # type: ignore[attr-defined]
        return run

    return decorate


def _parameters(verb: Callable[..., None]) -> list[inspect.Parameter]:
    return list(inspect.signature(verb, eval_str=True).parameters.values())


def _hide(parameter: inspect.Parameter) -> inspect.Parameter:
    kind = parameter.annotation.__origin__ if hasattr(parameter.annotation, "__metadata__") else parameter.annotation
    return parameter.replace(annotation=Annotated[kind, typer.Option(hidden=True, callback=refuse)])
