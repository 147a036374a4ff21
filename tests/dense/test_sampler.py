"""Cells are drawn by seed and by what is known, none twice; the worse ones end early."""

from __future__ import annotations

import math

import pytest

from raylab.dense.sampler import Sampler, goes_on
from raylab.dense.search_plan import SamplerConfig
from raylab.errors import RaylabError
from raylab.models.cell_space import PUBLISHED, Cell, cell_at


def differing(one: Cell, other: Cell) -> int:
    return sum(a != b for a, b in zip(one, other))


def test_the_same_seed_and_the_same_scores_draw_the_same_cells() -> None:
    def drawn(seed: int) -> list[Cell]:
        sampler = Sampler(SamplerConfig(), 5, seed)
        found = []
        for number in range(30):
            found.append(sampler.draw(number))
            sampler.note(found[-1], math.sin(number))
        return found

    assert drawn(1) == drawn(1) != drawn(2)
    assert len(set(drawn(1))) == 30


def test_a_search_that_goes_on_draws_as_if_it_had_not_ended() -> None:
    whole, again = Sampler(SamplerConfig(), 5, 3), Sampler(SamplerConfig(), 5, 3)
    cells = []
    for number in range(20):
        cells.append(whole.draw(number))
        whole.note(cells[-1], number / 20)
    for number, cell in enumerate(cells[:12]):
        again.note(cell, number / 20)
    for number in range(12, 20):
        assert again.draw(number) == cells[number]
        again.note(cells[number], number / 20)


def test_near_best_draws_near_the_best_and_uniform_does_not() -> None:
    others = [cell_at(number * 10**7 + 1) for number in range(30)]
    near, uniform = (Sampler(SamplerConfig(kind, best=1), 5, 0) for kind in ("near_best", "uniform"))
    for sampler in (near, uniform):
        sampler.note(PUBLISHED, 0.9)
        for place, cell in enumerate(others):
            sampler.note(cell, 0.1 + place / 1000)
    close = sum(differing(near.draw(number), PUBLISHED) == 1 for number in range(100, 300))
    assert 75 < close < 125  # half of them, by `uniform_share`
    assert all(differing(uniform.draw(number), PUBLISHED) > 1 for number in range(100, 200))


def test_cells_without_a_score_are_not_drawn_near() -> None:
    sampler = Sampler(SamplerConfig(uniform_share=0.0), 5, 0)
    sampler.note(PUBLISHED, math.nan)
    sampler.note(cell_at(5), None)
    assert differing(sampler.draw(0), PUBLISHED) > 1  # nothing is known: uniform


def test_a_space_that_is_used_up_says_so() -> None:
    sampler = Sampler(SamplerConfig("uniform"), 1, 0)
    assert len({sampler.draw(number) for number in range(81)}) == 81
    with pytest.raises(RaylabError, match="81 cells were tried"):
        sampler.draw(81)


def test_of_three_cells_at_a_look_one_goes_on() -> None:
    assert goes_on(0.1, [], 3)  # the first one always does
    assert not goes_on(0.1, [0.2, 0.3], 3) and goes_on(0.4, [0.2, 0.3], 3)
    assert not goes_on(math.nan, [], 3)
    values = [0.1 * number for number in range(9)]
    assert [goes_on(value, [one for one in values if one != value], 3) for value in values] == [False] * 6 + [True] * 3
    assert all(goes_on(value, values, 1) for value in values)
