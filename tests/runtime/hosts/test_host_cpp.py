"""The C++ host, built on libtorch, against Python: same file, seed and prompt, same text."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import hosts
import models
import numpy as np
import pytest
import same_text

from unrolled.cli.options.shared import unescape
from unrolled.engine.errors import UnknownTokenError
from unrolled.engine.storage.checkpoint import Checkpoint
from unrolled.engine.tokenizers.characters import CharTokenizer
from unrolled.engine.tokenizers.contract import Tokenizer
from unrolled.engine.tokenizers.vocabulary import BOS, EOS, UNK
from unrolled.engine.tokenizers.words import WordTokenizer
from unrolled.export.formats import export_model
from unrolled.runtime import generate, load
from unrolled.runtime.generation.requests.prompts import prompt_tokens

FOLDER = hosts.HOSTS / "cpp"
COMPILER = shutil.which("g++")


def build(folder: Path, number: int) -> subprocess.CompletedProcess[str]:
    """Run a block of commands of the README, to the letter, in a copy of the host: 1 is the compiler's line, 2 is CMake."""
    pytest.importorskip("torch", reason="the torch extra is not installed")
    if COMPILER is None or not sys.platform.startswith("linux"):
        pytest.skip("needs g++ on Linux")
    blocks = re.findall(r"```sh\n(.*?)```", (FOLDER / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    shutil.copytree(FOLDER, folder, ignore=shutil.ignore_patterns("build", "generate"))
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    command = ["bash", "-euo", "pipefail", "-c", blocks[number]]
    return subprocess.run(
        command, cwd=folder, env={**os.environ, "PATH": path}, capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program, built once by the compiler's line: half a minute."""
    folder = tmp_path_factory.mktemp("cpp") / "host"
    done = build(folder, 1)
    assert done.returncode == 0, done.stderr
    return folder / "generate"


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("cmake") is None, reason="CMake is not installed")
def test_cmake_builds_it(tmp_path: Path) -> None:
    done = build(tmp_path / "host", 2)
    if "CUDA cannot be found" in done.stderr:
        pytest.skip("torch is a build with CUDA, whose CMake files need the CUDA toolkit")
    assert done.returncode == 0, done.stdout + done.stderr
    path = export_model(models.checkpoint("gru"), tmp_path / "model.pt", "torchscript")
    (row,) = generate(load(path), ["abc"], max_new_tokens=40, seed=3)
    shown = run(tmp_path / "host" / "build" / "generate", path, "--prompt", "abc", "--tokens", 40, "--seed", 3)
    assert (shown.returncode, shown.stdout) == (0, "abc" + row.text + "\n"), shown.stderr


def run(program: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([str(program), *map(str, arguments)], capture_output=True, check=False, timeout=120)
    # as bytes until here: reading text would make every carriage return a line end
    return subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())


def ids(program: Path, *arguments: object) -> list[list[int]] | None:
    """Tokens of each prompt and tokens written behind it, one after the other; None where the program refused."""
    done = run(program, *arguments, "--ids")
    if done.returncode == 2:
        return None
    assert done.returncode == 0, done.stderr
    return [[int(n) for n in line.split()] for line in done.stdout.splitlines()]


def typed(prompt: str) -> str:
    """A prompt as an option that stands for it."""
    return prompt.replace("\\", "\\\\")


def options_of(settings: dict[str, Any]) -> list[str]:
    """The options for settings of ``generate``."""
    if not settings.get("do_sample", True):
        return ["--greedy"]
    return [part for name, value in settings.items() for part in (f"--{name.replace('_', '-')}", str(value))]


SETTINGS: tuple[dict[str, Any], ...] = (
    {"do_sample": False},
    {"temperature": 0},
    {"seed": 2**63 + 1, "temperature": 0.9, "top_k": 40, "top_p": 0.95},
    {"seed": 2**53 + 1},
)


@pytest.mark.slow
@pytest.mark.parametrize("level", hosts.TOKENIZERS)
@pytest.mark.parametrize("cell", ["rnn", "gru", "lstm"])
def test_texts_are_pythons(tmp_path: Path, program: Path, cell: str, level: str) -> None:
    path = export_model(hosts.checkpoint(cell, level), tmp_path / "model.pt", "torchscript")
    model = load(path)
    asked = [part for prompt in hosts.PROMPTS for part in ("--prompt", typed(prompt))]
    for settings in SETTINGS:
        rows = generate(model, hosts.PROMPTS, max_new_tokens=70, **settings)
        tokens = [(prompt_tokens(model.tokenizer, row.prompt).tolist(), list(row.tokens)) for row in rows]
        arguments = (path, *asked, "--tokens", 70, *options_of(settings))
        assert ids(program, *arguments) == [line for pair in tokens for line in pair]
    separator = model.tokenizer.separator
    texts = [row.prompt + separator(row.prompt, row.text) + row.text + "\n" for row in rows]
    assert run(program, *arguments).stdout == ("-" * 40 + "\n").join(texts)


@pytest.mark.slow
def test_prompts_are_typed_as_for_the_command(tmp_path: Path, program: Path) -> None:
    known = sorted(set(r"abnt\n" + "\n\t"))
    path = export_model(_checkpoint(CharTokenizer(known)), tmp_path / "model.pt", "torchscript")
    model = load(path)
    for given in (r"a\nb", r"\t", r"\\n", r"a\\\nb", r"\a\b", "a\\", r"\\\t\n\\", "\n", "\\"):
        text = unescape(given)
        tokens = ids(program, path, "--prompt", given, "--tokens", 5)
        assert tokens == [
            model.tokenizer.encode(text).tolist(),
            list(generate(model, [text], max_new_tokens=5)[0].tokens),
        ]
    assert unescape(r"\\n\n") == "\\n\n"
    assert run(program, path, "--prompt", r"a\nb", "--tokens", 1).stdout.startswith("a\nb")
    assert r"\n is a line end, \t a tab and \\ a backslash" in run(program, "--help").stdout


@pytest.mark.slow
@pytest.mark.parametrize("level", same_text.LEVELS)
@pytest.mark.parametrize("cell", same_text.CELLS)
def test_long_texts_are_numpys(tmp_path: Path, program: Path, cell: str, level: str) -> None:
    reference = same_text.reference(cell, level)
    path = export_model(reference.checkpoint, tmp_path / "model.pt", "torchscript")
    asked = [part for prompt in reference.prompts for part in ("--prompt", typed(prompt))]
    for settings in same_text.SETTINGS.values():
        lines = ids(program, path, *asked, "--tokens", same_text.TOKENS, *options_of(settings))
        assert lines is not None
        assert reference.faults(lines[1::2], settings) == []


def _checkpoint(tokenizer: Tokenizer) -> Checkpoint:
    config = models.config("rnn", 1, vocab_size=len(tokenizer.vocabulary))
    return Checkpoint.of_language_model(config, models.params(config, np.float32), tokenizer, {})


@pytest.mark.slow
@pytest.mark.parametrize("lowercase", [False, True])
@pytest.mark.parametrize("unknown", ["error", "replace", "skip"])
def test_tokenizers_are_pythons(tmp_path: Path, program: Path, unknown: str, lowercase: bool) -> None:
    known = "".join(sorted(set(hosts.TRICKY))[::2])  # every other character
    words = hosts.word_tokenizer(unknown, lowercase, punctuation=True)
    few = [UNK, BOS, EOS, *words.vocabulary[3::2]]
    texts = [hosts.TRICKY, hosts.TRICKY + " ".join(hosts.random_texts(300))]
    for tokenizer in (
        CharTokenizer.fit(known, specials=(UNK,), unknown=unknown, lowercase=lowercase),
        words if unknown == "error" else WordTokenizer(few, unknown, lowercase, True),
        WordTokenizer(few, unknown, lowercase, False),
    ):
        path = export_model(_checkpoint(tokenizer), tmp_path / "model.pt", "torchscript")
        for text in texts if unknown == "error" else texts[1:]:
            try:
                expected = prompt_tokens(tokenizer, text).tolist()
            except UnknownTokenError:
                expected = None
            got = ids(program, path, "--prompt", typed(text), "--tokens", 1)
            assert (got and got[0]) == expected, (tokenizer.to_dict(), text)


@pytest.mark.slow
@pytest.mark.parametrize("lowercase", [False, True])
def test_byte_pairs_are_pythons(tmp_path: Path, program: Path, lowercase: bool) -> None:
    tokenizer = hosts.bpe_tokenizer(lowercase=lowercase)
    path = export_model(_checkpoint(tokenizer), tmp_path / "model.pt", "torchscript")
    for text in (
        hosts.TRICKY,
        *hosts.TRICKY.split("\n"),
        "  a" + " " * 70 + "b" * 70,
        " ".join(hosts.random_texts(300)),
    ):
        got = ids(program, path, "--prompt", typed(text), "--tokens", 1)
        assert got is not None
        assert got[0] == prompt_tokens(tokenizer, text).tolist()
    # random weights write bytes that are no UTF-8, and end within characters
    for seed in range(12):
        done = run(program, path, "--prompt", "the", "--tokens", 30 + seed, "--seed", seed)
        expected = generate(load(path), ["the"], max_new_tokens=30 + seed, seed=seed)[0]
        assert done.stdout == "the" + expected.text + "\n"


@pytest.mark.slow
def test_what_is_wrong_is_one_line(tmp_path: Path, program: Path) -> None:
    path = export_model(models.checkpoint(), tmp_path / "model.pt", "torchscript")
    (tmp_path / "text.pt").write_text("hello, this is no model")
    (tmp_path / "short.pt").write_bytes(path.read_bytes()[:-700])
    torch = pytest.importorskip("torch")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), tmp_path / "foreign.pt")
    for arguments, message in (
        ([], "needs a model file"),
        ([tmp_path / "none.pt"], "there is no such file"),
        ([tmp_path / "text.pt"], "not a TorchScript file"),
        ([tmp_path / "short.pt"], "not a TorchScript file"),
        ([tmp_path / "foreign.pt"], "not one of unrolled's"),
        ([tmp_path], "not a TorchScript file"),
        ([path], "the prompt has no token to start from"),
        ([path, "--prompt", "ab😀"], 'no character "😀"'),
        ([path, "--prompt", "ab", "--prompt", "ab😀"], 'no character "😀"'),
        ([path, "--prompt", "ab\udcff"], "not valid UTF-8"),
        ([path, "--prompt"], "--prompt: needs a value"),
        ([path, "--tempo", "1"], "--tempo: no such option"),
        ([path, "--temperature", "1e-7"], '--temperature: got "1e-7", needs 0, which is greedy, or a number'),
        ([path, "--temperature", "-1"], '--temperature: got "-1", needs 0, which is greedy, or a number from 1e-06'),
        ([path, "--temperature", "nan"], '--temperature: got "nan", needs 0, which is greedy, or a number from 1e-06'),
        ([path, "--top-p", "nan"], '--top-p: got "nan"'),
        ([path, "--top-k", "-1"], '--top-k: got "-1"'),
        ([path, "--tokens", "1.5"], '--tokens: got "1.5", needs a whole number'),
        ([path, "--seed", str(2**64)], "--seed: got"),
    ):
        done = run(program, *arguments)
        assert (done.returncode, done.stdout) == (2, ""), arguments
        assert done.stderr.startswith("error: ")
        assert message in done.stderr
        assert done.stderr.count("\n") == 1
