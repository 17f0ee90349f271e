"""Recipes and presets: a file of options replaces their defaults; flags override the file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from unrolled.cli.app import app
from unrolled.cli.options.groups import settings_of_verb
from unrolled.cli.recipes import FOLDER, PRESETS, read_recipe
from unrolled.cli.verbs.lr_find import lr_find
from unrolled.cli.verbs.train import train
from unrolled.cli.verbs.tune import tune
from unrolled.engine.data.streams import StreamBatches
from unrolled.engine.errors import ConfigError
from unrolled.engine.runs.recipe import TRAINING_SETTINGS, make_experiment
from unrolled.engine.storage.checkpoint import load_checkpoint

TEXT = "the quick brown fox jumps over the lazy dog; pack my box with five dozen jugs.\n" * 12
RECIPE = """
cell = "gru"
hidden = 6
embed = 5
optimizer = "sgd"
lr = 0.5
momentum = 0.9
schedule = "step"
decay = 0.8
decay-after = 3
output_dropout = 0.1
variational = true
sum-over-time = true
split = "0.8,0.2,0"
"""


def trained(tmp_path: Path, *arguments: str) -> dict[str, Any]:
    """Return the training record of a run of the command, with the model's config."""
    (tmp_path / "fox.txt").write_text(TEXT)
    common = ("--steps", "2", "--engine", "numpy", "--batch", "4", "--length", "8", "--no-samples")
    app(["train", str(tmp_path / "fox.txt"), "-o", str(tmp_path / "run"), *common, *arguments], standalone_mode=False)
    checkpoint = load_checkpoint(tmp_path / "run")
    return {**checkpoint.training, "model": checkpoint.config}


def test_a_recipe_sets_options_and_flags_go_before_it(tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text(RECIPE)
    record = trained(tmp_path, "--recipe", str(tmp_path / "r.toml"), "--hidden", "7", "--decay-after", "4")
    model, training, optimizer = record["model"], record["training"], record["optimizer"]
    assert (model.cell, model.hidden_size, model.embedding_size, model.num_layers) == ("gru", 7, 5, 1)
    assert training["decay"] == {"factor": 0.8, "after": 4, "patience": 0}
    assert training["dropout"] == {"inputs": 0, "outputs": 0.1, "variational": True}
    assert (optimizer["name"], optimizer["learning_rate"], optimizer["momentum"]) == ("sgd", 0.5, 0.9)
    assert (optimizer["sum_over_time"], record["data"]["split"]) == (True, [0.8, 0.2, 0.0])


@pytest.mark.parametrize(
    ("recipe", "flags", "expected"),
    [
        ('optimizer = "rmsprop"\nalpha = 0.95', ("--eps", "1e-6"), {"name": "rmsprop", "alpha": 0.95, "eps": 1e-6}),
        ("beta1 = 0.8\neps = 1e-7", ("--beta2", "0.95"), {"name": "adam", "beta1": 0.8, "beta2": 0.95, "eps": 1e-7}),
        ("beta1 = 0.8", ("--optimizer", "adamw", "--beta1", "0.7"), {"name": "adamw", "beta1": 0.7, "beta2": 0.999}),
    ],
)
def test_constants_of_optimizers_come_from_recipes_and_flags(
    recipe: str, flags: tuple[str, ...], expected: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "r.toml").write_text(recipe)
    optimizer = trained(tmp_path, "--recipe", str(tmp_path / "r.toml"), *flags)["optimizer"]
    assert {name: optimizer[name] for name in expected} == expected
    with pytest.raises(ConfigError, match="which goes with"):
        trained(tmp_path, "--recipe", str(tmp_path / "r.toml"), *flags, "--optimizer", "sgd", "--overwrite")


@pytest.mark.parametrize("order", [("--preset", "--recipe"), ("--recipe", "--preset")])
def test_a_recipe_goes_before_a_preset_in_whatever_order(order: tuple[str, str], tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text("hidden = 9\nbatch = 3\n")
    value = {"--preset": "small", "--recipe": str(tmp_path / "r.toml")}
    record = trained(tmp_path, *(part for name in order for part in (name, value[name])))
    assert (record["model"].hidden_size, record["model"].embedding_size) == (9, 64)
    assert (record["training"]["dropout"]["outputs"], record["training"]["schedule"]) == (0.1, "cosine")
    assert record["data"]["batch_size"] == 4  # the flag's


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_is_a_recipe(preset: str, tmp_path: Path) -> None:
    record = trained(tmp_path, "--preset", preset, "--hidden", "4", "--embed", "4", "--length", "4")
    assert record["training"]["dropout"]["outputs"] > 0
    assert record["training"]["epochs"] > 0
    assert {path.stem for path in FOLDER.glob("*.toml")} == set(PRESETS)


@pytest.mark.parametrize(("preset", "steps"), [("small", 2489), ("medium", 1642), ("large", 3973)])
def test_presets_end_where_the_figures_were_measured(preset: str, steps: int) -> None:
    recipe = read_recipe(FOLDER / f"{preset}.toml", settings_of_verb(train))
    data = StreamBatches(np.zeros(1_003_854, np.uint8), recipe["batch"], recipe["length"])
    training = make_experiment({**recipe, "split": "0.9,0.1,0"}).training
    assert (
        training.share_done(steps - 1, data.batches_per_epoch, 0)
        < 1
        <= training.share_done(steps, data.batches_per_epoch, 0)
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("hiden = 6", r"has hiden \(did you mean hidden\?\); known are alpha, average, batch, "),
        ("resume = true", "has resume; known are"),
        ("output = 'x'", "has output; known are"),
        ("[hidden]\nx = 1", "hidden is a dict, needs one value"),
        ("hidden = [1, 2]", "hidden is a list, needs one value"),
        ("hidden = ", "is not TOML"),
    ],
)
def test_what_is_no_recipe_is_said(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        trained(tmp_path, "--recipe", str(tmp_path / "r.toml"))
    assert not (tmp_path / "run").exists()


def test_no_such_recipe_or_preset_and_values_of_the_wrong_kind(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        trained(tmp_path, "--recipe", str(tmp_path / "none.toml"))
    with pytest.raises(ConfigError, match="preset: got 'tiny', choose one of small, medium, large"):
        trained(tmp_path, "--preset", "tiny")
    (tmp_path / "r.toml").write_text('hidden = "many"')
    with pytest.raises(ConfigError, match=r'r\.toml: hidden: got "many", needs a whole number'):
        trained(tmp_path, "--recipe", str(tmp_path / "r.toml"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lr = true", "lr: got true, needs a finite number"),
        ("lr = nan", "lr: got NaN, needs a finite number"),
        ("clip = inf", "clip: got Infinity, needs a finite number"),
        ('lr = "0.1"', 'lr: got "0.1", needs a finite number'),
        (f"lr = 1{400 * '0'}", "lr: got 1000.*, needs a finite number"),
        ('hidden = "16"', 'hidden: got "16", needs a whole number'),
        ("hidden = 16.0", "hidden: got 16.0, needs a whole number"),
        ("layers = true", "layers: got true, needs a whole number"),
        ("output-dropout = false", "output-dropout: got false, needs a finite number"),
        ("tie = 1", "tie: got 1, needs true or false"),
        ('tie = "yes"', 'tie: got "yes", needs true or false'),
        ("cell = 3", "cell: got 3, needs a text in quotes"),
        ("cell = true", "cell: got true, needs a text in quotes"),
        ("seed = 1979-05-27", "seed: got 1979-05-27, needs a whole number"),
        ("input-dropout = 0.1\ninput_dropout = 0.2", "input_dropout is there twice"),
        ("output-droput = 0.1", r"has output-droput \(did you mean output-dropout\?\); known are"),
        ("", "is empty; needs options, for instance hidden = 256"),
        ("# nothing\n", "is empty"),
        ("hidden = [" * 5000, "is not TOML"),
    ],
)
def test_a_value_of_another_type_is_refused_by_file_and_key(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text(text)
    with pytest.raises(ConfigError, match=rf"recipe: .*r\.toml:? {message}"):
        trained(tmp_path, "--recipe", str(tmp_path / "r.toml"))
    assert not (tmp_path / "run").exists()


def test_a_byte_order_mark_is_no_key_and_whole_numbers_are_numbers(tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_bytes(b"\xef\xbb\xbfhidden = 6\r\nembed = 5\r\nlr = 1\r\n")
    record = trained(tmp_path, "--recipe", str(tmp_path / "r.toml"))
    assert (record["model"].hidden_size, record["optimizer"]["learning_rate"]) == (6, 1.0)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("hidden = 6".encode("utf-16"), r"is not UTF-8 \(invalid start byte at byte 0\); save it as that"),
        ('cell = "gr\xfc"'.encode("latin-1"), r"is not UTF-8 \(.* at byte 10\)"),
    ],
)
def test_a_recipe_in_another_encoding_says_so(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_bytes(content)
    with pytest.raises(ConfigError, match=rf"recipe: .*r\.toml {message}"):
        trained(tmp_path, "--recipe", str(tmp_path / "r.toml"))


def test_a_folder_is_no_recipe(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot be read \(Is a directory\)"):
        trained(tmp_path, "--recipe", str(tmp_path))


def test_every_verb_with_recipes_takes_the_kinds_of_its_options() -> None:
    for verb in (train, tune, lr_find):
        kinds = {name: definition.kind for name, definition in settings_of_verb(verb).items()}
        assert set(TRAINING_SETTINGS.definitions) <= set(kinds)
        assert {name: kinds[name] for name in ("hidden", "lr", "tie", "cell", "clip", "split", "lowercase")} == {
            "hidden": int, "lr": float, "tie": bool, "cell": str, "clip": float, "split": str, "lowercase": bool,
        }  # fmt: skip
        assert not {"output", "resume", "corpus", "recipe"} & set(kinds)
    assert settings_of_verb(tune)["minutes"].kind is float


def test_a_resumed_run_takes_its_recipe_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "r.toml").write_text(RECIPE)
    recipe = ("--recipe", str(tmp_path / "r.toml"))
    trained(tmp_path, *recipe)
    trained(tmp_path, *recipe, "--resume", "--steps", "4", "--json")
    assert json.loads(capsys.readouterr().out.rpartition("\n{")[2].join(["{", ""]))["steps"] == 4
    (tmp_path / "r.toml").write_text(RECIPE.replace("lr = 0.5", "lr = 0.6"))
    with pytest.raises(ConfigError, match=r"learning_rate was 0\.5, now 0\.6"):
        trained(tmp_path, *recipe, "--resume", "--steps", "5")


def test_a_wrong_training_setting_is_reported_before_a_split_that_is_no_list_of_numbers() -> None:
    with pytest.raises(ConfigError, match=r"^warmup"):
        make_experiment({"warmup": -1, "split": "all"})
    with pytest.raises(ConfigError, match=r"^split"):
        make_experiment({"split": "all", "batch": 0})
