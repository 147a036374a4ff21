"""What a sweep may change is understood, or refused with the way out; what is drawn becomes a config."""

from __future__ import annotations

from dataclasses import replace

import pytest

from raylab.errors import RaylabError
from raylab.recipes.train import TRAIN
from raylab.sources.base import SourceConfig
from raylab.train.plan import ParallelConfig, TrainConfig
from raylab.tune.spaces import (
    SPACES,
    Domain,
    Fit,
    applied,
    check_space,
    own_values,
    parse_domain,
    parse_space,
    shares_survey,
    space_of,
    take_space,
    within,
)


def recipe(name: str) -> TrainConfig:
    return replace(TRAIN[name](), source=SourceConfig(uri="pairs"), labels="labels", kb="kb", out="out")


@pytest.mark.parametrize("name", TRAIN)
def test_every_recipe_has_a_space_that_fits_it(name: str) -> None:
    space = parse_space(SPACES[name])
    assert space
    check_space(recipe(name), space, Fit())


@pytest.mark.parametrize("name", TRAIN)
def test_the_recipes_own_values_make_the_recipe(name: str) -> None:
    made = recipe(name)
    assert applied(made, own_values(made, parse_space(SPACES[name])), Fit("linear")) == made


def test_a_domain_holds_what_may_be_drawn() -> None:
    held = {"uniform(0, 1)": 1.0, "randint(1, 8)": 7, "powers_of_two(16, 64)": 32, "choice(a, b)": "b"}
    out = {"uniform(0, 1)": 1.1, "randint(1, 8)": 8, "powers_of_two(16, 64)": 48, "choice(a, b)": "c"}
    assert all(parse_domain("x", text).holds(value) for text, value in held.items())
    assert not any(parse_domain("x", text).holds(value) for text, value in out.items())


def test_domains_are_written_as_ray_tunes() -> None:
    assert parse_domain("x", "loguniform(1e-5, 1e-3)") == Domain("loguniform", (1e-5, 1e-3))
    assert parse_domain("x", " choice( ddp, fsdp ) ") == Domain("choice", ("ddp", "fsdp"))
    assert parse_domain("x", "choice(true, false)") == Domain("choice", (True, False))
    assert parse_domain("x", "powers_of_two(16, 128)").values == (16, 32, 64, 128)
    assert parse_domain("x", "randint(1, 8)").edges == (1, 7)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("0.1", "write such as loguniform"),
        ("unform(0, 1)", "Did you mean 'uniform'"),
        ("uniform(1)", "two numbers"),
        ("uniform(a, b)", "two numbers"),
        ("uniform(1, 1)", "first has to be below"),
        ("uniform(0, nan)", "first has to be below"),
        ("loguniform(0, 1)", "above 0"),
        ("randint(0.5, 3)", "whole numbers"),
        ("powers_of_two(12, 64)", "powers of two"),
        ("choice()", "no values"),
    ],
)
def test_a_bad_domain_says_what_is_wrong(text: str, complaint: str) -> None:
    with pytest.raises(RaylabError, match=complaint):
        parse_domain("task.smoothing", text)


@pytest.mark.parametrize(
    ("field", "text", "complaint"),
    [
        ("optim.lr_decodr", "uniform(0.1, 1)", "Did you mean 'optim.lr_decoder'"),
        ("batch", "uniform(1, 2)", "whole number"),
        ("task.smoothing", "choice(yes, no)", "not of the kind"),
        ("task.smoothing", "uniform(0, 1.5)", "below 1"),
        ("optim.rate", "uniform(0, 1)", "above 0"),
        ("parallel.precision", "choice(fp32, fp64)", "fp64"),
        ("parallel.accumulate", "choice(1, 2)", "follows from the batch"),
    ],
)
def test_a_field_or_value_that_the_recipe_refuses_is_refused_before_the_sweep(
    field: str, text: str, complaint: str
) -> None:
    with pytest.raises(RaylabError, match=complaint):
        check_space(recipe("git_large"), parse_space({field: text}), Fit())


def test_two_fields_that_decide_the_same_are_refused() -> None:
    space = parse_space({"optim.lr_decoder": "uniform(0.1, 1)", "optim.rate": "uniform(0.1, 1)"})
    with pytest.raises(RaylabError, match=r"decides optim.rate"):
        check_space(recipe("git_large"), space, Fit())


def test_encoders_and_decoders_rates_are_absolute() -> None:
    both = applied(recipe("git_large"), {"optim.lr_encoder": 1e-6, "optim.lr_decoder": 5e-5}, Fit())
    assert both.optim.rate == 5e-5
    assert both.task.encoder_rate == pytest.approx(0.02)  # type: ignore[attr-defined]
    one = applied(recipe("git_oven"), {"optim.lr_encoder": 3e-7}, Fit())
    assert one.optim.rate == pytest.approx(3e-6)  # the recipe's ratio stays
    assert one.task.encoder_rate == pytest.approx(0.1)  # type: ignore[attr-defined]


def test_the_papers_rates_for_oven_are_a_space() -> None:
    assert parse_space(SPACES["git_oven"])["optim.lr_encoder"].values == (1e-7, 3e-7, 1e-6)


def test_a_larger_batch_takes_more_passes_of_the_recipes_size() -> None:
    config = replace(recipe("git_miniworld"), batch=64, parallel=ParallelConfig(workers=2))
    passes = {batch: applied(config, {"batch": batch}, Fit()).parallel.accumulate for batch in (32, 64, 128, 512)}
    assert passes == {32: 1, 64: 1, 128: 2, 512: 8}
    assert applied(config, {"batch": 128}, Fit(most_rows=16)).parallel.accumulate == 4
    assert applied(config, {}, Fit(most_rows=8)).parallel.accumulate == 4


@pytest.mark.parametrize(("rule", "factor"), [("none", 1.0), ("sqrt", 2.0), ("linear", 4.0)])
def test_rates_follow_the_batch_by_a_rule(rule: str, factor: float) -> None:
    config = recipe("mofi_miniworld")
    found = applied(config, {"batch": 4 * config.batch, "optim.rate": 1e-3}, Fit(rule))
    assert found.optim.rate == pytest.approx(factor * 1e-3)
    assert found.optim.table_rate == pytest.approx(factor * config.optim.table_rate)


def test_a_lines_space_joins_the_recipes() -> None:
    line = ["--recipe", "x", "--space.task.smoothing", "none", "--space.optim.betas=choice(a)", "--samples", "3"]
    texts, rest = take_space(line)
    assert rest == ["--recipe", "x", "--samples", "3"]
    assert set(space_of("git_miniworld", texts)) == {"optim.rate", "batch", "optim.betas"}
    assert space_of("git_miniworld", take_space(["--space", "none"])[0]) == {}
    with pytest.raises(RaylabError, match="domain is missing"):
        take_space(["--space.batch"])
    with pytest.raises(RaylabError, match=r"--space.FIELD"):
        take_space(["--space", "uniform(0, 1)"])


def test_trials_that_learn_from_other_rows_share_no_survey() -> None:
    assert shares_survey(parse_space({"batch": "choice(1, 2)", "task.smoothing": "uniform(0, 1)"}))
    assert not shares_survey(parse_space({"data.rows": "choice(labelled, all)"}))
    assert not shares_survey(parse_space({"task.targets.rationale": "choice(0, 1)"}))


def test_values_that_a_population_moved_stay_within_their_bounds() -> None:
    space = parse_space(
        {"a": "uniform(0, 1)", "b": "loguniform(1e-4, 1e-2)", "c": "randint(2, 8)", "d": "choice(x, y)"}
    )
    assert within(space, {"a": 1.2, "b": 8e-5, "c": 2.4, "d": "x"}) == {"a": 1, "b": 1e-4, "c": 2, "d": "x"}
    assert within(space, {"a": 0.4, "b": 5e-3, "c": 9.6, "d": "y"}) == {"a": 0.4, "b": 5e-3, "c": 7, "d": "y"}
