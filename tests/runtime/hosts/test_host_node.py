"""The Node host and the JavaScript modules it is made of, against Python: same file, seed and prompt, same text."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hosts
import models
import numpy as np
import onnx
import pytest
import same_text
from exports import STORED
from golden_tokenizers import GOLDEN

from unrolled.engine.errors import UnknownTokenError
from unrolled.engine.sampling.config import SamplingConfig
from unrolled.engine.sampling.philox import uniforms
from unrolled.engine.sampling.rules import choose
from unrolled.engine.tokenizers.characters import CharTokenizer
from unrolled.engine.tokenizers.contract import Tokenizer
from unrolled.engine.tokenizers.registry import tokenizer_from_dict
from unrolled.engine.tokenizers.vocabulary import BOS, EOS, UNK
from unrolled.engine.tokenizers.words import WordTokenizer
from unrolled.export.artifact.forms import FORMS
from unrolled.export.formats import export_model
from unrolled.export.onnx.reader import read_onnx
from unrolled.export.web import RUNTIME
from unrolled.runtime import generate, load

FOLDER = hosts.HOSTS / "node"
JS = (hosts.HOSTS / "js").as_uri()

pytestmark = pytest.mark.skipif(shutil.which("node") is None, reason="Node is not installed")
needs_runtime = pytest.mark.skipif(
    not (FOLDER / "node_modules" / "onnxruntime-node").exists(),
    reason="onnxruntime-node is not installed: (cd runtime/hosts/node && ONNXRUNTIME_NODE_INSTALL=skip npm install)",
)


def node(*arguments: str, text: str | None = None) -> subprocess.CompletedProcess[str]:
    given = None if text is None else text.encode()
    done = subprocess.run(["node", *arguments], cwd=FOLDER, input=given, capture_output=True, check=False, timeout=120)
    # as bytes until here: reading text would make every carriage return a line end
    return subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())


def write(*arguments: object) -> subprocess.CompletedProcess[str]:
    return node("generate.mjs", *map(str, arguments))


def run_script(script: str, given: Any) -> Any:
    """What a piece of JavaScript says of ``given``, both as JSON; ``read`` and ``say`` are there."""
    code = (
        "import fs from 'node:fs';\n"
        "const given = JSON.parse(fs.readFileSync(0, 'utf8'));\n"
        "const say = (value) => console.log(JSON.stringify(value));\n"
        f"{script.replace('js:', JS + '/')}"
    )
    done = node("--input-type=module", "-e", code, text=json.dumps(given))
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


SETTINGS: tuple[tuple[list[str], dict[str, Any]], ...] = (
    (["--greedy"], {"do_sample": False}),
    (["--temperature", "0", "--top-p", "0.5"], {"do_sample": False}),
    (
        ["--seed", str(2**63 + 5), "--temperature", "0.9", "--top-k", "40", "--top-p", "0.95"],
        {"seed": 2**63 + 5, "temperature": 0.9, "top_k": 40, "top_p": 0.95},
    ),
    (["--seed", "3"], {"seed": 3}),
)


@needs_runtime
@pytest.mark.parametrize("level", hosts.TOKENIZERS)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("cell", ["rnn", "gru", "lstm"])
def test_texts_are_pythons(tmp_path: Path, cell: str, form: str, level: str) -> None:
    path = export_model(hosts.checkpoint(cell, level), tmp_path / "model.onnx", "onnx", form)
    model = load(path)
    asked = [part for prompt in hosts.PROMPTS for part in ("--prompt", prompt)]
    ends = set()
    for options, settings in SETTINGS:
        done = write(path, *asked, "--count", 3, "--tokens", 70, "--json", *options)
        assert done.returncode == 0, done.stderr
        expected = generate(model, hosts.PROMPTS, max_new_tokens=70, num_return_sequences=3, **settings)
        for got, row in zip(json.loads(done.stdout)["texts"], expected, strict=True):
            expected_of = {name: value for name, value in vars(row).items() if name != "logprobs"}
            assert got == {**expected_of, "tokens": list(row.tokens)}
            ends.add(row.finish_reason)
    assert ends == ({"length"} if model.tokenizer.end_id is None else {"eos", "length"})


GENERATE = """
import * as ort from 'onnxruntime-node';
import { Model } from 'js:model.mjs';
const model = await Model.open(ort, new Uint8Array(fs.readFileSync(given.path)));
const written = [];
for (const { seed = 0, do_sample: doSample = true, temperature = 1, top_k: topK = 0, top_p: topP = 1 } of given.settings) {
  const rows = given.prompts.map(() => []);
  const settings = { maxNewTokens: given.tokens, seed: BigInt(seed), doSample, temperature, topK, topP };
  for await (const { row, token } of model.generate(given.prompts, settings)) rows[row].push(token);
  written.push(rows);
}
say(written);
"""


def long_texts(
    path: Path, prompts: list[str], tokens: int, settings: list[same_text.Settings]
) -> Iterator[tuple[same_text.Settings, list[list[int]]]]:
    """Each of the settings with what Node then writes behind every prompt, all in one process."""
    given = {"path": str(path), "prompts": prompts, "tokens": tokens, "settings": settings}
    yield from zip(settings, run_script(GENERATE, given), strict=True)


WASM = (hosts.HOSTS / "web" / "node_modules" / "onnxruntime-web" / "dist" / RUNTIME[0]).as_uri()  # what the page loads
RUNTIMES = {"node": "'onnxruntime-node';", "web": f"'{WASM}';\nort.env.wasm.numThreads = 1;"}


@pytest.mark.parametrize("stored", ["fp16", "int8", "quantized"])
@pytest.mark.parametrize("cell", ["gru", "lstm"])
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_smaller_files_write_what_python_writes(tmp_path: Path, runtime: str, cell: str, stored: str) -> None:
    """Of a quantized file, whose rounding is the processor's, the greedy tokens that it records as firm."""
    folder = FOLDER if runtime == "node" else hosts.HOSTS / "web"
    if not (folder / "node_modules" / f"onnxruntime-{runtime}").exists():
        pytest.skip(f"onnxruntime-{runtime} is not installed: (cd {folder} && npm install --ignore-scripts)")
    checkpoint = models.checkpoint(cell)
    checkpoint.params["output.weight"] *= 10  # so that greedy tokens are firm
    path = export_model(checkpoint, tmp_path / "model.onnx", "onnx", "both", weights=STORED[stored])
    model, tokenizer = load(path), checkpoint.tokenizer
    if stored == "quantized":
        greedy = [case for case in read_onnx(path).info.golden if len(case["greedy"]) >= 2]
        asked: list[tuple[str, int, dict[str, Any]]] = [
            (tokenizer.decode(case["prompt"]), len(case["greedy"]), {"do_sample": False}) for case in greedy
        ]
        expected = [case["greedy"] for case in greedy]
    else:
        asked = [
            ("abc", 40, {"do_sample": False}),
            ("k", 40, {"seed": 7}),
            ("gi", 40, {"seed": 8, "top_k": 5, "top_p": 0.9}),
        ]
        expected = [list(generate(model, [text], max_new_tokens=n, **s)[0].tokens) for text, n, s in asked]
    assert expected
    script = GENERATE.replace("'onnxruntime-node';", RUNTIMES[runtime])
    for (prompt, tokens, settings), row in zip(asked, expected, strict=True):
        given = {"path": str(path), "prompts": [prompt], "tokens": tokens, "settings": [settings]}
        assert run_script(script, given) == [[row]]


@needs_runtime
@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("level", same_text.LEVELS)
@pytest.mark.parametrize("cell", same_text.CELLS)
def test_long_texts_are_numpys(tmp_path: Path, cell: str, level: str, form: str) -> None:
    reference = same_text.reference(cell, level)
    path = export_model(reference.checkpoint, tmp_path / "model.onnx", "onnx", form)
    for settings, rows in long_texts(path, reference.prompts, same_text.TOKENS, [*same_text.SETTINGS.values()]):
        assert reference.faults(rows, settings) == []


@needs_runtime
@pytest.mark.slow
def test_nearly_all_of_many_texts_are_numpys(tmp_path: Path) -> None:
    reference = same_text.reference("lstm", "char")
    path = export_model(reference.checkpoint, tmp_path / "model.onnx", "onnx", "generate")
    prompts = [prompt for prompt in reference.prompts for _ in range(125)]
    [(settings, rows)] = long_texts(path, prompts, 100, [same_text.SETTINGS["plain"]])
    found = reference.divergences(rows, settings)
    assert len(found) <= 0.001 * len(rows)
    assert all(one.explained for one in found)


@needs_runtime
def test_what_is_printed_is_what_the_command_prints(tmp_path: Path) -> None:
    for level in hosts.TOKENIZERS:
        path = export_model(hosts.checkpoint("gru", level), tmp_path / "model.onnx", "onnx")
        tokenizer = hosts.TOKENIZERS[level]
        prompts = ["(a\nb", tokenizer.start_prompt()]
        typed = [part for prompt in prompts for part in ("--prompt", prompt.replace("\n", r"\n"))]
        done = write(path, *typed, "--count", 2, "--tokens", 60)
        rows = generate(load(path), prompts, max_new_tokens=60, num_return_sequences=2)
        separator = tokenizer.separator
        texts = [row.prompt + separator(row.prompt, row.text) + row.text for row in rows]
        assert done.stdout == ("\n" + "-" * 40 + "\n").join(texts) + "\n"


@needs_runtime
@pytest.mark.parametrize("form", FORMS)
def test_text_is_shown_as_it_grows_and_a_reader_may_leave(tmp_path: Path, form: str) -> None:
    path = export_model(models.checkpoint("gru"), tmp_path / "model.onnx", "onnx", form)
    command = ["node", "generate.mjs", str(path), "--prompt", "abc", "--tokens", "1000000000"]
    with subprocess.Popen(command, cwd=FOLDER, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        text = process.stdout.read(103).decode()
        process.stdout.close()
        assert process.wait(60) == 0
        assert process.stderr.read() == b""
    assert text == "abc" + generate(load(path), ["abc"], max_new_tokens=100)[0].text


ENCODE = """
import { Tokenizer } from 'js:tokenizer.mjs';
import { HostError } from 'js:errors.mjs';
const encode = (tokenizer, text) => {
  try { return tokenizer.encode(text); } catch (error) { if (error instanceof HostError) return null; throw error; }
};
say(given.map(({ description, texts, ids }) => {
  const tokenizer = new Tokenizer(description);
  const pieces = ids.map((list) => {
    const streamer = tokenizer.streamer();
    return [...list.map(streamer.feed), streamer.flush()];
  });
  return { ids: texts.map((text) => encode(tokenizer, text)), texts: ids.map((list) => tokenizer.decode(list)), pieces };
}));
"""


def _encode(tokenizer: Tokenizer, text: str) -> list[int] | None:
    try:
        return tokenizer.encode(text).tolist()
    except UnknownTokenError:
        return None


def test_tokenizers_are_pythons() -> None:
    texts = ["", *hosts.TRICKY, *hosts.TRICKY.split(" "), hosts.TRICKY, *hosts.random_texts(300)]
    known = "".join(sorted(set(hosts.TRICKY))[::2])  # every other character
    tokenizers: list[Tokenizer] = []
    for unknown in ("error", "replace", "skip"):
        for lowercase in (False, True):
            tokenizers.append(hosts.char_tokenizer(unknown, lowercase))
            tokenizers.append(CharTokenizer.fit(known, specials=(UNK,), unknown=unknown, lowercase=lowercase))
            for punctuation in (False, True):
                words = hosts.word_tokenizer(unknown, lowercase, punctuation)
                few = [UNK, BOS, EOS, *words.vocabulary[3::2]]
                tokenizers += [words, WordTokenizer(few, unknown, lowercase, punctuation)]
    tokenizers += [hosts.bpe_tokenizer(lowercase=lowercase) for lowercase in (False, True)]
    tokenizers.append(hosts.bpe_tokenizer(merges=0))
    rng = np.random.default_rng(3)
    ids = [[rng.integers(0, len(t.vocabulary), 200).tolist() for _ in range(3)] for t in tokenizers]
    given = [
        {"description": t.to_dict(), "texts": texts, "ids": lists} for t, lists in zip(tokenizers, ids, strict=True)
    ]
    refused = 0
    for tokenizer, lists, got in zip(tokenizers, ids, run_script(ENCODE, given), strict=True):
        expected = [_encode(tokenizer, text) for text in texts]
        assert got["ids"] == expected, tokenizer.to_dict()
        assert got["texts"] == [tokenizer.decode(numbers) for numbers in lists]
        streamers = [tokenizer.streamer() for _ in lists]
        assert got["pieces"] == [
            [*map(streamer.feed, numbers), streamer.flush()] for streamer, numbers in zip(streamers, lists, strict=True)
        ]
        refused += expected.count(None)
    assert refused > 100


@pytest.mark.parametrize("name", GOLDEN)
def test_texts_have_the_tokens_of_the_table(name: str) -> None:
    golden = GOLDEN[name]
    texts = [text for text, _, _ in golden.cases]
    ids = [golden.ids(tokens) for _, tokens, _ in golden.cases]
    given = {"description": golden.description, "texts": texts, "ids": [numbers or [] for numbers in ids]}
    [got] = run_script(ENCODE, [given])
    assert got["ids"] == ids
    assert got["texts"] == [decoded for _, _, decoded in golden.cases]


def test_tokenizers_that_normalise_are_pythons() -> None:
    texts = [*hosts.TRICKY, hosts.TRICKY, *hosts.random_texts(300)]
    tokenizers = hosts.normalizing_tokenizers()
    rng = np.random.default_rng(4)
    ids = [[rng.integers(0, len(t.vocabulary), 200).tolist()] for t in tokenizers]
    given = [
        {"description": t.to_dict(), "texts": texts, "ids": lists} for t, lists in zip(tokenizers, ids, strict=True)
    ]
    for tokenizer, lists, got in zip(tokenizers, ids, run_script(ENCODE, given), strict=True):
        assert got["ids"] == [_encode(tokenizer, text) for text in texts], tokenizer.to_dict()
        assert got["texts"] == [tokenizer.decode(numbers) for numbers in lists]


@pytest.mark.parametrize(("changes", "expected"), hosts.FORMAT_2_CASES)
def test_metadata_of_format_2(changes: dict[str, Any], expected: str | None) -> None:
    script = (
        "import { parseMetadata } from 'js:metadata.mjs';\n"
        "const found = () => {\n"
        "  try { return parseMetadata(new Map(Object.entries(given))); } catch (error) { return error.message; }\n"
        "};\n"
        "say(found());"
    )
    got = run_script(script, hosts.format_2_metadata(changes))
    if expected is not None:
        assert isinstance(got, str)
        assert expected in got
        return
    assert got["tokenizer"] == GOLDEN["whitespace, a stream"].description
    assert got["stateShape"] == [2, 1, 7]
    assert got["config"] == {
        "cell": "lstm",
        "vocab_size": 11,
        "embedding_size": 5,
        "hidden_size": 7,
        "num_layers": 1,
        "dropout": 0,
        "tie_weights": False,
    }


def test_what_ends_a_text_and_what_a_new_one_begins_with_are_pythons() -> None:
    tokenizers = [tokenizer_from_dict(golden.description) for golden in GOLDEN.values()]
    prompts = [("", "a"), ("a", ""), ("a", "\n"), ("a\n", "b"), ("a", "b"), ("a ", "b"), ("a\u3000", "b"), ("\n", "b")]
    script = (
        "import { Tokenizer } from 'js:tokenizer.mjs';\n"
        "const [descriptions, prompts] = given;\n"
        "say(descriptions.map((description) => {\n"
        "  const tokenizer = new Tokenizer(description);\n"
        "  const separators = prompts.map(([prompt, text]) => tokenizer.separator(prompt, text));\n"
        "  return [tokenizer.endId ?? null, tokenizer.startPrompt(), separators];\n"
        "}));"
    )
    got = run_script(script, [[tokenizer.to_dict() for tokenizer in tokenizers], prompts])
    assert got == [[t.end_id, t.start_prompt(), [t.separator(*pair) for pair in prompts]] for t in tokenizers]
    assert [end for end, _, _ in got].count(None) == 8


def test_tokenizers_of_other_kinds_are_named_errors() -> None:
    stream = GOLDEN["whitespace, a stream"].description
    broken = [
        {"normalize": "nfc"},
        {"normalize": None},
        {"level": "sentence"},
        {"vocabulary": [*stream["vocabulary"], "a b"]},
    ]
    script = (
        "import { Tokenizer } from 'js:tokenizer.mjs';\n"
        "const [description, broken] = given;\n"
        "say(broken.map((changes) => {\n"
        "  try { new Tokenizer({ ...description, ...changes }); return 'made'; } catch (error) { return error.message; }\n"
        "}));"
    )
    assert set(run_script(script, [stream, broken])) == {"model: its tokenizer is damaged"}


def test_byte_pairs_show_tokens_and_damaged_ones_are_named_errors() -> None:
    tokenizer = hosts.bpe_tokenizer()
    description = tokenizer.to_dict()
    broken = [
        {"vocabulary": description["vocabulary"][:-1]},
        {"vocabulary": [token for token in description["vocabulary"] if token != "q"]},
        {"vocabulary": [*description["vocabulary"], "a b"]},
        {"merges": [[0]]},
        {"merges": [[9, 10]]},
        {"merges": 5},
        {"merges": None},
    ]
    script = (
        "import { Tokenizer } from 'js:tokenizer.mjs';\n"
        "import { HostError } from 'js:errors.mjs';\n"
        "const [description, broken] = given;\n"
        "const said = broken.map((changes) => {\n"
        "  try { new Tokenizer({ ...description, ...changes }); return 'made'; }\n"
        "  catch (error) { return error instanceof HostError ? error.message : String(error); }\n"
        "});\n"
        "const tokenizer = new Tokenizer(description);\n"
        "const shown = description.vocabulary.map((_, id) => tokenizer.show(id));\n"
        "say({ said, shown, start: tokenizer.startPrompt() });"
    )
    got = run_script(script, [description, broken])
    assert set(got["said"]) == {"model: its tokenizer is damaged"}
    assert got["start"] == ""
    assert got["shown"][:5] == [UNK, BOS, EOS, "\0", "\x01"]
    assert got["shown"][3 + 0xE7] == r"\xe7"
    decoded = [tokenizer.decode([i]) for i in range(3, len(tokenizer))]
    assert [text for text in got["shown"][3:] if "\\x" not in text] == [
        text for text in decoded if "\ufffd" not in text
    ]


def test_uniforms_are_pythons() -> None:
    seeds = (0, 1, 2**32 - 1, 2**32, 2**53 - 1, 2**53 + 1, 2**63 - 1, 2**63 + 1, 2**64 - 1)
    rows, steps = (0, 7, 2**32 + 3), (0, 1, 199, 2**32 + 9)
    cases = [(seed, row, step) for seed in seeds for row in rows for step in steps]
    script = "import { uniform } from 'js:philox.mjs';\nsay(given.map(([s, r, t]) => uniform(BigInt(s), r, t)));"
    got = run_script(script, [(str(seed), row, step) for seed, row, step in cases])
    assert got == [float(uniforms(seed, np.array([row]), step)[0]) for seed, row, step in cases]


def test_draws_are_pythons_ties_and_filters_too() -> None:
    rng = np.random.default_rng(5)
    cases = []
    for _ in range(400):
        logits = rng.integers(-4, 4, rng.integers(1, 12)).astype(np.float32)  # many ties
        settings = {
            "do_sample": bool(rng.random() < 0.9),
            "temperature": float(rng.choice([1e-6, 0.5, 1.0, 3.0])),
            "top_k": int(rng.choice([0, 1, 2, 5, 100])),
            "top_p": float(rng.choice([0.0, 0.5, 0.77, 1.0])),
        }
        cases.append((logits, settings, float(rng.choice([0.0, 0.25, 0.5, 1 - 2.0**-53, rng.random()]))))
    names = {"do_sample": "doSample", "temperature": "temperature", "top_k": "topK", "top_p": "topP"}
    given = [
        (logits.tolist(), {names[key]: value for key, value in settings.items()}, u) for logits, settings, u in cases
    ]
    script = (
        "import { checkSettings, choose } from 'js:sampling.mjs';\n"
        "say(given.map(([logits, settings, u]) => choose(Float32Array.from(logits), checkSettings(settings), u)));"
    )
    expected = [int(choose(logits[None], SamplingConfig(**s), np.array([u]))[0]) for logits, s, u in cases]
    assert run_script(script, given) == expected
    assert len(set(expected)) > 5


def test_damaged_weights_are_a_named_error() -> None:
    script = (
        "import { choose, DEFAULTS } from 'js:sampling.mjs';\n"
        "const row = (bad) => Float32Array.of(0, bad, 1);\n"
        "say([NaN, Infinity, -Infinity].map((bad) => {\n"
        "  try { return choose(row(bad), DEFAULTS, 0.9); } catch (error) { return error.message; }\n"
        "}));"
    )
    nan, infinite, minus = run_script(script, None)
    assert "not finite" in nan
    assert "not finite" in infinite
    assert minus == 2


@needs_runtime
def test_every_truncation_is_a_named_error(tmp_path: Path) -> None:
    path = export_model(models.checkpoint(), tmp_path / "model.onnx", "onnx")
    script = (
        "import * as ort from 'onnxruntime-node';\n"
        "import { HostError } from 'js:errors.mjs';\n"
        "import { Model } from 'js:model.mjs';\n"
        "const bytes = new Uint8Array(fs.readFileSync(given));\n"
        "const said = [];\n"
        "for (let percent = 0; percent < 100; percent += 3) {\n"
        "  const part = bytes.subarray(0, Math.floor((bytes.length * percent) / 100));\n"
        "  await Model.open(ort, part).then(() => said.push('opened'), (error) => said.push(error instanceof HostError));\n"
        "}\n"
        "say(said);"
    )
    assert run_script(script, str(path)) == [True] * 34


def _error(*arguments: object) -> str:
    done = write(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    return done.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "needs one model file, got 0"),
        (["a.onnx", "b.onnx"], "needs one model file, got 2"),
        (["a.onnx", "--tempo", "1"], "--tempo"),
        (["a.onnx", "--count", "0"], "--count: got 0"),
        (["a.onnx", "--seed", "-1"], "--seed"),
        (["a.onnx", "--tokens", "1.5"], '--tokens: got "1.5", needs a whole number'),
        (["a.onnx", "--top-p", "much"], '--top-p: got "much", needs a number'),
    ],
)
def test_options_that_cannot_be_read(options: list[str], message: str) -> None:
    assert message in _error(*options)


@needs_runtime
def test_wrong_files_prompts_and_settings_are_named_errors(tmp_path: Path) -> None:
    path = export_model(models.checkpoint(), tmp_path / "model.onnx", "onnx")
    assert "there is no such file" in _error(tmp_path / "none.onnx")
    assert 'no character "😀" (U+1F600)' in _error(path, "--prompt", "ab😀")
    assert 'begin with some, for instance "a"' in _error(path, "--prompt", "")
    for option, value, name in (
        ("--temperature", "1e-7", "temperature: got 1e-7, needs 0, which is greedy, or a number from 1e-06"),
        ("--top-p", "1.5", "topP: got 1.5"),
        ("--seed", str(2**64), "seed: got 18446744073709551616"),
        ("--tokens", "0", "maxNewTokens: got 0"),
    ):
        assert name in _error(path, option, value)
    (tmp_path / "text.onnx").write_text("hello, this is no model")
    assert "not an ONNX file" in _error(tmp_path / "text.onnx")
    model = onnx.load(path)
    for change, message in (
        (
            lambda p: p.key == "unrolled.format_version" and setattr(p, "value", "3"),
            'export format "3"; this host reads 1 and 2',
        ),
        (lambda p: p.key == "unrolled.sampling" and setattr(p, "value", "2"), 'sampling rules "2"'),
        (lambda p: p.key == "unrolled.form" and setattr(p, "value", "generate"), "has no lengths, uniforms"),
        (lambda p: p.key == "unrolled.tokenizer" and setattr(p, "value", "{"), "unrolled.tokenizer is damaged"),
        (lambda p: setattr(p, "key", f"other.{p.key}"), "not one of unrolled's exported files"),
    ):
        changed = onnx.ModelProto()
        changed.CopyFrom(model)
        for prop in changed.metadata_props:
            change(prop)  # type: ignore[no-untyped-call]
        onnx.save(changed, tmp_path / "changed.onnx")
        assert message in _error(tmp_path / "changed.onnx")
