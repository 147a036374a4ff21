"""Rates from the shipped file, a file of one's own, and a run."""

from __future__ import annotations

import shutil

import pytest

from raylab.errors import RaylabError
from raylab.label.survey import MOST_ROWS
from raylab.recipes.size import SIZE
from raylab.scale.rates import SHIPPED, load
from raylab.storage import Folder


def test_every_entry_says_how_it_is_known():
    for recipe in ("i2e", "miniworld", "rew", "rew_miniworld", "mofi_b16"):
        rates = load(recipe)
        assert all(one.by for one in rates.steps.values())
    assert any(said.startswith("annotator") for said in load("rew").assumed)
    assert not load("miniworld").assumed


def test_the_report_looks_at_as_many_rows_as_are_reckoned_with():
    assert all(load(recipe).fixed.report_rows == 2 * MOST_ROWS for recipe in ("i2e", "miniworld"))


def test_a_recipe_without_rates_says_what_to_do():
    without = [name for name in SIZE if name.startswith("oven")]
    assert without
    for name in without:
        with pytest.raises(RaylabError, match="has no rates for the recipe 'oven"):
            load(name)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("[steps.web.link]\ncpu_s = ", "[steps.web.link]\ncpu = ", r"mine\.toml: steps\.web\.link\.cpu_s is missing"),
        ("[device.L4]\ntflops = 121", "[device.L4]\ntflops = 'fast'", r"device\.L4\.tflops must be a number"),
        ("[device.L4]\ntflops = 121", "[device.L4]\ntflops = -1", r"device\.L4\.tflops must be a number"),
        ("[fixed.web]", "[fixed.wep]", r"\[fixed\.web\] is missing"),
        ("[device.L4]", "[device.L4", r"mine\.toml is no TOML"),
    ],
)
def test_a_file_that_lacks_something_names_it(tmp_path, old, new, said):
    text = SHIPPED.read_text()
    assert old in text
    mine = tmp_path / "mine.toml"
    mine.write_text(text.replace(old, new))
    with pytest.raises(RaylabError, match=said):
        load("i2e", str(mine))


def test_nothing_that_is_assumed_passes_as_measured(tmp_path):
    mine = tmp_path / "mine.toml"
    text = SHIPPED.read_text()
    mine.write_text(text.replace('basis = "measured"', 'basis = "guessed"'))
    with pytest.raises(RaylabError, match="basis must be one of measured, counted, assumed"):
        load("i2e", str(mine))


def finished(folder: Folder, *, cpu: bool = True, gpus: float = 0.0) -> str:
    """Write what a run of 1,000 rows leaves."""
    took = {"source": 0.1, "mentions": 1.0, "candidates": 0.2, "link": 0.3, "select": 5.0, "count": 0.0}
    steps = [{"name": name, "worker_seconds": 2 * s} | ({"cpu_seconds": s} if cpu else {}) for name, s in took.items()]
    folder.write_json("summary.json", {"rows_in": 1_000, "steps": steps})
    folder.write_json("config.json", {"pools": {"select": {"num_gpus": gpus}}})
    folder.write_bytes("labels/00000.parquet", b"x" * 7_000)
    folder.write_bytes("rejects/00000.parquet", b"x" * 2_000)
    folder.write_json("MANIFEST.json", {"labels": ["labels/00000.parquet"], "rejects": ["rejects/00000.parquet"]})
    return folder.uri


def test_a_run_of_ones_own_gives_the_steps_and_sizes(tmp_path):
    rates = load("i2e", finished(Folder(str(tmp_path / "run"))))
    assert rates.steps["mentions"].cpu_s == pytest.approx(1e-3)
    assert rates.steps["select"].cpu_s == pytest.approx(5e-3) and not rates.steps["select"].gpu_s
    assert rates.sizes.out == pytest.approx(9.0)
    assert "1,000 rows" in rates.said and rates.steps["link"].basis == "measured"
    assert rates.fixed == load("i2e").fixed


def test_a_run_on_gpus_gives_their_seconds(tmp_path):
    select = load("i2e", finished(Folder(str(tmp_path / "run")), gpus=0.25)).steps["select"]
    assert (select.host_s, select.gpu_s) == (pytest.approx(5e-3), pytest.approx(10.0 * 0.25 / 1_000))


def test_a_run_that_tells_nothing(tmp_path):
    old = finished(Folder(str(tmp_path / "old")), cpu=False)
    with pytest.raises(RaylabError, match=r"summary\.json: steps\.source\.cpu_seconds is missing: run it again"):
        load("i2e", old)
    shutil.rmtree(tmp_path / "old" / "MANIFEST.json", ignore_errors=True)
    with pytest.raises(RaylabError, match="not a label store"):
        load("i2e", str(tmp_path))
