"""The golden table of tokenisers, whole and in pieces; the same table is tested in the hosts of other languages."""

from __future__ import annotations

import numpy as np
import pytest
from golden_tokenizers import GOLDEN, GoldenTokenizer

from unrolled.engine.errors import UnknownTokenError
from unrolled.engine.tokenizers import pieces as pieces_module
from unrolled.engine.tokenizers.registry import tokenizer_from_dict


@pytest.mark.parametrize("golden", GOLDEN.values(), ids=GOLDEN)
def test_texts_have_the_tokens_of_the_table(golden: GoldenTokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = tokenizer_from_dict(golden.description)
    for text, tokens, decoded in golden.cases:
        for size in (1 << 22, 1, 2, 3):
            monkeypatch.setattr(pieces_module, "PIECE_CHARS", size)
            ids = golden.ids(tokens)
            if ids is None:
                with pytest.raises(UnknownTokenError):
                    tokenizer.encode(text)
                continue
            np.testing.assert_array_equal(tokenizer.encode(text), np.array(ids, np.int64), strict=True)
            assert tokenizer.decode(ids) == decoded
            streamer = tokenizer.streamer()
            assert "".join([*map(streamer.feed, ids), streamer.flush()]) == decoded
            if tokenizer.level != "word":  # whose words do not include the markers of special tokens
                assert tokenizer.decode(tokenizer.encode(decoded)) == decoded


@pytest.mark.parametrize("golden", GOLDEN.values(), ids=GOLDEN)
def test_descriptions_are_read_as_they_are_written(golden: GoldenTokenizer) -> None:
    tokenizer = tokenizer_from_dict(golden.description)
    assert tokenizer.to_dict() == golden.description
    assert tokenizer.format_version == (2 if "normalize" in golden.description else 1)


def test_alarm_another_form_has_other_tokens() -> None:
    for name in ("word NFC", "char NFC", "char NFKC"):
        golden = GOLDEN[name]
        other = tokenizer_from_dict({**golden.description, "normalize": "none", "unknown": "skip"})
        assert any(other.encode(text).tolist() != golden.ids(tokens) for text, tokens, _ in golden.cases if tokens)
