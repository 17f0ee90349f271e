"""Links between the documents: every file and every heading that a link names exists."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import models
import numpy as np
import onnx
import pytest
from exports import exported

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = [
    Path(name)
    for name in subprocess.run(
        ["git", "ls-files", "*.md"], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.split()
]


def anchors(document: Path) -> set[str]:
    """Return the anchors of a document's headings, as GitHub makes them."""
    text = re.sub(r"^```.*?^```", "", document.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken_links(document: Path) -> list[str]:
    """Return the links of a document that lead nowhere; addresses of other sites are not checked."""
    text = re.sub(r"^```.*?^```", "", document.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    links = re.findall(r"\]\(([^()\s]+)\)", text)
    broken = []
    for link in links:
        name, _, anchor = link.partition("#")
        target = document.parent / name if name else document
        if "://" in link:
            continue
        if not target.exists() or (anchor and (target.suffix != ".md" or anchor not in anchors(target))):
            broken.append(link)
    return broken


@pytest.mark.skipif(not DOCUMENTS, reason="no checkout: git lists no documents")
@pytest.mark.parametrize("document", DOCUMENTS, ids=str)
def test_links_lead_somewhere(document: Path) -> None:
    assert broken_links(ROOT / document) == []


def test_alarm_links_that_lead_nowhere_are_found(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text(
        "# One thing: *two*\n[a](b.md) [b](#one-thing-two) [c](#three) [d](a.md#four) [e](https://x.y/#z)"
    )
    assert broken_links(tmp_path / "a.md") == ["b.md", "#three", "a.md#four"]


def host_of_run_files() -> str:
    """Return the Python host in the description of the files."""
    (block,) = re.findall(
        r"^```python\n(.*?)^```", (ROOT / "docs" / "formats.md").read_text("utf-8"), re.DOTALL | re.MULTILINE
    )
    return block


@pytest.mark.parametrize("bidirectional", [False, True])
def test_the_host_in_the_formats_runs_golden_cases(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bidirectional: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    description = models.spec("lstm", models.MIXTURES[-1], 2, bidirectional)
    path = exported(models.spec_checkpoint(description), tmp_path)
    exec(host_of_run_files(), {})
    graph = onnx.load(path)
    entry = next(prop for prop in graph.metadata_props if prop.key == "unrolled.golden")
    cases = json.loads(entry.value)
    cases[-1]["outputs"]["final_state"]["values"][-1] += 0.01
    entry.value = json.dumps(cases)
    onnx.save(graph, path)
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        exec(host_of_run_files(), {})


def test_the_tagger_of_the_readme_learns_and_runs_from_its_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text("utf-8"), re.DOTALL | re.MULTILINE)
    (block,) = (block for block in blocks if "StepLabelsHead" in block)
    values: dict[str, Any] = {}
    exec(block, values)
    metrics = values["spec"].head.metrics_of(values["sums"])
    assert metrics.accuracy > 0.95
    counted, labels = values["counted"], values["labels"]
    found = values["logits"].argmax(axis=-1)
    assert (found == labels)[counted].mean() > 0.95
    bias = values["tagger"].export_params()["output.bias"]
    padding = np.arange(20)[:, None] >= values["lengths"]
    np.testing.assert_array_equal(values["logits"][padding], np.broadcast_to(bias, (padding.sum(), 5)))
