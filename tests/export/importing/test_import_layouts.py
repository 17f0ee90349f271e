"""Import keeps the function: it combines weights in parts as torch does, and leaves out no tensor that logits depend on."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from unrolled.engine.errors import ConfigError, ModelFileError, UnrolledError
from unrolled.export.importing.language_model import import_weights
from unrolled.export.importing.reparametrization import recombine

torch = pytest.importorskip("torch", reason="the torch extra is not installed")
nn = torch.nn
from foreign_models import E, H, Model, V, assert_logits_of, imported, made, written  # noqa: E402 - needs torch
from torch.nn.utils import parametrizations, prune  # noqa: E402 - needs torch

pytestmark = pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated")

Change = Callable[[Any, str], Any]


def trained(norm: Change) -> Change:
    """Return a spectral norm after training steps, which change its vectors."""

    def changed(module: Any, name: str) -> Any:
        norm(module, name)
        module.train()
        for _ in range(3):
            for hook in module._forward_pre_hooks.values():
                hook(module, None)
            getattr(module, name)
        return module.eval()

    return changed


def old_spectral(dim: int) -> Change:
    return trained(lambda module, name: nn.utils.spectral_norm(module, name, dim=dim))


def new_spectral(dim: int) -> Change:
    return trained(lambda module, name: parametrizations.spectral_norm(module, name, dim=dim))


CHANGES: dict[str, Change] = {
    **{
        f"weight norm {dim}": lambda module, name, dim=dim: nn.utils.weight_norm(module, name, dim)
        for dim in (0, 1, None)
    },
    **{
        f"new weight norm {dim}": lambda module, name, dim=dim: parametrizations.weight_norm(module, name, dim)
        for dim in (0, 1, -1)
    },
    **{f"spectral norm {dim}": old_spectral(dim) for dim in (0, 1)},
    **{f"new spectral norm {dim}": new_spectral(dim) for dim in (0, 1)},
    "pruned": lambda module, name: prune.random_unstructured(module, name, amount=0.4),
}
TENSORS = {
    "embedding": ("embedding", "weight"),
    "recurrent": ("rnn", "weight_hh_l0"),
    "input": ("rnn", "weight_ih_l1"),
    "output": ("fc", "weight"),
}


PLAIN = set(Model("LSTM", 2).state_dict())


def changed(change: str, tensor: str, **how: Any) -> Any:
    module = made(lambda: Model("LSTM", 2, **how))
    place, name = TENSORS[tensor]
    CHANGES[change](getattr(module, place), name)
    with torch.no_grad():  # training moves them away from the parts of the plain weight
        for key, value in module.named_parameters():
            if re.search(r"(_g|_v|_orig|original[01]?)$", key):
                value.mul_(1.0 + torch.rand(value.shape))
    if "weight norm" in change and "new" not in change:  # an LSTM's forward runs before the hook that computes it
        for hook in getattr(module, place)._forward_pre_hooks.values():
            hook(getattr(module, place), None)
    return module


@pytest.mark.parametrize("tensor", TENSORS)
@pytest.mark.parametrize("change", CHANGES)
def test_weights_in_parts_become_torchs_own(tmp_path: Path, change: str, tensor: str) -> None:
    module = changed(change, tensor)
    state = module.state_dict()
    place, name = TENSORS[tensor]
    assert f"{place}.{name}" not in state
    found = imported(written(tmp_path / "a.pt", state))
    module(torch.zeros(1, 3, dtype=torch.long))  # hooks compute the plain weights before a call
    ours = {"embedding.weight": "embedding.weight", "fc.weight": "output.weight"}.get(f"{place}.{name}")
    match = next(m for m in found.matches if m.note in ("weight norm", "spectral norm", "pruning"))
    assert match.name == (ours or match.name)
    assert set((match.source or "").split(", ")) == {key for key in state if key.startswith(place) and key not in PLAIN}
    expected = getattr(getattr(module, place), name).detach().numpy()
    np.testing.assert_allclose(found.params[match.name], expected, rtol=3e-6, atol=1e-7)
    assert_logits_of(found, module)


@pytest.mark.parametrize(
    ("change", "alone"),
    [
        ("weight norm 0", "fc.weight_v"),
        ("new weight norm 0", "fc.parametrizations.weight.original1"),
        ("spectral norm 0", "fc.weight_orig"),
        ("pruned", "fc.weight_orig"),
    ],
)
def test_alarm_a_part_alone_is_another_model(change: str, alone: str) -> None:
    module = changed(change, "output")
    weights = {name: value.numpy() for name, value in module.state_dict().items()}
    plain = {name: value for name, value in weights.items() if name in PLAIN}
    with pytest.raises(AssertionError):
        assert_logits_of(import_weights({**plain, "fc.weight": weights[alone]}), module)


@pytest.mark.parametrize("left", [["fc.weight_g"], ["fc.weight_v"], ["fc.*"]])
@pytest.mark.parametrize("missing", ["fc.weight_g", "fc.weight_v"])
def test_an_output_in_parts_is_never_taken_for_a_tied_one(missing: str, left: list[str]) -> None:
    """Refuse to tie the output to an embedding that fits by its shape, as it does with E = H."""
    module = made(lambda: Model("LSTM", 1, tied=True))
    module.fc.weight = nn.Parameter(module.fc.weight.detach().clone() * 2)
    nn.utils.weight_norm(module.fc)
    weights = {name: value.numpy() for name, value in module.state_dict().items()}
    assert_logits_of(import_weights(weights), module)
    del weights[missing]
    for settings in ({}, {"tie": True}):
        with pytest.raises(ModelFileError, match=r"no output layer|reparametrised"):
            import_weights(weights, ignore=left, **settings)


def parts(**shapes: tuple[int, ...]) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(3)
    return {f"fc.weight_{part}": rng.standard_normal(shape).astype(np.float32) for part, shape in shapes.items()}


def transposed_square() -> dict[str, np.ndarray]:
    linear = old_spectral(1)(nn.Linear(7, 7, bias=False), "weight")
    return {f"fc.{name}": value.numpy() for name, value in linear.state_dict().items()}


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (lambda: parts(g=(V + 1, 1), v=(V, H)), r"weight_g, fc\.weight_v: shapes .* not those of a weight norm"),
        (lambda: parts(g=(V, 1, 1), v=(V, H)), "not those of a weight norm"),
        (lambda: parts(orig=(V, H), u=(V,), v=(V,)), "not those of a spectral norm"),
        (lambda: parts(orig=(V, H), mask=(H, V)), "a weight and its mask differ"),
        (lambda: {**parts(g=(V, 1), v=(V, H)), "fc.weight": np.zeros((V, H))}, "parts that make another of it"),
        (transposed_square, "a spectral norm of the transposed matrix"),
    ],
)
def test_parts_that_do_not_fit_are_named(weights: Callable[[], dict[str, np.ndarray]], message: str) -> None:
    with pytest.raises(ModelFileError, match=message):
        recombine(weights())


def test_a_square_spectral_norm_is_torchs(tmp_path: Path) -> None:
    for make in (old_spectral, new_spectral):
        torch.manual_seed(2)
        linear = make(0)(nn.Linear(7, 7), "weight")
        whole = recombine({name: value.numpy() for name, value in linear.state_dict().items()})
        linear(torch.zeros(1, 7))
        np.testing.assert_allclose(whole.arrays["weight"], linear.weight.detach().numpy(), rtol=3e-6, atol=1e-7)


def test_other_parametrizations_are_refused(tmp_path: Path) -> None:
    module = made(lambda: Model("LSTM", 1))
    parametrizations.orthogonal(module.fc)
    with pytest.raises(ModelFileError, match="a reparametrised weight"):
        imported(written(tmp_path / "a.pt", module.state_dict()), ignore=["*"])


class Extended(Model):
    """A model with one more part between its layers."""

    def __init__(self, part: str, module: Any) -> None:
        super().__init__("LSTM", 1)
        if isinstance(module, torch.Tensor):
            self.register_buffer(part, module)
        else:
            self.add_module(part, module)


CHANGING: dict[str, tuple[str, Callable[[], Any], str]] = {
    "layer norm": ("norm", lambda: nn.LayerNorm(H), "a normalisation"),
    "layer norm without words": ("extra", lambda: nn.LayerNorm(H), "a normalisation or activation"),
    "batch norm": ("between", lambda: nn.BatchNorm1d(H), "a normalisation"),
    "batch norm without weights": ("between", lambda: nn.BatchNorm1d(H, affine=False), "a normalisation"),
    "ln_f": ("ln_f", lambda: nn.LayerNorm(H), "a normalisation"),
    "attention": ("attn", lambda: nn.Linear(H, H), "an attention"),
    "multi-head attention": ("self_attention", lambda: nn.MultiheadAttention(H, 1), "an attention"),
    "attention, in short": ("att", lambda: nn.Linear(H, H), "an attention"),
    "positions": ("pos_emb", lambda: nn.Embedding(7, E), "a positional embedding"),
    "convolution": ("local", lambda: nn.Conv1d(E, E, 3), "a convolution"),
    "activation": ("act", lambda: nn.PReLU(H), "a normalisation or activation"),
    "h0": ("h0", lambda: torch.ones(1, 1, H), "a learned initial state"),
    "c_0": ("c_0", lambda: torch.ones(1, 1, H), "a learned initial state"),
    "init_hidden": ("init_hidden", lambda: torch.ones(1, H), "a learned initial state"),
    "initial state of a layer": ("init_state", lambda: nn.Linear(1, H), "a learned initial state"),
    "peephole": ("peephole", lambda: nn.Linear(H, H), "a peephole"),
    "peephole of a gate": ("weight_co_l0", lambda: torch.ones(H), "a peephole"),
    "peephole in short": ("W_ci", lambda: torch.ones(H), "a peephole"),
}


@pytest.mark.parametrize("case", CHANGING)
@pytest.mark.parametrize("ignore", [(), ["*"]])
def test_what_changes_the_logits_is_refused_whatever_is_to_be_ignored(case: str, ignore: list[str]) -> None:
    part, build, meaning = CHANGING[case]
    module = made(lambda: Extended(part, build()))
    weights = {name: value.numpy() for name, value in module.state_dict().items()}
    with pytest.raises(ModelFileError, match=rf"{part}.*{meaning}.*cannot be imported, and --ignore does not"):
        import_weights(weights, ignore=ignore)


HARMLESS: dict[str, tuple[str, Callable[[], Any], str]] = {
    "weights of classes": ("criterion", lambda: nn.CrossEntropyLoss(weight=torch.ones(V)), "the weights of classes"),
    "averaged": ("n_averaged", lambda: torch.tensor(3), "a counter"),
    "zero state": ("h0", lambda: torch.zeros(1, 1, H), "an initial state of zeros"),
}


@pytest.mark.parametrize("case", HARMLESS)
def test_what_cannot_change_the_logits_is_left_out_and_noted(tmp_path: Path, case: str) -> None:
    part, build, meaning = HARMLESS[case]
    module = made(lambda: Extended(part, build()))
    found = imported(written(tmp_path / "a.pt", module.state_dict()))
    assert_logits_of(found, module)
    assert len(found.ignored) == 1
    assert found.ignored[0].startswith(part)
    assert any(note.startswith(part) and f"left out, {meaning}" in note for note in found.notes)


def weights_of(module: Any, **more: Any) -> dict[str, np.ndarray]:
    state = {name: value.numpy() for name, value in module.state_dict().items()}
    return {**state, **{name.replace("__", "."): value for name, value in more.items()}}


def test_ignoring_needs_each_tensor_by_name_and_is_noted() -> None:
    module = made(lambda: Model("LSTM", 1))
    weights = weights_of(module, value__weight=np.ones((1, H)), value__bias=np.ones(1), gain=np.ones(()))
    for ignore, message in (
        ((), r"value\.weight, value\.bias, gain: .* say --ignore value\.weight and the others"),
        (["value.*"], "gain: .* say --ignore gain$"),
        (["value.*", "gian"], "--ignore: 'gian' matches no tensor that is left over; these are value"),
        (["value.*", "gain", "fc.bias"], r"--ignore: 'fc\.bias' matches no tensor"),
    ):
        with pytest.raises(UnrolledError, match=message):
            import_weights(weights, ignore=ignore)
    found = import_weights(weights, ignore=["value.*", "gain"])
    assert found.ignored == ["gain", "value.bias", "value.weight"]
    assert any("left out as --ignore says; if the original's logits depend on it" in note for note in found.notes)


@pytest.mark.parametrize("missing", ["embedding.weight", "fc.weight"])
def test_an_end_is_taken_for_tied_only_where_that_was_said(missing: str) -> None:
    """Tie matrices on request only: with E = H either would fit in both places."""
    module = made(lambda: Model("GRU", 1, tied=True))
    weights = {name: value for name, value in weights_of(module).items() if name != missing}
    with pytest.raises(ModelFileError, match=r"no (embedding|output layer): .* say --tie"):
        import_weights(weights)
    found = import_weights(weights, tie=True)
    assert found.config.tie_weights
    assert_logits_of(found, module)


def test_ends_that_names_do_not_tell_are_named() -> None:
    module = made(lambda: Model("LSTM", 1, ("wte", "rnn", "head")))
    other = np.ones((V, E), np.float32)
    weights = weights_of(module, embed__weight=other, value__weight=np.ones((2, H)), out__weight=np.ones((3, H)))
    with pytest.raises(
        ModelFileError, match=r"embed\.weight, wte\.weight: several embeddings.* say which with --embedding"
    ):
        import_weights(weights)
    with pytest.raises(ModelFileError, match=r"head\.weight, out\.weight: several output layers.* with --output-layer"):
        import_weights(weights, embedding="wte")
    with pytest.raises(ModelFileError, match=r"embed\.weight, value\.weight, out\.weight: no part"):
        import_weights(weights, embedding="wte", output_layer="head.weight")
    with pytest.raises(ConfigError, match="--embedding: got 'table', which is no matrix of the file; there are embed"):
        import_weights(weights, embedding="table")
    with pytest.raises(ConfigError, match="--output-layer: got 'rnn'"):
        import_weights(weights, output_layer="rnn")
    left = ["embed.weight", "value.*", "out.*"]
    found = import_weights(weights, embedding="wte", output_layer="head", ignore=left)
    assert_logits_of(found, module)
    swapped = import_weights(weights, embedding="embed", output_layer="head", ignore=["wte.*", "value.*", "out.*"])
    np.testing.assert_array_equal(swapped.params["embedding.weight"], other)


def test_ends_under_any_name_are_found_where_they_are_named() -> None:
    """Both are (V, H), so their shapes do not distinguish them either."""
    module = made(lambda: Model("LSTM", 1, ("reads", "rnn", "writes"), output_bias=False))
    module.reads = nn.Embedding(V, H)
    module.rnn = nn.LSTM(H, H, batch_first=True)
    weights = weights_of(module)
    with pytest.raises(UnrolledError):
        import_weights(weights)
    assert_logits_of(import_weights(weights, embedding="reads", output_layer="writes"), module)


def test_one_of_several_recurrent_stacks_is_named() -> None:
    module = made(lambda: Model("LSTM", 2))
    reader = made(lambda: nn.LSTM(E, H, 1, bidirectional=True))
    weights = {**weights_of(module), **{f"reader.{name}": value.numpy() for name, value in reader.state_dict().items()}}
    with pytest.raises(ModelFileError, match="a bidirectional layer"):
        import_weights(weights)
    forward = {name: value for name, value in weights.items() if "_reverse" not in name}
    with pytest.raises(ModelFileError, match=r"under reader\., rnn\.: .* --recurrent"):
        import_weights(forward)
    with pytest.raises(ConfigError, match="--recurrent: no recurrent layer is under 'lstm'; there are reader, rnn"):
        import_weights(weights, recurrent="lstm")
    with pytest.raises(ModelFileError, match=r"reader\.weight_ih_l0, .*: no part"):
        import_weights(weights, recurrent="rnn")
    assert_logits_of(import_weights(weights, recurrent="rnn", ignore=["reader.*"]), module)


class Fastai(nn.Module):
    """Names of fastai's AWD-LSTM, with equal widths: a weight-dropped module per layer, the embedding stored twice, tied."""

    def __init__(self) -> None:
        super().__init__()
        first = nn.Module()
        first.encoder = nn.Embedding(V, H)
        first.encoder_dp = nn.Module()
        first.encoder_dp.emb = first.encoder
        first.rnns = nn.ModuleList(nn.Module() for _ in range(2))
        for layer in first.rnns:
            layer.module = nn.LSTM(H, H)
            layer.weight_hh_l0_raw = nn.Parameter(layer.module.weight_hh_l0.detach().clone())
        second = nn.Module()
        second.decoder = nn.Linear(H, V)
        second.decoder.weight = first.encoder.weight
        self.add_module("0", first)
        self.add_module("1", second)

    def forward(self, tokens: Any) -> Any:
        first, second = self._modules["0"], self._modules["1"]
        x = first.encoder(tokens.T)
        for layer in first.rnns:
            x, _ = layer.module(x)
        return second.decoder(x).transpose(0, 1)


class CharRnn(nn.Module):
    """A one-hot character model as in courses, with layers of cells."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm1, self.lstm2, self.fc = nn.LSTMCell(V, H), nn.LSTMCell(H, H), nn.Linear(H, V)

    def forward(self, tokens: Any) -> Any:
        first = second = None
        steps = []
        for x in nn.functional.one_hot(tokens.T, V).float():
            first = self.lstm1(x, first)
            second = self.lstm2(first[0], second)
            steps.append(self.fc(second[0]))
        return torch.stack(steps, 1)


def test_layouts_of_well_known_projects(tmp_path: Path) -> None:
    averaged = torch.optim.swa_utils.AveragedModel
    for name, build, wrap in (
        ("fastai", Fastai, lambda module: {"model": module.state_dict(), "opt": {"state": [{"mom": torch.ones(3)}]}}),
        (
            "char-rnn.net",
            CharRnn,
            lambda module: {"n_hidden": H, "state_dict": module.state_dict(), "tokens": ("a", "b")},
        ),
        (
            "word_language_model.pt",
            lambda: Model("LSTM", 2, ("encoder", "rnn", "decoder"), tied=True),
            lambda module: module.state_dict(),
        ),
        ("compiled", lambda: Model("GRU"), lambda module: torch.compile(module).state_dict()),
        ("compiled.parallel", lambda: Model("GRU"), lambda m: nn.DataParallel(torch.compile(m)).state_dict()),
        ("swa", lambda: Model("GRU"), lambda module: averaged(module).state_dict()),
    ):
        module = made(build)
        torch.save(wrap(module), tmp_path / name)
        assert_logits_of(imported(tmp_path / name), module)
