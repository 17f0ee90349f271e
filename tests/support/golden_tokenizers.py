"""Texts, their tokens and the decoded texts, written by hand: every host's tokeniser is tested against this one table."""

from __future__ import annotations

from typing import Any, NamedTuple

from unrolled.engine.tokenizers.byte_pairs import BYTE_SIGNS


class GoldenTokenizer(NamedTuple):
    """A description of a tokeniser, and for each text its tokens and what they decode to; None: the text is refused."""

    description: dict[str, Any]
    cases: tuple[tuple[str, tuple[str, ...] | None, str], ...]

    def ids(self, tokens: tuple[str, ...] | None) -> list[int] | None:
        return None if tokens is None else [self.description["vocabulary"].index(token) for token in tokens]


def _described(level: str, vocabulary: list[str], unknown: str, lowercase: bool, **more: Any) -> dict[str, Any]:
    return {"level": level, "vocabulary": vocabulary, "unknown": unknown, "lowercase": lowercase, **more}


DOTTED = "i\u0307stanbul"  # the lower case of İstanbul: no composed character exists
PERSIAN = "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645"  # with a joiner inside the word
HEART = "\u2764\ufe0f"  # a symbol and a variation selector, which is a combining mark
ORDERED = "q\u0323\u0307"  # marks in canonical order
WORDS = [
    "<unk>",
    "na\u00efve",
    DOTTED,
    "οδοσ",
    "한국어",
    "हिन्दी",
    "é",
    "𐐨",
    "don't",
    "l\u2019\u00e9té",
    PERSIAN,
    ORDERED,
]
MARKS = ["<", "unk", ">", "eos", ".", HEART, "\u0301", "a", "(", ")"]

WORD_NFC = GoldenTokenizer(
    _described("word", WORDS + MARKS, "replace", True, punctuation=True, normalize="NFC"),
    (
        ("", (), ""),
        (" \n\u2028", (), ""),
        ("nai\u0308ve na\u00efve NAI\u0308VE", ("na\u00efve",) * 3, "na\u00efve na\u00efve na\u00efve"),
        ("İstanbul I\u0307stanbul", (DOTTED, DOTTED), f"{DOTTED} {DOTTED}"),
        ("ΟΔΟΣ οδοσ οδος", ("οδοσ", "οδοσ", "<unk>"), "οδοσ οδοσ <unk>"),
        ("\u1112\u1161\u11ab\u1100\u116e\u11a8\u110b\u1165", ("한국어",), "한국어"),
        ("하\u11ab국어", ("한국어",), "한국어"),
        ("हिन्दी e\u0301.", ("हिन्दी", "é", "."), "हिन्दी é."),
        ("\U00010400 𐐨", ("𐐨", "𐐨"), "𐐨 𐐨"),
        ("Don't l\u2019e\u0301te\u0301", ("don't", "l\u2019\u00e9té"), "don't l\u2019été"),
        (PERSIAN, (PERSIAN,), PERSIAN),
        ("q\u0307\u0323 q\u0323\u0307", (ORDERED, ORDERED), f"{ORDERED} {ORDERED}"),
        ("<unk> <eos>", ("<", "unk", ">", "<", "eos", ">"), "< unk > < eos >"),
        (f"a{HEART}(a)", ("a", HEART, "(", "a", ")"), f"a {HEART} (a)"),
        (" \u0301 a \u0301a", ("\u0301", "a", "\u0301", "a"), "\u0301 a \u0301 a"),
        ("\u00e9\u0301", ("<unk>",), "<unk>"),
    ),
)

OLD_WORD = GoldenTokenizer(  # as release 0.1.0 splits: no normalisation, and a combining mark ends a word
    _described(
        "word",
        ["<unk>", "nai", "ve", "na\u00efve", "i", "stanbul", "\u0307", "\u0308"],
        "replace",
        True,
        punctuation=True,
    ),
    (
        ("nai\u0308ve na\u00efve", ("nai", "\u0308", "ve", "na\u00efve"), "nai \u0308 ve na\u00efve"),
        ("İstanbul", ("i", "\u0307", "stanbul"), "i \u0307 stanbul"),
    ),
)

LINES = ["<unk>", "<eos>", "the", "The", "cat", "N", ".", "na\u00efve", "\u0301", "𐐀", DOTTED]
STREAM = GoldenTokenizer(
    _described("whitespace", LINES, "replace", False, normalize="NFC"),
    (
        ("", (), ""),
        ("\n", ("<eos>",), "\n"),
        (" \n\n ", ("<eos>", "<eos>"), "\n\n"),
        ("the cat", ("the", "cat"), "the cat"),
        (" the  cat . \n The N \n", ("the", "cat", ".", "<eos>", "The", "N", "<eos>"), "the cat .\nThe N\n"),
        ("the <unk> cat zebra\n", ("the", "<unk>", "cat", "<unk>", "<eos>"), "the <unk> cat <unk>\n"),
        ("the <eos> cat", ("the", "<eos>", "cat"), "the\ncat"),
        ("the\r\ncat\r", ("the", "<eos>", "cat"), "the\ncat"),
        (
            "the\u00a0cat\u2028N\u3000the\x1ccat\x85N\t.",
            ("the", "cat", "N", "the", "cat", "N", "."),
            "the cat N the cat N .",
        ),
        ("the\u200bcat the\ufeffcat", ("<unk>", "<unk>"), "<unk> <unk>"),
        ("nai\u0308ve the.", ("na\u00efve", "<unk>"), "na\u00efve <unk>"),
        ("\u0301 \u0301\n𐐀 İstanbul", ("\u0301", "\u0301", "<eos>", "𐐀", "<unk>"), "\u0301 \u0301\n𐐀 <unk>"),
        ("i\u0307stanbul", (DOTTED,), DOTTED),
        ("<bos> <UNK>", ("<unk>", "<unk>"), "<unk> <unk>"),
    ),
)
RECORDS = GoldenTokenizer(
    _described("whitespace", ["<unk>", "<bos>", "<eos>", "the", "cat"], "skip", True, normalize="none"),
    (
        ("THE\ncat\n", ("the", "cat"), "the cat"),
        ("the zebra <unk> cat", ("the", "<unk>", "cat"), "the <unk> cat"),
        ("\n", (), ""),
    ),
)
STRICT = GoldenTokenizer(
    _described("whitespace", ["<eos>", "na\u00efve", "a"], "error", False, normalize="none"),
    (("na\u00efve\na", ("na\u00efve", "<eos>", "a"), "na\u00efve\na"), ("nai\u0308ve", None, ""), ("<unk>", None, "")),
)
CHAR_NFC = GoldenTokenizer(
    _described(
        "char",
        ["é", "e", "\u0301", "\u1ec7", "한", "\U0001d157", "\U0001d165", "Å", "\n"],
        "error",
        False,
        normalize="NFC",
    ),
    (
        ("e\u0301\u00e9", ("é", "é"), "éé"),
        ("\u0301e", ("\u0301", "e"), "\u0301e"),
        ("e\u0302\u0323", ("\u1ec7",), "\u1ec7"),
        ("\u1112\u1161\u11ab", ("한",), "한"),
        ("\U0001d15e", ("\U0001d157", "\U0001d165"), "\U0001d157\U0001d165"),  # never composed
        ("\u212b\n", ("Å", "\n"), "Å\n"),
        ("a", None, ""),
    ),
)
CHAR_NFD = GoldenTokenizer(
    _described("char", ["e", "i", "\u0301", "\u0307", "\u1112", "\u1161", "\u11ab"], "skip", True, normalize="NFD"),
    (
        ("É!", ("e", "\u0301"), "e\u0301"),
        ("İ", ("i", "\u0307"), "i\u0307"),
        ("한", ("\u1112", "\u1161", "\u11ab"), "\u1112\u1161\u11ab"),
    ),
)
CHAR_NFKC = GoldenTokenizer(
    _described("char", [*"fi12F\u2044 ", "é", "\u30ac"], "error", False, normalize="NFKC"),
    (
        ("ﬁ①Ｆ½", ("f", "i", "1", "F", "1", "\u2044", "2"), "fi1F1\u20442"),
        ("e\u0301\u00a0", ("é", " "), "é "),
        ("\uff76\uff9e", ("\u30ac",), "\u30ac"),  # half-width characters, composed
    ),
)
CHAR_NFKD = GoldenTokenizer(
    _described("char", [*"fie", "\u0301"], "error", False, normalize="NFKD"),
    (("ﬁé", ("f", "i", "e", "\u0301"), "fie\u0301"),),
)
BYTES = GoldenTokenizer(
    _described("bpe", ["<bos>", "<eos>", *BYTE_SIGNS, "Ã©"], "error", False, merges=[[197, 171]], normalize="NFC"),
    (("e\u0301\u00e9", ("Ã©", "Ã©"), "éé"), ("\ne", ("Ċ", "e"), "\ne")),
)

GOLDEN: dict[str, GoldenTokenizer] = {
    "word NFC": WORD_NFC,
    "word of 0.1.0": OLD_WORD,
    "whitespace, a stream": STREAM,
    "whitespace, records": RECORDS,
    "whitespace, strict": STRICT,
    "char NFC": CHAR_NFC,
    "char NFD": CHAR_NFD,
    "char NFKC": CHAR_NFKC,
    "char NFKD": CHAR_NFKD,
    "bpe NFC": BYTES,
}
