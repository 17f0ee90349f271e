"""Figures: groups of a curve's points, files by their suffix, and the error without matplotlib."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from unrolled.engine.errors import MissingDependencyError
from unrolled.engine.plotting.figures import new_figure, save_figure, split_groups, style_axes


def test_groups_are_neighbours_and_the_last_may_be_smaller() -> None:
    assert [group.tolist() for group in split_groups(np.arange(5), 2)] == [[0, 1], [2, 3], [4]]
    assert [group.tolist() for group in split_groups(np.arange(2), 3)] == [[0, 1]]


@pytest.mark.parametrize(("suffix", "magic"), [("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")])
def test_the_suffix_selects_the_format(tmp_path: Path, suffix: str, magic: bytes) -> None:
    pytest.importorskip("matplotlib", reason="the plot extra is not installed")
    figure = new_figure(2, 1)
    axes = figure.add_subplot()
    style_axes(axes)
    axes.set_title("猫")  # the default font lacks it, which must not warn
    save_figure(figure, tmp_path / f"a.{suffix}")
    assert (tmp_path / f"a.{suffix}").read_bytes().startswith(magic)
    visible = {side for side, spine in axes.spines.items() if spine.get_visible()}
    assert visible == {"left", "bottom"}
    assert [path.name for path in tmp_path.iterdir()] == [f"a.{suffix}"]


def test_the_error_without_matplotlib_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingDependencyError, match=r'pip install "unrolled\[plot\]"'):
        new_figure()
