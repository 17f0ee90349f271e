"""Tests of settings: one definition each, from which check, option, recipe key, search domain and help are made."""

from __future__ import annotations

import math
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import pytest
import typer
from typer.testing import CliRunner

from unrolled.cli.app import app, setting_flags
from unrolled.cli.options.groups import help_text, options_of, settings_of_verb, with_groups
from unrolled.cli.options.recipes import Recipe
from unrolled.cli.options.training import training_options
from unrolled.cli.terminal.error_messages import one_line_message
from unrolled.cli.verbs.lr_find import lr_find
from unrolled.cli.verbs.train import train
from unrolled.cli.verbs.tune import tune
from unrolled.engine.errors import ConfigError, NothingLeftError, SettingName
from unrolled.engine.models.heads import HEADS
from unrolled.engine.runs.recipe import TRAINING_SETTINGS, make_experiment, training_settings
from unrolled.engine.settings import (
    PROBABILITY,
    Around,
    Definition,
    Effect,
    NotSearched,
    Range,
    Setting,
    SettingTable,
    Typed,
    check_settings,
    from_options,
    settings_of,
)
from unrolled.tuning.space import Choices, Numbers, parse_space

VERBS = {"train": train, "tune": tune, "lr-find": lr_find}
ALL_VERBS = [command.callback for command in app.registered_commands if command.callback is not None]
DEFINITIONS = {(one.group, one.field): one for verb in ALL_VERBS for one in settings_of_verb(verb).values()}


@dataclass(frozen=True)
class ToyHead:
    """A group of settings that lives in this test, as the settings of a head would."""

    labels: Annotated[int, Setting("labels", "Number of labels.", "Toy head", Range("2 or more", 2), search="2:9")] = 3
    shape: Annotated[
        str, Setting("toy_shape", "Form of the toy.", "Toy head", choices=("round", "flat"), search="round,flat")
    ] = "flat"
    share: Annotated[
        float | None,
        Setting(
            "toy_share",
            "Share of toys.",
            "Toy head",
            PROBABILITY,
            search=NotSearched("toys of two shares"),
            default="all of them",
            effect=Effect(("toy_shape",), ("round",)),
        ),
    ] = None
    weights: Annotated[
        tuple[float, ...],
        Setting(
            "weights",
            "Weights of the labels.",
            typed=Typed(str, lambda text: tuple(map(float, text.split("/"))), lambda w: "/".join(map(str, w))),
            search=NotSearched("losses of two weightings"),
        ),
    ] = (1.0, 2.5)

    def __post_init__(self) -> None:
        check_settings(self)


@dataclass(frozen=True)
class Twin:
    """A group with an option that the toy head has too."""

    size: Annotated[int, Setting("labels", "Another one.")] = 1


# The definitions of the command line


@pytest.mark.parametrize("definition", DEFINITIONS.values(), ids=lambda definition: definition.option)
def test_a_setting_has_help_a_default_that_it_accepts_and_one_field(definition: Definition) -> None:
    assert help_text(definition)
    definition.check(definition.default)
    typed = definition.typed_default
    assert typed is None or type(typed) is definition.kind
    if definition.setting.default is None:
        assert definition.parse(typed) == definition.default
    held = [settings_of(definition.group)[field].option for field in settings_of(definition.group)]
    assert held.count(definition.option) == 1


@pytest.mark.parametrize("name", VERBS)
def test_each_option_of_a_training_is_that_of_one_setting(name: str) -> None:
    definitions = settings_of_verb(VERBS[name])
    own = {"corpus", "output", "recipe", "preset", "overwrite", "resume", "json", "search"}
    command = typer.main.get_command(app).commands[name]  # type: ignore[attr-defined]
    options = {parameter.name: parameter for parameter in command.params}
    assert set(definitions) == set(options) - own
    for option, definition in definitions.items():
        assert options[option].opts[0] == f"--{option.replace('_', '-')}"
        assert options[option].default == definition.typed_default


@pytest.mark.parametrize("definition", TRAINING_SETTINGS.definitions.values(), ids=lambda one: one.option)
def test_a_setting_of_a_training_says_where_it_is_searched_and_the_domain_is_in_its_range(
    definition: Definition,
) -> None:
    search = definition.setting.search
    assert search is not None
    if isinstance(search, NotSearched):
        assert search.what
        return
    domain = parse_space([definition.option], {})[definition.option]
    for value in domain.extremes:
        definition.check(value)
    if isinstance(search, Around):
        assert set(search.usual) == set(TRAINING_SETTINGS.definitions[search.option].setting.choices or ())
        assert search.otherwise == TRAINING_SETTINGS.definitions[search.option].default


def test_defaults_of_options_make_the_default_experiment() -> None:
    typed = {name: definition.typed_default for name, definition in TRAINING_SETTINGS.definitions.items()}
    assert make_experiment(typed) == make_experiment({})


def test_effects_name_settings_and_their_choices() -> None:
    found = 0
    for definition in TRAINING_SETTINGS.definitions.values():
        if definition.setting.effect is not None:
            found += 1
            for name in definition.setting.effect.on:
                choices = TRAINING_SETTINGS.definitions[name].setting.choices
                assert set(definition.setting.effect.values) <= set(choices or ())
    assert found == 5


# A group of settings from elsewhere


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> SettingTable:
    """Settings of the training of a model with the toy head, which is registered for a test."""
    monkeypatch.setitem(HEADS, "toy", ToyHead)  # type: ignore[arg-type]
    return training_settings("toy")


def toy_app(table: SettingTable) -> typer.Typer:
    """Return a command with a verb that has the settings of a table, and one that has none."""

    def learn(recipe: Recipe = None, *, settings: Any) -> None:
        """Show the values of the toy."""
        print(from_options(ToyHead, settings), make_experiment(settings).model.hidden_size)

    def other() -> None:
        """Do nothing."""

    learn.__annotations__["settings"] = Annotated[Mapping[str, Any], training_options(table)]
    toy = typer.Typer()
    toy.command()(with_groups(learn))
    toy.command()(other)
    return toy


def test_a_head_brings_its_options_help_recipe_keys_and_search_domains(
    toy: SettingTable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    app = toy_app(toy)
    shown = CliRunner().invoke(app, ["learn", "--help"]).output
    assert "Toy head" in shown
    assert "Form of the toy. One of round, flat. [default: flat]" in shown
    assert "Share of toys. [default: all of them]" in shown
    assert "Weights of the labels. [default: 1.0/2.5]" in shown
    assert "--toy-share" not in CliRunner().invoke(app, ["other", "--help"]).output
    (tmp_path / "r.toml").write_text('labels = 7\ntoy-share = 0.25\nhidden = 11\nweights = "3/4"\n')
    given = ("learn", "--recipe", str(tmp_path / "r.toml"), "--toy-shape", "round")
    result = CliRunner().invoke(app, given)
    assert result.output == "ToyHead(labels=7, shape='round', share=0.25, weights=(3.0, 4.0)) 11\n"
    (tmp_path / "r.toml").write_text("labels = 7.5\n")
    failed = CliRunner().invoke(app, given).exception
    assert isinstance(failed, ConfigError)
    assert str(failed).endswith("r.toml: labels: got 7.5, needs a whole number")
    assert parse_space(["labels", "toy-shape"], {}, toy) == {
        "labels": Numbers(2, 9),
        "toy_shape": Choices(("round", "flat")),
    }
    with pytest.raises(ConfigError, match="toy-share is not searched: toys of two shares do not compare"):
        parse_space(["toy-share"], {}, toy)
    with pytest.raises(ConfigError, match="'labels' is no setting"):
        parse_space(["labels"], {})


def test_a_training_has_the_settings_of_its_head_and_of_no_other(toy: SettingTable) -> None:
    own = {definition.option for definition in settings_of(ToyHead).values()}
    common = set(TRAINING_SETTINGS.definitions) - {"tie"}  # of the head next_token
    assert set(toy.definitions) == common | own
    assert set(training_settings("next_token").definitions) == common | {"tie"}


def test_a_toy_without_effect_is_found(toy: SettingTable) -> None:
    typed = {name: definition.typed_default for name, definition in toy.definitions.items()}
    assert toy.without_effect(typed) == []
    assert [one.option for one in toy.without_effect({**typed, "toy_share": 0.5})] == ["toy_share"]
    assert toy.without_effect({**typed, "toy_share": 0.5}, ["toy_shape"]) == []
    assert toy.without_effect({**typed, "toy_share": 0.5, "toy_shape": "round"}) == []


def test_two_parameters_with_one_option_are_refused() -> None:
    def learn(labels: int = 1, *, settings: Annotated[ToyHead, options_of(ToyHead)]) -> None: ...

    with pytest.raises(TypeError, match="learn: labels is an option of two parameters"):
        with_groups(learn)


def test_an_option_has_one_definition(toy: SettingTable) -> None:
    with pytest.raises(TypeError, match="labels is defined twice, by ToyHead and Twin"):
        SettingTable(toy, Twin)
    assert list(toy.only(["labels"]).definitions) == ["labels"]


# Values


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"labels": 1}, "labels: got 1, needs 2 or more"),
        ({"labels": True}, "labels: got True, needs 2 or more"),
        ({"labels": "2"}, "labels: got '2', needs 2 or more"),
        ({"labels": math.inf}, "labels: got inf, needs 2 or more"),
        ({"labels": math.nan}, "labels: got nan, needs 2 or more"),
        ({"share": 1.0}, r"share: got 1\.0, needs a number from 0 up to, not including, 1"),
        ({"shape": "long"}, "shape: got 'long', choose one of round, flat"),
    ],
)
def test_values_are_checked_by_their_definition(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=f"^{message}$") as caught:
        ToyHead(**values)
    assert caught.value.setting == next(iter(values))
    assert ToyHead(share=None) == ToyHead()


def test_open_and_closed_ends_of_ranges() -> None:
    half_open = Range("", 0, 1, open_low=True)
    assert [half_open.holds(value) for value in (0, 1e-9, 1, 1.001)] == [False, True, True, False]
    whole = Range("", 1, 3, whole=True)
    assert [whole.holds(value) for value in (0, 1, 2.0, 3, 4, 10**400)] == [False, True, False, True, False, False]


def test_options_that_are_left_out_have_the_defaults_of_their_fields() -> None:
    assert from_options(ToyHead, {}) == from_options(ToyHead, {"labels": None, "weights": None}) == ToyHead()
    assert from_options(ToyHead, {"toy_share": 0.5, "hidden": 3}) == ToyHead(share=0.5)


# Messages


def test_the_command_line_shows_flags_for_names_that_a_message_marks_and_nothing_else() -> None:
    error = ConfigError(SettingName("tie_weights"), " needs ", SettingName("embedding_size"), " = batch_size.txt")
    assert str(error) == "tie_weights needs embedding_size = batch_size.txt"
    assert error.setting == "tie_weights"
    assert one_line_message(error, setting_flags()) == "--tie needs --embed = batch_size.txt"
    assert one_line_message(ConfigError(SettingName("dropout"), ": got 2"), setting_flags()) == "dropout: got 2"
    assert ConfigError("top_k").setting is None


def test_the_names_in_a_message_survive_the_way_to_another_process() -> None:
    for error in (ConfigError(SettingName("top_k"), ": got 0"), NothingLeftError(("top_k", "min_p"), (3,))):
        again = pickle.loads(pickle.dumps(error))
        assert (type(again), again.parts) == (type(error), error.parts)
        assert one_line_message(again, setting_flags()).startswith("--top-k")
    assert str(again).startswith("top_k, min_p: no token is left to come next in row 3")


def test_flags_are_those_of_the_definitions() -> None:
    flags = setting_flags()
    assert {name: flags[name] for name in ("learning_rate", "batch_size", "clip_norm", "init_scale", "bad_words")} == {
        "learning_rate": "--lr",
        "batch_size": "--batch",
        "clip_norm": "--clip",
        "init_scale": "--init-scale",
        "bad_words": "--bad-word",
    }
    assert {flags[name] for name in ("state_dict_key", "num_beams", "num_return_sequences", "max_prompt_tokens")} == {
        "--state-dict", "--num-beams", "--number", "--max-prompt-tokens",
    }  # fmt: skip
    assert "seed" not in flags
