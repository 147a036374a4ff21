"""jobs/size.py as a user starts it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))

from raylab.config import parse
from raylab.recipes import LABEL
from raylab.recipes.size import SIZE, TRAINED
from raylab.scale.plan import size_labels
from raylab.scale.table import table

ROOT = Path(__file__).parents[2]


def start(*arguments: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "jobs/size.py", *arguments]
    return subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)


def sized(*arguments: str) -> dict:
    config = parse(SIZE, "i2e", arguments, "")
    return size_labels(config, LABEL[config.recipe]())


def test_a_run_on_gpus_end_to_end():
    done = start("--rows", "1e8", "--cluster", "cluster/gpu.yaml", "--types", "cpu", "gpu", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    [phase] = found["phases"]
    assert found["rows"] == phase["rows"] == 100_000_000
    assert phase["bottleneck"] == min(phase["limits"], key=phase["limits"].get)
    assert found["hours"] > found["rows"] / phase["limits"][phase["bottleneck"]] / 3600
    machines = {"gpu": 1.3232, "cpu": 0.8064}
    hourly = 0.4032 + sum(price * phase["machines"].get(name, 0) for name, price in machines.items())
    assert found["cost"] == pytest.approx(found["hours"] * hourly)
    assert any("NVIDIA" in said for said in found["assumed"])
    parse(LABEL, "i2e", found["line"].split()[2:], "")  # its pools are flags of the job


def test_the_table_says_the_same():
    found = sized("--rows", "1e6", "--nodes", "2x16CPU", "--price", "16CPU=0.8")
    text = table(found)
    assert found["phases"][0]["bottleneck"] in text and found["line"].split()[-1] in text
    assert f"{found['cost']:,.2f}" in text


def test_an_annotation_has_two_phases_and_says_that_its_rates_are_assumed():
    found = sized("--recipe", "rew", "--rows", "1e6", "--cluster", "cluster/gpu.yaml", "--types", "gpu")
    assert [one["phase"] for one in found["phases"]] == ["label", "annotate"]
    assert found["phases"][1]["rows"] == 330_000
    assert found["phases"][1]["bottleneck"] == "GPUs: annotator"
    assert any(said.startswith("annotator") for said in found["assumed"])
    assert "--annotator.max-actors 8" in found["line"]


def test_lost_spot_machines_cost_time():
    line = ("--rows", "1e9", "--cluster", "cluster/gpu.yaml", "--types", "gpu")
    calm, stormy = sized(*line), sized(*line, "--losses", "0.2")
    assert stormy["phases"][0]["losses"] > 0 == calm["phases"][0]["losses"]
    assert stormy["hours"] > calm["hours"]


def test_training_hours():
    pytest.importorskip("torch")
    line = ("--recipe", "mofi_b16", "--cluster", "cluster/gpu.yaml", "--types", "gpu_large", "--json")
    done = start(*line, "--price", "gpu_large=50", "--steps", "1000", "--batch", "4096")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["rows_per_s"] == pytest.approx(8 * 989e3 * 0.35 / 123.3, rel=0.01)
    assert found["hours"] == pytest.approx(1000 * 4096 / found["rows_per_s"] / 3600)
    assert found["cost"] == pytest.approx(found["hours"] * (50 + 0.4032))


def test_the_training_recipes_are_there():
    train = pytest.importorskip("raylab.recipes.train")
    assert set(TRAINED) <= set(train.TRAIN)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ([], "Give either --cluster FILE or --nodes"),
        (["--nodes", "1x2CPU", "--cluster", "cluster/gpu.yaml"], "Give either --cluster FILE or --nodes"),
        (["--nodes", "1x2CPU", "--rows", "0"], "--rows must be 1 or more"),
        (["--node", "1x2CPU"], "There is no flag --node. Did you mean '--nodes'?"),
        (["--recipe", "i2", "--nodes", "1x2CPU"], "There is no recipe 'i2'. Did you mean 'i2e'?"),
        (["--nodes", "1x2CPU+1Z9"], "Nothing is known of the device 'Z9'"),
        (["--nodes", "1x2CPU", "--rates", "nowhere"], "nowhere has no MANIFEST.json"),
        (["--recipe", "rew", "--nodes", "4x16CPU"], "The annotator has rates for L4, A100, H100"),
        (["--recipe", "mofi_b16", "--steps", "1", "--batch", "1", "--nodes", "1x2CPU"], "Nobody has measured mofi_b16"),
        (["--recipe", "mofi_b16", "--steps", "1", "--batch", "1", "--cluster", "cluster/gpu.yaml"], "one kind"),
    ],
)  # fmt: skip
def test_a_line_that_is_wrong_says_so(line, said):
    done = start(*line)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr and "Traceback" not in done.stderr
