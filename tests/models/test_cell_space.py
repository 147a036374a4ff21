"""The space of cells: exactly as large as it is said to be, in DeepLab's format."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from raylab.errors import RaylabError
from raylab.models.cell_space import (
    ASPP,
    NAMED,
    OPERATORS,
    PUBLISHED,
    Branch,
    branch_weights,
    cell_at,
    from_json,
    near,
    read_cell,
    space_size,
    to_json,
    uniform,
)

DEEPLAB = """[
{"kernel": 3, "rate": [1, 6], "op": "conv", "input": -1},
{"kernel": 3, "rate": [18, 15], "op": "conv", "input": 0},
{"kernel": 3, "rate": [6, 3], "op": "conv", "input": 1},
{"kernel": 3, "rate": [1, 1], "op": "conv", "input": 0},
{"kernel": 3, "rate": [6, 21], "op": "conv", "input": 0}
]"""
"""dense_prediction_cell_branch5_top1_cityscapes.json, as it was released."""


def test_the_space_is_as_large_as_the_paper_says() -> None:
    assert space_size(5) == 418_414_128_120
    assert len(OPERATORS) == len(set(OPERATORS)) == 81
    assert [op for op, _ in OPERATORS].count("separable") == 64
    assert [op for op, _ in OPERATORS].count("pooling") == 16


def test_every_number_is_a_cell_and_every_cell_has_one() -> None:
    cells = {cell_at(number, 2) for number in range(space_size(2))}
    assert len(cells) == space_size(2) == 2 * 81**2
    assert {branch.input for _, branch in cells} == {-1, 0} and {branch.input for branch, _ in cells} == {-1}
    last = cell_at(space_size(5) - 1)
    assert [branch.input for branch in last] == [-1, 0, 1, 2, 3]
    for number in (-1, space_size(5)):
        with pytest.raises(ValueError, match="of 418414128120"):
            cell_at(number)


def test_uniform_draws_are_uniform() -> None:
    rng = np.random.default_rng(0)
    cells = [uniform(rng) for _ in range(4000)]
    inputs = np.array([cell[4].input for cell in cells])
    assert np.abs(np.bincount(inputs + 1) / 800 - 1).max() < 0.15  # five inputs of the last branch
    first = [OPERATORS.index((cell[0].op, cell[0].size)) for cell in cells]
    assert len(set(first)) == 81 and np.bincount(first).max() < 100


def test_a_near_cell_differs_in_one_operator_or_one_input() -> None:
    rng = np.random.default_rng(0)
    changed = set()
    for _ in range(500):
        found = near(PUBLISHED, rng)
        differing = [(one, other) for one, other in zip(found, PUBLISHED) if one != other]
        assert len(found) == 5 and len(differing) == 1
        ((one, other),) = differing
        same_operator = (one.op, one.size) == (other.op, other.size)
        assert same_operator != (one.input == other.input)
        changed.add((found.index(one), same_operator))
        assert from_json(to_json(found), "here") == found
    assert changed == {(0, False)} | {(place, kind) for place in range(1, 5) for kind in (True, False)}


def test_the_released_cell_is_read_and_written(tmp_path: Path) -> None:
    file = tmp_path / "top1.json"
    file.write_text(DEEPLAB)
    assert read_cell(str(file)) == PUBLISHED == read_cell("dpc")
    assert to_json(PUBLISHED) == json.loads(DEEPLAB)
    for cell in NAMED.values():
        assert from_json(to_json(cell), "here") == cell
    rng = np.random.default_rng(1)
    for _ in range(50):
        cell = uniform(rng)
        assert from_json(json.loads(json.dumps(to_json(cell))), "here") == cell
    assert from_json([{"op": "conv", "kernel": [1, 1], "input": -1}], "here") == (Branch("conv1x1", (1, 1)),)


def test_weights_are_those_that_the_paper_prints() -> None:
    assert branch_weights(PUBLISHED, 320, 256) == 356_160  # 0.36M
    assert branch_weights(PUBLISHED, 2048, 256) == 814_080  # 0.81M
    assert branch_weights(ASPP[1:4], 320, 256) == 254_400  # 0.25M


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{}", "a cell is a list of branches"),
        ("[]", "a cell is a list of branches"),
        ("[3]", "branch 0 is no object"),
        ('[{"op": "conv", "kernel": 1, "input": 0}]', "branch 0: input 0: -1 is the backbone, and no branch is before"),
        ('[{"op": "conv", "kernel": 1}]', "branch 0: input None"),
        ('[{"op": "convv", "kernel": 1, "input": -1}]', "op 'convv' is not known. Did you mean 'conv'"),
        ('[{"op": "conv", "kernel": 5, "input": -1}]', "kernel 5: 1 or 3"),
        ('[{"op": "conv", "kernel": 3, "input": -1}]', "rate None: give .height, width."),
        ('[{"op": "conv", "kernel": 3, "rate": [0, 1], "input": -1}]', r"rate \[0, 1\]: give"),
        ('[{"op": "pyramid_pooling", "kernel": 1, "input": -1}]', "grid_size None: give"),
        ("[", "cannot be read"),
    ],
)
def test_what_is_no_cell_is_refused(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "cell.json"
    file.write_text(text)
    with pytest.raises(RaylabError, match=said) as error:
        read_cell(str(file))
    assert "cell.json" in str(error.value)


def test_a_name_that_there_is_not_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RaylabError, match=r"cell 'asppp': .* Did you mean 'aspp'"):
        read_cell("asppp")
    with pytest.raises(RaylabError, match="cannot be read"):
        read_cell(str(tmp_path / "no.json"))
