"""Files of trainings: their content shows where the weights are, and no code of a file is run."""

from __future__ import annotations

import argparse
import contextlib
import enum
import functools
import io
import json
import pathlib
import pickle
import struct
import subprocess
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import run_command

from unrolled.engine.errors import ConfigError, ModelFileError, UnrolledError
from unrolled.export.importing import torch_files
from unrolled.export.importing.weight_files import read_weights

torch = pytest.importorskip("torch", reason="the torch extra is not installed")
nn = torch.nn
from foreign_models import TOKENS, H, Model, V, assert_logits_of, imported, made, written  # noqa: E402 - needs torch

RAN: list[str] = []  # code of a file that ran


class Mood(enum.Enum):
    """An object that is read by a call of its class."""

    CALM = 1


class Settings:
    """Hyper-parameters of a project's own class, whose code would run when they are read."""

    def __init__(self) -> None:
        self.width, self.path = 3, pathlib.PurePosixPath("a/b")

    def __setstate__(self, state: dict[str, Any]) -> None:
        RAN.append("__setstate__")
        self.__dict__.update(state)


class Attributes(dict):
    """A dictionary like that of Lightning's hyper-parameters."""

    def __setitem__(self, key: Any, value: Any) -> None:
        RAN.append("__setitem__")
        super().__setitem__(key, value)


def lstm() -> Any:
    return made(lambda: Model("LSTM", 2))


def lightning(module: Any) -> dict[str, Any]:
    """Return a checkpoint as Lightning writes it."""
    optimizer = torch.optim.Adam(module.parameters())
    sum(parameter.sum() for parameter in module.parameters()).backward()
    optimizer.step()
    optimizer.zero_grad()
    return {
        "epoch": 3,
        "global_step": 1200,
        "pytorch-lightning_version": "2.5.1",
        "state_dict": {f"model.{name}": value for name, value in module.state_dict().items()},
        "loops": {"fit_loop": {"state_dict": {}, "epoch_progress": {"total": {"ready": 4}}}},
        "callbacks": {"ModelCheckpoint{'monitor': 'val_loss'}": {"best_model_score": torch.tensor(1.5), "k": {}}},
        "optimizer_states": [optimizer.state_dict()],
        "lr_schedulers": [],
        "hparams_name": "kwargs",
        "hyper_parameters": Attributes(
            settings=Settings(), args=argparse.Namespace(lr=0.1), optimizer=functools.partial(torch.optim.Adam, lr=0.1),
            mood=Mood.CALM, where=pathlib.PurePosixPath("/data"), loss=nn.CrossEntropyLoss, seen={1, 2}, dtype=torch.float16,
            score=np.float64(0.5), table=np.arange(3),
        ),
    }  # fmt: skip


@pytest.mark.parametrize("key", ["model_state_dict", "state_dict", "model", "net", "ema", "weights_of_the_model"])
def test_tensors_beside_a_state_dict_do_not_hide_it(tmp_path: Path, key: str) -> None:
    module = lstm()
    beside = {"epoch": 5, "loss": torch.tensor(0.5), "history": {"losses": torch.rand(7)}}
    torch.save({**beside, key: module.state_dict()}, tmp_path / "a.pt")
    assert_logits_of(imported(tmp_path / "a.pt"), module)
    notes = read_weights(tmp_path / "a.pt").notes
    assert notes == [f"read are the tensors under {key}", "left out beside them: epoch, loss, history"]


def test_the_state_of_an_optimiser_is_no_model(tmp_path: Path) -> None:
    module = lstm()
    state = lightning(module)["optimizer_states"][0]
    for name, saved in {
        "inside": {"optimizer": state, "best": {"fold": [{"weights": module.state_dict()}]}},
        "tuple": (module.state_dict(), state),
    }.items():
        torch.save(saved, tmp_path / name)
        assert_logits_of(imported(tmp_path / name), module)


def test_several_models_are_asked_for_and_equal_ones_are_one(tmp_path: Path) -> None:
    module = lstm()
    other = {name: value * 2 for name, value in module.state_dict().items()}
    torch.save({"model": module.state_dict(), "ema": {"decay": 0.9, "shadow": other}}, tmp_path / "a.pt")
    with pytest.raises(ConfigError, match=r"several models, under model, ema\.shadow; name one"):
        read_weights(tmp_path / "a.pt")
    with pytest.raises(ConfigError, match=r"got 'shadow', but weights of .* are under model, ema\.shadow"):
        read_weights(tmp_path / "a.pt", "shadow")
    assert_logits_of(imported(tmp_path / "a.pt", "model"), module)
    found = imported(tmp_path / "a.pt", "ema.shadow")
    np.testing.assert_array_equal(found.params["output.bias"], other["fc.bias"].numpy())
    torch.save({**module.state_dict(), "ema": other}, tmp_path / "top.pt")
    with pytest.raises(ConfigError, match=r"under \., ema; name one"):
        read_weights(tmp_path / "top.pt")
    assert_logits_of(imported(tmp_path / "top.pt", "."), module)
    same = {name: value.clone() for name, value in module.state_dict().items()}
    torch.save({"model": module.state_dict(), "best": same}, tmp_path / "b.pt")
    assert_logits_of(imported(tmp_path / "b.pt"), module)


def test_modules_saved_one_by_one_are_joined(tmp_path: Path) -> None:
    module = lstm()
    parts = {name: getattr(module, name).state_dict() for name in module.names}
    torch.save({"epoch": 1, **parts, "opt": lightning(module)["optimizer_states"][0]}, tmp_path / "a.pt")
    found = imported(tmp_path / "a.pt")
    assert_logits_of(found, module)
    assert found.matches[0].source == "embedding.weight"


@pytest.mark.parametrize("how", [{}, {"_use_new_zipfile_serialization": False}, {"pickle_protocol": 4}])
def test_objects_of_a_training_are_read_past_and_never_run(tmp_path: Path, how: dict[str, Any]) -> None:
    module = lstm()
    saved = lightning(module)
    torch.save(saved, tmp_path / "a.ckpt", **how)
    RAN.clear()
    found = imported(tmp_path / "a.ckpt")
    assert RAN == []
    assert_logits_of(found, module)
    assert found.matches[0].source == "model.embedding.weight"
    torch.load(tmp_path / "a.ckpt", weights_only=False)  # alarm: torch alone runs it
    assert set(RAN) >= {"__setstate__", "__setitem__"}


def mark(text: str) -> None:
    RAN.append(text)


class Calls:
    """An object that asks for a call when it is unpickled."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.asked = function, arguments

    def __reduce__(self) -> Any:
        return self.asked


@pytest.mark.parametrize(
    ("function", "arguments"),
    [(eval, ("1",)), (getattr, (1, "real")), (subprocess.run, (["true"],)), (Path.cwd, ()), (__import__, ("this",))],
)
@pytest.mark.parametrize("beside", [True, False])
def test_a_file_that_asks_for_calls_of_the_library_is_refused(
    tmp_path: Path, function: Any, arguments: tuple[Any, ...], beside: bool
) -> None:
    state = lstm().state_dict()
    bomb = Calls(function, *arguments)
    torch.save({"state_dict": state, "a": bomb} if beside else {**state, "a": bomb}, tmp_path / "a.pt")
    with pytest.raises(ModelFileError, match="holds more than weights"):
        read_weights(tmp_path / "a.pt")


def test_a_call_of_a_projects_own_function_is_not_made(tmp_path: Path) -> None:
    module = lstm()
    torch.save({"state_dict": module.state_dict(), "a": Calls(mark, "ran")}, tmp_path / "a.pt")
    RAN.clear()
    assert_logits_of(imported(tmp_path / "a.pt"), module)
    assert RAN == []
    torch.load(tmp_path / "a.pt", weights_only=False)  # alarm: torch alone makes the call
    assert RAN == ["ran"]


def test_a_memo_of_any_size_takes_no_memory(tmp_path: Path) -> None:
    """The unpickler in C allocates as many memo entries as a file declares."""
    import resource

    data = b"\x80\x02cposixpath\njoin\n0]r" + struct.pack("<I", 2**31) + b"."
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with io.BytesIO() as file:
        file.write(pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2) + pickle.dumps({}, 2) + data)
        (tmp_path / "a.pt").write_bytes(file.getvalue())
    with pytest.raises(ModelFileError):
        read_weights(tmp_path / "a.pt")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1 << 20  # KB


def with_pickle(path: Path, data: bytes) -> Path:
    """Write a file of torch's with complete entries, whose pickle is ``data``."""
    torch.save({"x": 1}, path)
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, data if name.endswith("data.pkl") else content)
    return path


def test_a_byte_array_of_any_size_takes_no_memory(tmp_path: Path) -> None:
    import resource

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    data = b"\x80\x05" + pickle.BYTEARRAY8 + struct.pack("<Q", 2**31) + b"."
    with pytest.raises(ModelFileError, match="damaged"):
        read_weights(with_pickle(tmp_path / "a.pt", data))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1 << 20  # KB


def test_no_state_of_a_file_reaches_a_function_of_torch(tmp_path: Path) -> None:
    """BUILD with a second state sets attributes of the object on the stack, such as a function's defaults."""
    before = torch._utils._rebuild_tensor_v2.__defaults__
    state = pickle.dumps((None, {"__defaults__": ("from the file",)}), 2)[2:-1]
    with pytest.raises(ModelFileError, match="no tensors by name"):
        read_weights(with_pickle(tmp_path / "a.pt", b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n" + state + b"b."))
    assert torch._utils._rebuild_tensor_v2.__defaults__ == before


KEYS = {
    "number": b"\x8b" + struct.pack("<i", 3000) + b"\1" * 3000,
    "tuple": b"K\1" + b"\x85" * 5000,
}


@pytest.mark.parametrize("key", KEYS)
def test_keys_without_a_text_are_passed_over(tmp_path: Path, key: str) -> None:
    with pytest.raises(ModelFileError, match="no tensors by name"):
        read_weights(with_pickle(tmp_path / "a.pt", b"\x80\x02}" + KEYS[key] + b"K\1s."))


def test_attributes_that_a_file_gives_are_not_asked(tmp_path: Path) -> None:
    state = Model("LSTM").state_dict()
    state["rnn.bias_hh_l0"] = nn.Parameter(state["rnn.bias_hh_l0"])
    state["rnn.bias_hh_l0"].numel = 5
    torch.save({"model": state}, tmp_path / "a.pt")
    assert len(read_weights(tmp_path / "a.pt").arrays) == len(state)
    attribute = pickle.dumps({"items": 5}, 2)[2:-1]
    with pytest.raises(ModelFileError, match="no tensors by name"):
        read_weights(with_pickle(tmp_path / "b.pt", b"\x80\x02ccollections\nOrderedDict\n)R" + attribute + b"b."))


@pytest.mark.parametrize("tensors", [False, True])
def test_lists_that_stand_in_each_other_many_times_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tensors: bool
) -> None:
    monkeypatch.setattr(torch_files, "MAX_PLACES", 1000)
    values: Any = {"a": torch.zeros(1)} if tensors else {}
    for _ in range(6):
        values = [values] * 50
    torch.save(values, tmp_path / "a.pt")
    with pytest.raises(ModelFileError, match="more than 1,000 places" if tensors else "no tensors by name"):
        read_weights(tmp_path / "a.pt")


@pytest.mark.parametrize("name", ["a.ckpt", "a.pth.tar", "a.net", "weights", "a.safetensors.bak", "a.model"])
def test_the_content_decides_and_not_the_ending(tmp_path: Path, name: str) -> None:
    module = lstm()
    torch.save(module.state_dict(), tmp_path / "zip")
    torch.save(module.state_dict(), tmp_path / "pickle", _use_new_zipfile_serialization=False)
    written(tmp_path / "a.safetensors", module.state_dict())
    for kind in ("zip", "pickle", "a.safetensors"):
        (tmp_path / "folder").mkdir(exist_ok=True)
        path = tmp_path / "folder" / name
        path.write_bytes((tmp_path / kind).read_bytes())
        assert_logits_of(imported(path), module)


def tar_of(path: Path, tensors: dict[str, Any]) -> Path:
    """Write a tar archive as torch did before 0.2."""
    from collections import OrderedDict

    storages, described, names = io.BytesIO(), io.BytesIO(), OrderedDict()
    pickle.dump(len(tensors), storages, 2)
    pickle.dump(len(tensors), described, 2)
    for place, (name, tensor) in enumerate(tensors.items()):
        pickle.dump((place, "cpu", torch.FloatStorage), storages, 2)
        storages.write(struct.pack("<q", tensor.numel()) + tensor.numpy().tobytes())
        pickle.dump((100 + place, place, torch.FloatTensor), described, 2)
        shape, strides = tensor.shape, tensor.stride()
        described.write(struct.pack("<i4x", tensor.ndim) + struct.pack(f"<{tensor.ndim}q", *shape))
        described.write(struct.pack(f"<{tensor.ndim}q", *strides) + struct.pack("<q", 0))
        names[name] = Reference(100 + place)
    pickle.dump([], storages, 2)
    text = io.BytesIO()
    pickler = pickle.Pickler(text, 2)
    pickler.persistent_id = lambda value: str(value.key) if isinstance(value, Reference) else None  # type: ignore[method-assign]
    pickler.dump(names)
    with tarfile.open(path, "w") as archive:
        for name, file in {"storages": storages, "tensors": described, "pickle": text}.items():
            member = tarfile.TarInfo(name)
            member.size = len(file.getvalue())
            archive.addfile(member, io.BytesIO(file.getvalue()))
    return path


class Reference:
    """A tensor that the pickle refers to by its number."""

    def __init__(self, key: int) -> None:
        self.key = key


def test_tar_archives_of_old_releases_are_read(tmp_path: Path) -> None:
    module = lstm()
    assert_logits_of(imported(tar_of(tmp_path / "a.pth.tar", module.state_dict())), module)


def test_other_archives_and_formats_are_named(tmp_path: Path) -> None:
    state = {name: value.numpy() for name, value in lstm().state_dict().items()}
    np.savez(tmp_path / "a.npz", **state)
    torch.save(lstm().state_dict(), tmp_path / "inner.pt")
    with tarfile.open(tmp_path / "packed.pth.tar", "w") as archive:
        archive.add(tmp_path / "inner.pt", "inner.pt")
    with tarfile.open(tmp_path / "linked.tar", "w") as archive:
        for name in ("storages", "tensors", "pickle"):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
            archive.addfile(member)
    for name, data in {"a.h5": b"\x89HDF\r\n\x1a\n", "a.pt.gz": b"\x1f\x8b\x08", "a.gguf": b"GGUF\3\0\0\0"}.items():
        (tmp_path / name).write_bytes(data + bytes(100))
    for name, message in {
        "a.npz": "a zip archive, but not one of torch's",
        "packed.pth.tar": "a tar archive, but not one of torch's; unpack it",
        "linked.tar": "a tar archive, but not one of torch's",
        "a.h5": "HDF5",
        "a.pt.gz": "gzip",
        "a.gguf": "GGUF",
    }.items():
        with pytest.raises(ModelFileError, match=message):
            read_weights(tmp_path / name)
    written(tmp_path / "a.safetensors", lstm().state_dict())
    with pytest.raises(ConfigError, match=r"a\.safetensors is a \.safetensors file, which holds one"):
        read_weights(tmp_path / "a.safetensors", "model")


@pytest.mark.parametrize("how", ["zip", "pickle", "tar"])
def test_damage_anywhere_is_a_named_error_or_harmless(tmp_path: Path, how: str) -> None:
    saved = lightning(lstm())
    if how == "tar":
        path = tar_of(tmp_path / "a", lstm().state_dict())
    else:
        path = tmp_path / "a"
        torch.save(saved, path, _use_new_zipfile_serialization=how == "zip")
    data = path.read_bytes()
    rng = np.random.default_rng(7)
    for place in rng.integers(0, len(data), 150):
        spoilt = bytearray(data)
        if place % 3:
            spoilt[place] ^= int(rng.integers(1, 256))
        else:
            del spoilt[place:]
        path.write_bytes(spoilt)
        RAN.clear()
        with contextlib.suppress(UnrolledError):
            read_weights(path)
        assert RAN == []


def test_the_command_names_its_options(tmp_path: Path) -> None:
    module = lstm()
    other = {name: value * 2 for name, value in module.state_dict().items()}
    extra = {**module.state_dict(), "value.weight": torch.zeros(1, H)}
    torch.save({"model": extra, "ema": other}, tmp_path / "w.ckpt")
    (tmp_path / "v.json").write_text(json.dumps(TOKENS))
    weights, run = str(tmp_path / "w.ckpt"), str(tmp_path / "run")
    base = ("import", weights, "-o", run, "--vocabulary", str(tmp_path / "v.json"))
    refused = run_command(*base, code=2).stderr
    assert f"--state-dict: {weights} holds several models, under model, ema; name one" in " ".join(refused.split())
    refused = run_command(*base, "--state-dict", "model", code=2).stderr
    assert "say --ignore value.weight" in " ".join(refused.split())
    shown = json.loads(run_command(*base, "--state-dict", "model", "--ignore", "value.*", "--json").stdout)
    assert shown["ignored"] == ["value.weight"]
    assert shown["notes"][:2] == ["read are the tensors under model", "left out beside them: ema"]
    assert "this model computes something else: compare them" in shown["notes"][2]
    assert shown["config"]["vocab_size"] == V
    best = str(tmp_path / "run" / "best.safetensors")
    again = ("import", best, "-o", run, "--vocabulary", str(tmp_path / "v.json"), "--overwrite")
    assert "is read and cannot be written at once" in " ".join(run_command(*again, code=2).stderr.split())
