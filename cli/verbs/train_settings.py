"""Options of ``train`` that decide a training, for verbs that run trial trainings."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Annotated, Any, get_args, get_origin

import typer

from unrolled.cli.options import shared as options
from unrolled.cli.options.effects import refuse
from unrolled.cli.verbs.train import train
from unrolled.engine.runs.recipe import TRAINING_OPTIONS

TRAIN_SETTINGS = (*options.READING, "engine", "precision", *TRAINING_OPTIONS)
IGNORED = ("samples", "tensorboard")  # options of train that recipes may contain


def with_settings(hidden: tuple[str, ...] = ()) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return a decorator that appends the settings of ``train`` to a verb, which takes them as ``**settings``.

    Args:
        hidden: settings without effect on the verb: its help does not show them, and typing one is refused; recipes may
            contain them.
    """

    def decorate(verb: Callable[..., None]) -> Callable[..., None]:
        own = [p for p in _parameters(verb) if p.kind is not p.VAR_KEYWORD]
        taken = [p for p in _parameters(train) if p.name in (*TRAIN_SETTINGS, *IGNORED)]
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
    annotation = parameter.annotation
    kind = get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation
    return parameter.replace(annotation=Annotated[kind, typer.Option(hidden=True, callback=refuse)])
