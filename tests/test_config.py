from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field

import pytest

from raylab.config import differences, fingerprint, flags_of, leaves, parse, parse_beside, to_dict
from raylab.errors import RaylabError
from raylab.recipes.train import TRAIN
from raylab.tune.plan import ScheduleConfig


@dataclass(frozen=True)
class Inner:
    min_score: float = 0.3
    """A number."""
    names: tuple[str, ...] = ("a",)


@dataclass(frozen=True)
class Outer:
    out: str = ""
    inner: Inner = field(default_factory=Inner)
    fast: bool = False


RECIPES = {"plain": Outer, "quick": lambda: Outer(fast=True, inner=Inner(0.9))}


def test_the_recipe_gives_defaults_and_the_line_overrides_them():
    config = parse(RECIPES, "plain", ["--recipe", "quick", "--out", "x", "--inner.min-score", "0.5"], "d")
    assert config == Outer(out="x", inner=Inner(0.5), fast=True)


def test_underscores_and_equals_signs_do_as_well():
    assert parse(RECIPES, "plain", ["--inner.min_score=0.5", "--fast"], "d") == Outer(inner=Inner(0.5), fast=True)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (["--inner.min-scor", "1"], "no flag --inner.min-scor.*'--inner.min-score'"),
        (["--min-score", "1"], "no flag --min-score"),
        (["--recipe", "quik"], "no recipe 'quik'.*'quick'"),
        (["--inner.min-score", "high"], "high"),
    ],
)
def test_a_wrong_line_is_explained_with_the_nearest_name(line, message):
    with pytest.raises(RaylabError, match=message):
        parse(RECIPES, "plain", line, "d")


def test_help_lists_recipes_and_flags(capsys):
    with pytest.raises(SystemExit) as exit_:
        parse(RECIPES, "plain", ["--help"], "Do a thing.")
    assert exit_.value.code == 0
    shown = capsys.readouterr().out
    assert "plain, quick" in shown
    assert "--inner.min-score" in shown


def test_configs_become_plain_values_and_differences_name_the_key():
    old, new = to_dict(Outer()), to_dict(dataclasses.replace(Outer(), inner=Inner(0.4)))
    assert old == {"out": "", "inner": {"min_score": 0.3, "names": ["a"]}, "fast": False}
    assert differences(old, new) == ["inner.min_score: 0.3 -> 0.4"]
    assert fingerprint(old) != fingerprint(new)
    assert fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1})


def test_leaves_are_dotted():
    assert dict(leaves(Outer())) == {"out": "", "inner.min_score": 0.3, "inner.names": ("a",), "fast": False}


@pytest.mark.parametrize("name", TRAIN)
def test_a_recipe_comes_back_from_a_file_and_the_line_goes_over_it(name, tmp_path):
    file = tmp_path / "best.json"
    file.write_text(json.dumps(to_dict(TRAIN[name]())))
    assert parse(TRAIN, "mofi_b16", ["--recipe", str(file)], "") == TRAIN[name]()
    assert parse(TRAIN, "mofi_b16", ["--recipe", str(file), "--steps", "7"], "").steps == 7


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "no recipe there"),
        ("[]", "no recipe there"),
        ('{"steps": 3}', "no recipe there"),
        ('{"recipe": "mofi_b61"}', "Did you mean 'mofi_b16'"),
        ('{"recipe": "mofi_b16", "step": 3}', "Did you mean 'steps'"),
    ],
)
def test_a_file_that_holds_no_recipe_is_named(text, message, tmp_path):
    file = tmp_path / "best.json"
    file.write_text(text)
    with pytest.raises(RaylabError, match=message) as raised:
        parse(TRAIN, "mofi_b16", ["--recipe", str(file)], "")
    assert str(file) in str(raised.value)


def test_flags_of_one_config_are_taken_from_among_others():
    schedule, rest = parse_beside(ScheduleConfig, ["--steps", "3", "--looks", "4", "--space=x"], "")
    assert (schedule.looks, rest) == (4, ["--steps", "3", "--space=x"])
    with pytest.raises(RaylabError, match="looks"):
        parse_beside(ScheduleConfig, ["--looks", "many"], "")


def test_a_flag_that_another_config_was_to_take_is_named_where_it_was_misspelt():
    schedule, rest = parse_beside(ScheduleConfig, ["--lokos", "4"], "")
    with pytest.raises(RaylabError, match=r"no flag --lokos. Did you mean '--looks'"):
        parse(RECIPES, "plain", rest, "", beside=flags_of(schedule))
