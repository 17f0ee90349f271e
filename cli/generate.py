"""``unrolled generate``."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import Annotated

import typer

from unrolled.cli import options
from unrolled.cli.console import print_json
from unrolled.runtime import GenerationConfig, generate, load
from unrolled.runtime.prompts import start_prompt


def generate_text(
    model: options.Model,
    prompt: options.Prompts = None,
    max_new_tokens: Annotated[int, typer.Option(help="The most tokens written behind a prompt.")] = 200,
    greedy: Annotated[bool, typer.Option("--greedy", help="Always the most probable token, no drawing.")] = False,
    temperature: Annotated[float, typer.Option(help="Below 1: safer; above 1: more varied.")] = 1.0,
    top_k: Annotated[int, typer.Option(help="Draw from the k most probable tokens; 0: all.")] = 0,
    top_p: Annotated[float, typer.Option(help="Draw from the fewest tokens of this joint probability; 1: all.")] = 1.0,
    stop: Annotated[list[str] | None, typer.Option(help="Text at which writing ends; may be repeated.")] = None,
    number: Annotated[int, typer.Option("-n", "--number", help="Texts for each prompt.")] = 1,
    seed: options.Seed = 0,
    engine: options.Engine = None,
    precision: options.Precision = "float32",
    json: options.Json = False,
) -> None:
    r"""Write text behind one or several prompts.

    In a prompt and in --stop, \n is a line end, \t a tab and \\ a backslash.
    Without a prompt a line end (or <bos>) begins the text.
    """
    opened = load(model, engine, precision)
    prompts = [options.unescape(text) for text in prompt or []] or [start_prompt(opened.tokenizer)]
    config = GenerationConfig(
        do_sample=not greedy,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        seed=seed,
        max_new_tokens=max_new_tokens,
        stop=tuple(options.unescape(text) for text in stop or []),
        num_return_sequences=number,
    )
    started = time.perf_counter()
    texts = generate(opened, prompts, config)
    seconds = time.perf_counter() - started
    if json:
        tokens = sum(len(text.tokens) for text in texts)
        speed = {"tokens": tokens, "seconds": seconds, "tokens_per_s": tokens / seconds}
        print_json({"engine": opened.engine, **speed, "texts": [asdict(text) for text in texts]})
        return
    join = " " if opened.tokenizer.level == "word" else ""
    for place, text in enumerate(texts):
        if place > 0:
            print("-" * 40)
        print(text.prompt + (join if text.prompt and text.text else "") + text.text)
