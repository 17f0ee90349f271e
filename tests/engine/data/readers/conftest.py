"""The ways to read a text file."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from corpus_reading import READERS


@pytest.fixture(params=READERS)
def read(request: pytest.FixtureRequest) -> Callable[..., str]:
    return READERS[request.param]
