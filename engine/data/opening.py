"""Open the corpus that sources name: a token file, or text and records that are read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from unrolled.engine.data.corpus import Corpus, read_corpus
from unrolled.engine.data.readers.file_names import is_unnamed, printable_name
from unrolled.engine.data.readers.options import ReadOptions
from unrolled.engine.data.token_files import TOKENS_SUFFIX, EncodedCorpus, read_encoded
from unrolled.engine.errors import CorpusError
from unrolled.engine.process_group import SINGLE_PROCESS, Group


def open_corpus(
    sources: Sequence[str | Path], options: ReadOptions, group: Group = SINGLE_PROCESS
) -> Corpus | EncodedCorpus:
    """Open a token file if it is the only source, else read a corpus by ``read_corpus``.

    Each process of a ``group`` reads the files itself. A pipe can be read only once, so rank 0 broadcasts the corpus.
    """
    if group.size > 1 and any(is_unnamed(source) for source in sources):
        return group.shared(lambda: open_corpus(sources, options))
    if len(sources) == 1 and Path(sources[0]).suffix == TOKENS_SUFFIX:
        if options != ReadOptions():
            given = ", ".join(options.of_records) or "--encoding"
            raise CorpusError(
                f"{printable_name(sources[0])}: {given}: for text; a {TOKENS_SUFFIX} file holds ids, leave that out"
            )
        return read_encoded(sources[0])
    return read_corpus(sources, options)
