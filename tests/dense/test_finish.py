"""What a search ends with: the best by full training, how well the proxy ranks, a page that loads nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from dense.small import small_maps, small_search

from raylab.dense.finish import Full, fidelity, finish, table, weights_of
from raylab.dense.proxy import OBJECTIVE
from raylab.dense.trials import folder_of, read_tried, write_drawn, write_end, write_look
from raylab.models.cell_space import ASPP, branch_weights, cell_at, read_cell
from raylab.storage import Folder

SCORES = (0.31, 0.35, 0.33, 0.39, 0.37, 0.36, 0.12)


@pytest.fixture
def out(tmp_path: Path) -> Folder:
    found = Folder(str(tmp_path))
    for number, score in enumerate(SCORES):
        write_drawn(found, number, cell_at(number * 10**8 + 7))
        write_look(folder_of(found, number), [{"step": 4, OBJECTIVE: score, "weights": 10 + number}])
        write_end(folder_of(found, number), "finished")
    write_drawn(found, len(SCORES), cell_at(5))
    write_end(folder_of(found, len(SCORES)), "failed", "The loss is nan <b>after</b> step 2.")
    small_maps(tmp_path / "features/train")
    return found


def full_of(out: Folder, mious: dict[int, float]) -> list[Full]:
    tried = read_tried(out)
    found = [Full(f"{n:05d}", tried[n].cell, 10 + n, miou, "model", tried[n]) for n, miou in mious.items()]
    return [*found, Full("aspp", ASPP, 99, 0.5, "model", None)]


def test_the_best_is_that_of_full_training_and_a_baseline_is_no_candidate(out: Folder, tmp_path: Path) -> None:
    config = small_search(tmp_path)
    tried = read_tried(out)
    full = full_of(out, {3: 0.40, 4: 0.44, 5: 0.43, 1: 0.41, 2: 0.39})
    summary = finish(config, out, tried, full, {"cells_an_hour": 7})
    assert summary["best"] == "00004" and read_cell(summary["best_cell"]) == tried[4].cell
    assert (summary["finished"], summary["failed"], summary["cells"]) == (7, 1, 8)
    assert summary["proxy_miou"] == 0.39 and summary["full"]["aspp"]["miou"] == 0.5
    # by the proxy 3 4 5 1 2, by full training 4 5 1 3 2: 1 - 6 * (9 + 1 + 1 + 1 + 0) / (5 * 24)
    assert summary["fidelity"] == {"rho": pytest.approx(0.4), "cells": 5}
    assert json.loads((tmp_path / "summary.json").read_text()) == json.loads(json.dumps(summary))
    cells = json.loads((tmp_path / "cells.json").read_text())
    assert [one["status"] for one in cells] == ["finished"] * 7 + ["failed"]
    assert table(full).splitlines()[-1].split() == ["aspp", "0.5000", "-", "99"]


def test_the_page_shows_the_best_and_the_worst_cells(out: Folder, tmp_path: Path) -> None:
    finish(small_search(tmp_path), out, read_tried(out), [], {})
    page = (tmp_path / "search.html").read_text()
    assert page.count("<svg") == 7 and page.count("<figcaption>cell 00006") == 1  # five and, of seven, two others
    assert "default-src 'none'" in page and "://" not in page.replace("http://www.w3.org/2000/svg", "")
    assert page.index("cell 00003") < page.index("cell 00000") < page.index("cell 00006")
    assert read_cell(str(tmp_path / "best.json")) == read_tried(out)[3].cell  # by the proxy


def test_a_few_cells_tell_no_rank_correlation(out: Folder) -> None:
    assert fidelity(full_of(out, {3: 0.4, 4: 0.3})) == (None, 2)
    assert fidelity(full_of(out, dict.fromkeys(range(5), 0.4))) == (None, 5)  # all alike: nothing is ranked


def test_weights_are_those_on_the_searchs_maps(out: Folder, tmp_path: Path) -> None:
    config = small_search(tmp_path)
    assert weights_of(config, ASPP) == branch_weights(ASPP, 5, config.full.task.head.filters)
