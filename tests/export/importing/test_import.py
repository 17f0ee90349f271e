"""Weights from elsewhere: common layouts become checkpoints with torch's own logits, and everything else is refused by name."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import models
import numpy as np
import pytest
from commands import run_command
from safetensors.numpy import save_file as save_numpy

from unrolled.engine.errors import ConfigError, ModelFileError, UnrolledError
from unrolled.engine.storage.checkpoint import load_checkpoint, save_checkpoint
from unrolled.export.formats import export_model
from unrolled.export.importing.language_model import import_weights
from unrolled.export.importing.vocabulary_files import make_tokenizer, read_vocabulary
from unrolled.export.importing.weight_files import read_weights
from unrolled.export.verification.verify import verify
from unrolled.runtime import load

torch = pytest.importorskip("torch", reason="the torch extra is not installed")
nn = torch.nn
from foreign_models import TOKENS, E, H, Model, V, as_checkpoint, assert_logits_of, imported, made, written  # noqa: E402 - needs torch  # fmt: skip


class Stack(nn.Module):
    """A model with a module for each layer, an nn.LSTM or a cell; eleven of them, so that names do not sort in their order."""

    def __init__(self, make: Callable[[int, int], Any], count: int = 11) -> None:
        super().__init__()
        self.wte = nn.Embedding(V, E)
        self.layers = nn.ModuleList(make(E if place == 0 else H, H) for place in range(count))
        self.lm_head = nn.Linear(H, V, bias=False)

    def forward(self, tokens: Any) -> Any:
        x = self.wte(tokens.T)
        for layer in self.layers:
            if isinstance(layer, nn.RNNCellBase):
                state, steps = None, []
                for x_t in x:
                    state = layer(x_t, state)
                    steps.append(state[0] if isinstance(state, tuple) else state)
                x = torch.stack(steps)
            else:
                x, _ = layer(x)
        return self.lm_head(x).transpose(0, 1)


class OneHot(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(V, H)
        self.h2o = nn.Linear(H, V)

    def forward(self, tokens: Any) -> Any:
        return self.h2o(self.gru(nn.functional.one_hot(tokens.T, V).float())[0]).transpose(0, 1)


class Raw(nn.Module):
    """A model with weight dropping: it saves the true recurrent weights and those of the last training step."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.Embedding(V, E), nn.Linear(H, V)
        self.rnns = nn.ModuleList(nn.Module() for _ in range(2))
        for place, layer in enumerate(self.rnns):
            layer.module = nn.LSTM(H if place else E, H)
            layer.weight_hh_l0_raw = nn.Parameter(layer.module.weight_hh_l0.detach().clone())

    def forward(self, tokens: Any) -> Any:
        x = self.encoder(tokens.T)
        for layer in self.rnns:
            x, _ = layer.module(x)
        return self.decoder(x).transpose(0, 1)


def spoilt(state: dict[str, Any]) -> dict[str, Any]:
    return {name: value * 0 if name.endswith("module.weight_hh_l0") else value for name, value in state.items()}


LAYOUTS: dict[str, tuple[Callable[[], Any], Callable[[Any], dict[str, Any]], dict[str, Any]]] = {
    # A module, its state_dict as training code changes it, and the settings of the import.
    **{
        f"{kind} {layers}": (lambda kind=kind, layers=layers: Model(kind, layers), lambda s: s, {})  # type: ignore[misc]
        for kind in ("RNN", "GRU", "LSTM")
        for layers in (1, 2, 3)
    },
    "relu": (lambda: Model("RNN", 2, nonlinearity="relu"), lambda s: s, {"cell": "rnn_relu"}),
    "no bias": (lambda: Model("LSTM", 2, bias=False, output_bias=False), lambda s: s, {}),
    "tied": (lambda: Model("LSTM", 2, ("encoder", "rnn", "decoder"), tied=True), lambda s: s, {}),
    "tied, output missing": (
        lambda: Model("GRU", 1, ("embed", "gru", "head"), tied=True),
        lambda s: {name: value for name, value in s.items() if name != "head.weight"},
        {"tie": True},
    ),
    "tied, only the embedding": (
        lambda: Model("GRU", 1, ("embed", "gru", "head"), tied=True, output_bias=False),
        lambda s: {name: value for name, value in s.items() if name != "head.weight"},
        {"tie": True},
    ),
    "tied, embedding missing": (
        lambda: Model("LSTM", 1, ("encoder", "lstm", "decoder"), tied=True),
        lambda s: {name: value for name, value in s.items() if name != "encoder.weight"},
        {"tie": True},
    ),
    "own names": (lambda: Model("LSTM", 2, ("embedding", "rnn", "output")), lambda s: s, {}),
    "data parallel": (lambda: nn.DataParallel(Model("LSTM", 2)), lambda s: s, {}),
    "prefixes": (
        lambda: Model("GRU", 2, ("word_embeddings", "lstm", "lm_head")),
        lambda s: {f"_orig_mod.model.{name}": value for name, value in s.items()},
        {},
    ),
    "unusual names": (lambda: Model("LSTM", 1, ("table", "memory", "guess")), lambda s: s, {}),
    "numbered": (
        lambda: Model("LSTM", 1, ("emb", "lstm1", "fc2")),
        lambda s: {name.replace("fc2.", "fc.1."): value for name, value in s.items()},
        {},
    ),
    "module a layer": (lambda: Stack(nn.LSTM), lambda s: s, {}),
    "cell a layer": (lambda: Stack(nn.LSTMCell), lambda s: s, {}),
    "gru cells": (lambda: Stack(nn.GRUCell, 2), lambda s: s, {}),
    "one-hot": (OneHot, lambda s: s, {}),
    "raw weights": (Raw, spoilt, {}),
    "an embedding twice": (
        lambda: Model("LSTM", 1, ("encoder", "rnn", "decoder")),
        lambda s: {**s, "encoder_dp.emb.weight": s["encoder.weight"].clone()},
        {},
    ),
    "ignored": (
        lambda: Model("LSTM", 1),
        lambda s: {**s, "steps": torch.tensor(3), "value.weight": torch.ones(H, H), "value.bias": torch.ones(H)},
        {"ignore": ["steps", "value.*"]},
    ),
    "float64": (lambda: Model("LSTM", 1).double(), lambda s: s, {}),
}


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_logits_are_torchs_own(tmp_path: Path, layout: str, suffix: str) -> None:
    build, change, settings = LAYOUTS[layout]
    module = made(build)
    found = imported(written(tmp_path / f"weights{suffix}", change(module.state_dict())), **settings)
    assert_logits_of(found, module)
    assert [match.name for match in found.matches] == list(found.params)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_narrow_weights_become_float32_and_the_table_says_so(tmp_path: Path, dtype: str, suffix: str) -> None:
    module = made(lambda: Model("LSTM", 2), getattr(torch, dtype))
    state = {name: value.to(getattr(torch, dtype)) for name, value in module.state_dict().items()}
    found = imported(written(tmp_path / f"weights{suffix}", state))
    assert {value.dtype for value in found.params.values()} == {np.dtype(np.float32)}
    assert {match.note for match in found.matches} == {f"from {dtype}"}
    assert_logits_of(found, module)


@pytest.mark.parametrize("name", ["state_dict", "model_state_dict", "model"])
def test_a_trainings_checkpoint_is_looked_into(tmp_path: Path, name: str) -> None:
    module = made(lambda: Model("GRU"))
    torch.save({"epoch": 3, name: module.state_dict(), "loss": 0.5}, tmp_path / "a.bin")
    assert_logits_of(imported(tmp_path / "a.bin"), module)


def test_the_old_file_format_of_torch_is_read(tmp_path: Path) -> None:
    module = made(lambda: Model("GRU"))
    torch.save(module.state_dict(), tmp_path / "a.pt", _use_new_zipfile_serialization=False)
    assert_logits_of(imported(tmp_path / "a.pt"), module)


def test_safetensors_are_imported_without_torch(tmp_path: Path) -> None:
    written(tmp_path / "a.safetensors", {k: v.bfloat16() for k, v in made(lambda: Model("LSTM")).state_dict().items()})
    code = (
        "import sys\n"
        "sys.modules['torch'] = None\n"
        "from pathlib import Path\n"
        "from unrolled.export.importing.language_model import import_weights\n"
        "from unrolled.export.importing.weight_files import read_weights\n"
        "print(import_weights(read_weights(Path(sys.argv[1])).arrays).config.cell)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "a.safetensors")], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout.strip()) == (0, "lstm"), done.stderr


@pytest.mark.parametrize("layout", ["RNN 2", "GRU 2", "tied", "one-hot", "no bias"])
def test_what_was_imported_exports_and_verifies(tmp_path: Path, layout: str) -> None:
    build, change, settings = LAYOUTS[layout]
    found = imported(written(tmp_path / "a.safetensors", change(made(build).state_dict())), **settings)
    save_checkpoint(tmp_path / "run" / "best.safetensors", as_checkpoint(found))
    path = export_model(load_checkpoint(tmp_path / "run"), tmp_path / "run" / "model.onnx", "onnx", "both")
    checks = list(verify(path, load))
    assert [check for check in checks if not check.ok] == []
    assert any(check.name.startswith("sizes (best") for check in checks)


def test_alarm_a_gate_in_another_order_changes_the_logits() -> None:
    module = made(lambda: Model("LSTM"))
    weights = {name: value.numpy() for name, value in module.state_dict().items()}
    weights["rnn.weight_hh_l0"] = np.roll(weights["rnn.weight_hh_l0"], H, axis=0)
    with pytest.raises(AssertionError):
        assert_logits_of(import_weights(weights), module)


def plain(kind: str = "LSTM", layers: int = 2, **how: Any) -> dict[str, np.ndarray]:
    return {name: value.numpy() for name, value in made(lambda: Model(kind, layers, **how)).state_dict().items()}


def without(*names: str, **changed: Any) -> dict[str, np.ndarray]:
    return {name: value for name, value in {**plain(), **changed}.items() if name not in names}


def renamed(old: str, new: str, values: dict[str, np.ndarray] | None = None) -> dict[str, np.ndarray]:
    return {re.sub(old, new, name): value for name, value in (values or plain()).items()}


def zeros(*shape: int) -> np.ndarray:
    return np.zeros(shape, np.float32)


# An "x__y" in a keyword stands for the name "x.y".
REFUSED: dict[str, tuple[Callable[[], dict[str, np.ndarray]], dict[str, Any], str]] = {
    "bidirectional": (lambda: plain(bidirectional=True), {}, "rnn.weight_ih_l0_reverse, .*: a bidirectional layer"),
    "the second direction ignored": (
        lambda: plain(bidirectional=True),
        {"ignore": ["*_reverse"]},
        "rnn.weight_ih_l0_reverse, .*: a bidirectional layer",
    ),
    "a second direction of weight-normalised matrices": (
        lambda: renamed("weight_hh_l0_reverse", "weight_hh_l0_reverse_g", plain(bidirectional=True)),
        {},
        "a bidirectional layer|a reparametrised weight",
    ),
    "projections": (lambda: plain(proj_size=3), {}, r"rnn\.weight_hr_l0, .*proj_size"),
    "weight norm": (lambda: renamed("weight_hh_l0", "weight_hh_l0_g"), {}, "weight_hh_l0_g: a reparametrised weight"),
    "parametrizations": (
        lambda: renamed(r"fc\.weight", "fc.parametrizations.weight.original0"),
        {},
        "original0: a reparametrised weight",
    ),
    "an unknown tensor": (
        lambda: {**plain(), "norm.weight": zeros(H)},
        {},
        r"norm\.weight: no part .* a normalisation",
    ),
    "an unknown matrix": (
        lambda: {**plain(), "value.weight": zeros(H, H)},
        {},
        r"value\.weight: no part .* say --ignore",
    ),
    "an attention": (lambda: {**plain(), "attention.weight": zeros(H, H)}, {}, r"attention\.weight: no part"),
    "an encoder with a bias": (
        lambda: {**renamed("^embedding", "encoder"), "encoder.bias": zeros(E)},
        {},
        "encoder.weight, encoder.bias: no part",
    ),
    "no recurrent layer": (lambda: {"fc.weight": zeros(V, H)}, {}, "no recurrent layer"),
    "no tensor": (dict, {}, "no recurrent layer"),
    "no embedding": (
        lambda: without("embedding.weight"),
        {},
        "no embedding: no matrix .* reads 4 values, fc.weight writes 11",
    ),
    "no output": (lambda: without("fc.weight", "fc.bias"), {}, r"no output layer: no matrix \(V, 6\) .* say --tie"),
    "no output, tied, widths": (lambda: without("fc.weight"), {"tie": True}, "width 4 is not the layers' 6"),
    "neither end": (
        lambda: without("fc.weight", "fc.bias", "embedding.weight"),
        {"tie": True},
        "no embedding and no output layer",
    ),
    "a missing weight": (lambda: without("rnn.weight_hh_l1"), {}, r"rnn\.…_l1: weight_hh missing"),
    "a missing bias": (lambda: without("rnn.bias_hh_l1"), {}, r"rnn\.…_l1: bias_hh missing"),
    "a missing layer": (
        lambda: without(*(f"rnn.{kind}_l0" for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))),
        {},
        r"rnn\.weight_ih_l0: missing; layers \[1\] are there",
    ),
    "rows": (lambda: without(rnn__weight_hh_l0=zeros(4 * H + 1, H)), {}, r"shape \(25, 6\), needs \(G·H, H\)"),
    "gates": (
        lambda: without(**{f"rnn__weight_{side}_l{n}": zeros(5 * H, H) for side in ("ih", "hh") for n in (0, 1)}),
        {},
        "5 gates, and no cell has as many",
    ),
    "input": (
        lambda: without(rnn__weight_ih_l1=zeros(4 * H, H + 1)),
        {},
        r"weight_ih_l1: shape \(24, 7\), needs \(24, 6\)",
    ),
    "widths": (lambda: without(rnn__weight_hh_l1=zeros(4 * 3, 3)), {}, r"layers of different widths, \[6, 3\]"),
    "cells": (lambda: without(rnn__weight_hh_l1=zeros(3 * H, H)), {}, "layers of different cells"),
    "a bias's shape": (lambda: without(rnn__bias_ih_l0=zeros(H)), {}, r"bias_ih_l0: shape \(6,\), needs \(24,\)"),
    "a vector for a matrix": (lambda: without(rnn__weight_hh_l0=zeros(H)), {}, r"weight_hh_l0: shape \(6,\)"),
    "an embedding's width": (lambda: without(embedding__weight=zeros(V, 3)), {}, r"embedding\.weight: shape \(11, 3\)"),
    "an output's rows": (
        lambda: without(fc__weight=zeros(V + 1, H)),
        {},
        r"fc\.weight: shape \(12, 6\), needs \(11, 6\)",
    ),
    "an output's bias": (lambda: without(fc__bias=zeros(V + 1)), {}, r"fc\.bias: shape \(12,\), needs \(11,\)"),
    "two embeddings": (
        lambda: {**plain(), "wte.weight": zeros(V, E)},
        {},
        r"embedding\.weight, wte\.weight: several embeddings",
    ),
    "two outputs": (
        lambda: {**plain(), "head.weight": zeros(V, H)},
        {},
        r"fc\.weight, head\.weight: several output layers",
    ),
    "two models": (
        lambda: {**plain(), **renamed(r"^rnn", "other", plain())},
        {},
        r"recurrent layers under other\., rnn\.: their order cannot be told",
    ),
    "two of one layer": (lambda: {**plain(), "module.rnn.weight_hh_l0": zeros(4 * H, H)}, {}, "two of one layer"),
    "one vocabulary and width": (
        lambda: {"gru.weight_ih_l0": zeros(3 * 5, 5), "gru.weight_hh_l0": zeros(3 * 5, 5), "fc.weight": zeros(5, 5)},
        {},
        "may be one-hot, or share the output's matrix",
    ),
    "a wide one-hot": (
        lambda: {
            "gru.weight_ih_l0": zeros(3, 5000),
            "gru.weight_hh_l0": zeros(3, 1),
            "fc.weight": zeros(5000, 1),
        },
        {},
        "one-hot input of 5000 tokens",
    ),
    "not a number": (lambda: without(fc__bias=np.full(V, np.nan, np.float32)), {}, r"fc\.bias: 11 values are NaN"),
    "too large": (lambda: without(fc__bias=np.full(V, 1e39)), {}, r"fc\.bias: 11 values .* too large for float32"),
    "whole numbers": (
        lambda: without(fc__weight=np.zeros((V, H), np.int8)),
        {},
        r"fc\.weight: dtype int8, needs float16",
    ),
    "another cell": (plain, {"cell": "gru"}, "cell: got 'gru', but the weights have 4 gates, which is lstm"),
    "no cell": (plain, {"cell": "lstmm"}, "choose one of"),
    "tied, two matrices": (plain, {"tie": True}, "two different matrices"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_imported_is_refused_by_name(case: str) -> None:
    make, settings, message = REFUSED[case]
    weights = {name.replace("__", "."): value for name, value in make().items()}
    for name in [name for name in weights if name.count("__")]:
        del weights[name]
    with pytest.raises(UnrolledError, match=message):
        import_weights(weights, **settings)


@pytest.mark.parametrize(("dtype", "shown"), [("int8", "I8"), ("int64", "I64")])
def test_whole_numbers_in_a_file_are_refused(tmp_path: Path, dtype: str, shown: str) -> None:
    save_numpy({**plain(), "fc.weight": np.zeros((V, H), dtype)}, tmp_path / "a.safetensors")
    with pytest.raises(ModelFileError, match=rf"fc\.weight: dtype {shown}"):
        imported(tmp_path / "a.safetensors")
    state = {
        **{k: torch.from_numpy(v) for k, v in plain().items()},
        "fc.weight": torch.zeros((V, H), dtype=getattr(torch, dtype)),
    }
    torch.save(state, tmp_path / "a.pt")
    with pytest.raises(ModelFileError, match=rf"fc\.weight: dtype {dtype}"):
        imported(tmp_path / "a.pt")


class Bomb:
    """An object that writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("suffix", [".pt", ".pth", ".bin"])
def test_a_malicious_pickle_is_never_run(tmp_path: Path, suffix: str, zipped: bool) -> None:
    torch.save(
        {"fc.weight": torch.ones(2), "a": Bomb(tmp_path / "ran")},
        tmp_path / f"a{suffix}",
        _use_new_zipfile_serialization=zipped,
    )
    with pytest.raises(ModelFileError, match=r"holds more than weights \((posix|nt)\.mkdir\)"):
        read_weights(tmp_path / f"a{suffix}")
    assert not (tmp_path / "ran").exists()
    torch.load(tmp_path / f"a{suffix}", weights_only=False)  # alarm: torch alone runs it
    assert (tmp_path / "ran").exists()


def test_a_whole_pickled_module_is_refused_by_its_class(tmp_path: Path) -> None:
    torch.save(nn.LSTM(2, 3), tmp_path / "a.pt")
    with pytest.raises(ModelFileError, match=r"more than weights \(torch\.nn\.modules\.rnn\.LSTM\)"):
        read_weights(tmp_path / "a.pt")


def test_other_files_are_named_errors(tmp_path: Path) -> None:
    export_model(models.checkpoint(), tmp_path / "script.pt", "torchscript")
    (tmp_path / "noise.pt").write_bytes(b"noise")
    (tmp_path / "text.pt").write_bytes(b"Once upon a time")
    (tmp_path / "noise.safetensors").write_bytes(b"noise")
    (tmp_path / "a.ckpt").write_bytes(b"")
    torch.save([1, 2], tmp_path / "list.pt")
    torch.save({"a.weight": torch.zeros(1).expand(10**6, 10**6)}, tmp_path / "huge.pt")
    for name, message in (
        ("script.pt", "is a TorchScript file"),
        ("noise.pt", "not weights saved by torch"),
        ("text.pt", r"or damaged \(byte 0x4f is no instruction of a pickle\)"),
        ("noise.safetensors", r"not a readable \.safetensors file"),
        ("a.ckpt", "not weights saved by torch"),
        ("list.pt", "holds no tensors by name"),
        ("huge.pt", "declares 4,000,000,000,000 bytes"),
        ("none.pt", "no such file"),
    ):
        with pytest.raises(ModelFileError, match=message):
            read_weights(tmp_path / name)


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_every_truncation_is_a_named_error(tmp_path: Path, suffix: str) -> None:
    path = written(tmp_path / f"a{suffix}", made(lambda: Model("LSTM")).state_dict())
    data = path.read_bytes()
    for percent in range(0, 100, 3):
        path.write_bytes(data[: len(data) * percent // 100])
        with pytest.raises(ModelFileError):
            read_weights(path)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.json", '["b", "a", "\\n"]'),
        ("a.json", '{"a": 1, "b": 0, "\\n": 2}'),
        ("a.json", '{"0": "b", "1": "a", "2": "\\n"}'),
        ("a.json", '{"size": 3, "char_to_ix": {"a": 1, "b": 0, "\\n": 2}}'),
        ("a.json", '{"char_to_ix": {"a": 1, "b": 0, "\\n": 2}, "ix_to_char": {"0": "b", "1": "a", "2": "\\n"}}'),
        ("a.txt", "b\na\n\\n\n"),
        ("a.txt", "b\r\na\r\n\\n"),
        ("a.vocab", "\ufeffb\na\n\\n\n"),
    ],
)
def test_vocabularies_of_every_kind(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_bytes(text.encode())
    assert read_vocabulary(tmp_path / name, "char") == ["b", "a", "\n"]


def test_separators_and_spaces_are_tokens(tmp_path: Path) -> None:
    tokens = ["\t", "\r", "\\", " ", "\u2028", "\x85", "{", '"', "1"]
    (tmp_path / "a.txt").write_bytes('\\t\n\\r\n\\\\\n \n\u2028\n\x85\n{\n"\n1\n'.encode())
    assert read_vocabulary(tmp_path / "a.txt", "char") == tokens
    (tmp_path / "a.json").write_text(json.dumps({token: place for place, token in enumerate(tokens)}))
    assert read_vocabulary(tmp_path / "a.json", "char") == tokens


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        "[1]",
        '{"a": 0, "b": 2}',
        '{"a": 0, "b": 0}',
        '{"a": true}',
        '{"a": NaN}',
        "3",
        '{"v": {"w": ["a"]}}',
        "[" * 9999,
    ],
)
def test_bad_vocabularies_are_named_errors(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(ConfigError, match="vocabulary: "):
        read_vocabulary(tmp_path / "a.json", "char")


def test_vocabularies_that_do_not_fit_are_named_errors(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\xff\xfe")
    for read, message in (
        (lambda: read_vocabulary(tmp_path / "a.txt", "char"), "not UTF-8"),
        (lambda: read_vocabulary(tmp_path / "none", "char"), "cannot be read"),
        (lambda: read_vocabulary(tmp_path, "char"), "cannot be read"),
        (lambda: make_tokenizer(["a"], 2, "char"), "1 tokens, and the model has 2"),
        (
            lambda: make_tokenizer(["a", "<pad>"], 2, "char"),
            "'<pad>' is not a single character; for words say --level word",
        ),
        (lambda: make_tokenizer(["a", "a"], 2, "char"), "'a' stands there more than once"),
        (lambda: make_tokenizer(["a", ""], 2, "word"), "every token a text that is not empty"),
        (lambda: make_tokenizer(["a", "b"], 2, "word", unknown="replace"), "needs <unk>"),
        (lambda: make_tokenizer(["a", "b"], 2, "char", punctuation=True), "--punctuation goes with --level word"),
        (lambda: make_tokenizer(["a", "b"], 2, "byte"), "level: got 'byte'"),
    ):
        with pytest.raises(ConfigError, match=message):
            read()
    with pytest.raises(ConfigError, match="'a b' holds white space"):
        make_tokenizer(["a b", "c"], 2, "whitespace")
    with pytest.raises(ConfigError, match="normalize: got 'nfc', choose one of none, NFC"):
        make_tokenizer(["a", "b"], 2, "char", normalize="nfc")
    assert make_tokenizer(["a", "<unk>"], 2, "word").unknown == "replace"
    assert make_tokenizer(["a", "b"], 2, "word", lowercase=True).to_dict()["lowercase"] is True


def test_vocabularies_of_models_of_prepared_text() -> None:
    """Import a list with <unk> and <eos> among the words, as many PyTorch examples have it; a line end is <eos>."""
    tokenizer = make_tokenizer(["the", "<eos>", "<unk>", "na\u00efve"], 4, "whitespace", normalize="NFC")
    assert tokenizer.unknown == "replace"
    assert tokenizer.encode("the nai\u0308ve cat\n").tolist() == [0, 3, 2, 1]
    assert (tokenizer.end_id, tokenizer.format_version) == (None, 2)
    assert make_tokenizer(["the", "a"], 2, "whitespace").unknown == "error"


def command(*arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    return run_command(*arguments, code=code, COLUMNS="160", PYTHONIOENCODING="utf-8")


def test_the_command_imports_into_a_run_folder(tmp_path: Path) -> None:
    written(tmp_path / "w.pt", made(lambda: Model("RNN", 1, ("emb", "rnn", "out"), output_bias=False)).state_dict())
    (tmp_path / "vocabulary.json").write_text(json.dumps(TOKENS))
    weights, run, vocabulary = (str(tmp_path / name) for name in ("w.pt", "run", "vocabulary.json"))
    shown = command("import", weights, "-o", run, "--vocabulary", vocabulary).stdout
    for text in ("emb.weight", "embedding.weight", "rnn assumed", "not in the file: zeros", "11 × 4"):
        assert text in shown
    assert len(command("generate", run, "-p", "abc", "--max-new-tokens", "9").stdout) == len("abc") + 9 + 1
    before = (tmp_path / "run" / "best.safetensors").read_bytes()
    again = ("import", weights, "-o", run, "--vocabulary", vocabulary)
    refused = command(*again, code=2)
    assert "holds a run already (best.safetensors)" in refused.stderr
    assert "say --overwrite" in refused.stderr
    (tmp_path / "run" / "last.safetensors").write_bytes(before)
    figures = json.loads(command(*again, "--overwrite", "--cell", "rnn_relu", "--json").stdout)
    assert figures["config"]["cell"] == "rnn_relu"
    assert figures["tensors"][0] == {
        "source": "emb.weight", "name": "embedding.weight", "shape": [V, E], "note": ""
    }  # fmt: skip
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["best.safetensors"]
    assert load_checkpoint(run).training["imported"]["file"] == "w.pt"


def test_the_command_writes_a_file_and_says_what_it_needs(tmp_path: Path) -> None:
    written(tmp_path / "w.safetensors", made(lambda: Model("GRU")).state_dict())
    (tmp_path / "words.txt").write_text("".join(f"word{place}\n" for place in range(V)))
    weights, file = str(tmp_path / "w.safetensors"), tmp_path / "model.safetensors"
    done = command("import", weights, "-o", str(file), code=2)
    assert "--vocabulary is needed: the weights know 11 tokens by number alone" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not file.exists()
    words = ("--vocabulary", str(tmp_path / "words.txt"), "--level", "word", "--punctuation", "--lowercase")
    command("import", weights, "-o", str(file), *words)
    settings = load_checkpoint(file).tokenizer.to_dict()
    assert (settings["level"], settings["lowercase"], settings["punctuation"]) == ("word", True, True)
    assert (
        "exists; name another output, or say --overwrite"
        in command("import", weights, "-o", str(file), *words, code=2).stderr
    )
    command("import", weights, "-o", str(file), *words, "--force")
    assert "'word0' is not a single character" in command(
        "import", weights, "-o", str(tmp_path / "run"), *words[:2], code=2
    ).stderr  # fmt: skip
    assert not (tmp_path / "run").exists()
