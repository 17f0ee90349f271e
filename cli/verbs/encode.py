"""Define ``unrolled encode``: write a token file."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from unrolled.cli.options import shared as options
from unrolled.cli.options.groups import OptionGroup, options_of, with_groups
from unrolled.cli.options.written_files import check_output
from unrolled.cli.terminal.console import emphasis, out, print_json
from unrolled.engine.data.config import DataConfig
from unrolled.engine.data.readers.options import ReadOptions
from unrolled.engine.data.token_file_writer import encode_files
from unrolled.engine.data.token_files import ID_SETTINGS, TOKENS_SUFFIX, read_encoded
from unrolled.engine.errors import ConfigError
from unrolled.engine.settings import SettingTable

Tokenization = Annotated[DataConfig, options_of(DataConfig, *ID_SETTINGS)]
FileEncoding = Annotated[
    str, OptionGroup(SettingTable(ReadOptions).only(["encoding"]), lambda options: options["encoding"])
]


@with_groups
def encode(
    corpus: Annotated[list[Path], typer.Argument(help="Plain text files of any size, also .gz, .zst and pipes.")],
    output: Annotated[Path, typer.Option("--output", "-o", help=f"Token file ({TOKENS_SUFFIX}) to write.")],
    *,
    config: Tokenization,
    encoding: FileEncoding,
    overwrite: options.Overwrite = False,
    json: options.Json = False,
) -> None:
    """Turn text into a token file once, piece by piece, so that training needs no memory for it.

    `unrolled train FILE.tokens` then reads the ids from the disk as it goes. The settings here take the place of train's.
    """
    if output.suffix != TOKENS_SUFFIX:
        raise ConfigError(f"{output}: needs a name that ends in {TOKENS_SUFFIX}, by which train knows it")
    check_output(output, overwrite, corpus)
    started = time.perf_counter()
    size = encode_files(corpus, output, config, encoding)
    seconds = time.perf_counter() - started
    written = read_encoded(output)
    if json:
        print_json(
            {
                "output": str(output),
                "characters": written.characters,
                "tokens": len(written.ids),
                "parts": list(written.parts),
                "vocabulary": len(written.tokenizer.vocabulary),
                "seconds": seconds,
                "bytes_per_s": size / seconds,
            }
        )
        return
    emphasis(
        out,
        f"{written.name} -> ",
        (str(output), "bold"),
        f": {written.characters:,} characters, {len(written.ids):,} of {len(written.tokenizer.vocabulary):,} tokens, "
        f"{size / 1e6 / seconds:,.0f} MB/s",
    )
