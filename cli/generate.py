"""``unrolled generate``."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated, Any

import typer

from unrolled.cli import decoding, options
from unrolled.cli.console import print_json
from unrolled.engine.text import Tokenizer
from unrolled.runtime import BeamConfig, Generation, GenerationConfig, beam_search, generate, load
from unrolled.runtime.prompts import start_prompt


def generate_text(
    model: options.Model,
    prompt: options.Prompts = None,
    max_new_tokens: Annotated[int, typer.Option(help="The most tokens written behind a prompt.")] = 200,
    greedy: Annotated[bool, typer.Option("--greedy", help="Always the most probable token, no drawing.")] = False,
    temperature: decoding.Temperature = 1.0,
    top_k: decoding.TopK = 0,
    top_p: decoding.TopP = 1.0,
    min_p: decoding.MinP = 0.0,
    typical_p: decoding.TypicalP = 1.0,
    repetition_penalty: decoding.RepetitionPenalty = 1.0,
    no_repeat_ngram_size: decoding.NoRepeatNgramSize = 0,
    bad_word: decoding.BadWords = None,
    suppress_token: decoding.SuppressTokens = None,
    bias: decoding.Bias = None,
    min_new_tokens: decoding.MinNewTokens = 0,
    forced_prefix: decoding.ForcedPrefix = "",
    stop: decoding.Stop = None,
    logprobs: decoding.Logprobs = False,
    num_beams: decoding.NumBeams = 1,
    length_penalty: decoding.LengthPenalty = 1.0,
    early_stopping: decoding.EarlyStopping = "false",
    number: Annotated[int, typer.Option("-n", "--number", help="Texts for each prompt.")] = 1,
    seed: options.Seed = 0,
    engine: options.Engine = None,
    precision: options.Precision = "float32",
    json: options.Json = False,
) -> None:
    r"""Write text behind one or several prompts.

    In a prompt and in texts of options \n is a line end, \t a tab and \\ a backslash.
    Without a prompt a line end (or <bos>) begins the text.
    """
    opened = load(model, engine, precision)
    prompts = [options.unescape(text) for text in prompt or []] or [start_prompt(opened.tokenizer)]
    settings: dict[str, Any] = {
        "temperature": temperature,
        "top_k": top_k,
        "top_p": top_p,
        "seed": seed,
        "min_p": min_p,
        "typical_p": typical_p,
        "repetition_penalty": repetition_penalty,
        "no_repeat_ngram_size": no_repeat_ngram_size,
        "bad_words": options.unescape_all(bad_word),
        "suppress_tokens": options.unescape_all(suppress_token),
        "sequence_bias": decoding.biases(bias),
        "min_new_tokens": min_new_tokens,
        "forced_prefix": options.unescape(forced_prefix),
        "max_new_tokens": max_new_tokens,
        "stop": options.unescape_all(stop),
        "num_return_sequences": number,
        "logprobs": logprobs,
    }
    beams = decoding.beams(num_beams, length_penalty, early_stopping)
    started = time.perf_counter()
    if beams:
        texts: Sequence[Generation] = beam_search(opened, prompts, BeamConfig(**settings, **beams))
    else:
        texts = generate(opened, prompts, GenerationConfig(do_sample=not greedy, **settings))
    seconds = time.perf_counter() - started
    if json:
        tokens = sum(len(text.tokens) for text in texts)
        speed = {"tokens": tokens, "seconds": seconds, "tokens_per_s": tokens / seconds}
        print_json({"engine": opened.engine, **speed, "texts": [asdict(text) for text in texts]})
        return
    _print_texts(opened.tokenizer, texts)


def _print_texts(tokenizer: Tokenizer, texts: Sequence[Generation]) -> None:
    join = " " if tokenizer.level == "word" else ""
    for place, text in enumerate(texts):
        if place > 0:
            print("-" * 40)
        print(text.prompt + (join if text.prompt and text.text else "") + text.text)
