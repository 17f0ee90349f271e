"""The tokeniser for text that is already tokenised: words separated by white space, and one <eos> a line.

Penn Treebank (the version of T. Mikolov et al., "Recurrent Neural Network Based Language Model", 2010) and WikiText are
distributed in this form: punctuation marks are words of their own, and rare words are replaced by <unk>. Encoded by this
tokeniser, a text has as many tokens as the literature counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from unrolled.engine.errors import ConfigError
from unrolled.engine.tokenizers.pieces import TextOrPieces
from unrolled.engine.tokenizers.preparation import NO_NORMALIZATION
from unrolled.engine.tokenizers.streamers import StatefulTextStreamer, TextStreamer
from unrolled.engine.tokenizers.vocabulary import EOS, SPECIALS, UNK, specials_for
from unrolled.engine.tokenizers.words import WordVocabulary, most_frequent


class _LineStreamer(StatefulTextStreamer):
    """A decoder that joins the words of a line by single spaces."""

    _line_begins = True  # the next word follows without a space

    def feed(self, token: int) -> str:
        word = super().feed(token)
        if not word:
            return ""
        space = "" if self._line_begins or word == "\n" else " "
        self._line_begins = word == "\n"
        return space + word


class WhitespaceTokenizer(WordVocabulary):
    """A tokeniser with one token per word, where words are separated by white space; by default it keeps the case.

    Each line end (U+000A) is the token <eos> if the vocabulary has <eos> and no <bos>, so that a stream keeps its lines. No
    token ends a generated text then. In a vocabulary with <bos>, <eos> ends a record, and a line end is white space.
    All words are looked up in the vocabulary, so that <unk> and <eos> in the text are these tokens. ``decode`` joins words by
    single spaces and gives line ends back.

    Args:
        vocabulary: the special tokens, then the words, most frequent first.
        unknown: policy for a word outside the vocabulary: "error", "replace" (by <unk>) or "skip".
        lowercase: lower-case the text first.
        normalize: one of ``NORMALIZATIONS``, applied to the text first.
    """

    level: ClassVar[str] = "whitespace"
    settings: ClassVar[tuple[str, ...]] = ("lowercase", "normalize", "vocab_size", "unknown")

    def __init__(
        self,
        vocabulary: Sequence[str],
        unknown: str = "replace",
        lowercase: bool = False,
        normalize: str = NO_NORMALIZATION,
    ) -> None:
        super().__init__(vocabulary, unknown, lowercase, normalize)
        if split := [token for token in self.vocabulary if token.split() != [token]]:
            raise ConfigError(f"vocabulary: {split[0]!r} holds white space, which separates words")
        self._keeps_lines = self.eos_id is not None and self.bos_id is None
        if self._keeps_lines:
            self._texts[self._ids[EOS]] = "\n"

    @classmethod
    def fit(
        cls,
        text: TextOrPieces,
        *,
        specials: Sequence[str] = (),
        unknown: str = "replace",
        lowercase: bool = False,
        normalize: str = "NFC",
        vocab_size: int | None = None,
    ) -> WhitespaceTokenizer:
        """Return a tokeniser of the most frequent words of ``text`` (ties alphabetically), at most ``vocab_size`` tokens.

        Without <bos> and <eos> among the special tokens it gets <eos>, for line ends. It has <unk> if the text contains <unk>,
        or if the policy is "replace".
        """
        counts = cls([UNK], "replace", lowercase, normalize)._count(text)
        literal = [UNK] if counts[UNK] and UNK not in specials else []
        wanted = dict.fromkeys([*literal, *specials_for(unknown, specials), EOS])
        for special in SPECIALS:
            del counts[special]
        return cls(most_frequent(counts, wanted, vocab_size), unknown, lowercase, normalize)

    @property
    def format_version(self) -> int:
        """Return the lowest version of the file formats that can describe this tokeniser."""
        return 2

    @property
    def end_id(self) -> int | None:
        """Return the id of the token that ends a generated text: <eos> of records; None for a stream, which has lines."""
        return None if self._keeps_lines else self.eos_id

    def _words(self, text: str) -> list[str]:
        return (text.replace("\n", f" {EOS} ") if self._keeps_lines else text).split()

    def streamer(self) -> TextStreamer:
        """Return a new incremental decoder, which yields each word with the space before it, if any."""
        return _LineStreamer(self._texts)

    def start_prompt(self) -> str:
        """Return the default prompt: a line end if those are tokens, else that of all vocabularies."""
        return "\n" if self._keeps_lines else super().start_prompt()

    def separator(self, prompt: str, text: str) -> str:
        """Return the space between a prompt and the text generated after it, unless there is white space already."""
        return "" if not prompt or prompt[-1].isspace() or text[:1] in ("", "\n") else " "
