"""What the docs tell a reader to type is understood by what is there."""

from __future__ import annotations

import json
import math
import re
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import tyro
import yaml

from raylab.config import parse, to_dict
from raylab.errors import RaylabError
from raylab.evaluate.predict import PredictConfig
from raylab.kb.build import BuildConfig
from raylab.kb.words_build import WordsConfig
from raylab.label import run as label_run
from raylab.label.review import Command
from raylab.recipes import LABEL
from raylab.recipes.evaluate import EVALUATE
from raylab.recipes.search import SEARCH
from raylab.recipes.segmentation import SEGMENTATION
from raylab.recipes.size import SIZE
from raylab.recipes.train import TRAIN
from raylab.recipes.tune import parse_sweep
from raylab.train.plan import ParallelConfig, TrainConfig, check
from raylab.tune.spaces import Fit, check_space

ROOT = Path(__file__).parents[1]
PARSED = {
    "label.py": (LABEL, "i2e"),
    "evaluate.py": (EVALUATE, "standard"),
    "segment.py": (SEGMENTATION, "dpc_miniworld"),
    "search.py": (SEARCH, "dpc_search_miniworld"),
    "size.py": (SIZE, "i2e"),
}
"""Job -> its recipes, and the one that it takes where a line names none."""
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def code_lines() -> list[tuple[str, str]]:
    found = []
    for page in PAGES:
        text = page.read_text().replace("\\\n", " ")
        found += [(page.name, line.strip()) for line in text.splitlines() if re.search(r"^\s*\S.*jobs/\w+\.py ", line)]
    return [(page, line) for page, line in found if "`" not in line and "|" not in line]


@pytest.mark.parametrize(("page", "line"), code_lines())
def test_every_flag_of_a_command_exists(page, line, tmp_path):
    words = shlex.split(line.partition("jobs/")[2], comments=True)
    if words[0] == "check.py" and words[1:]:  # it stands before another job's line
        words = [f"{words[1]}.py", *words[2:]]
    if words[0] == "check.py":
        return
    if words[0] in PARSED:
        recipes, default = PARSED[words[0]]
        parse(recipes, default, words[1:], "")
    elif words[0] == "train.py":
        best = tmp_path / "best.json"  # as a sweep leaves it
        best.write_text(json.dumps(to_dict(TRAIN["git_miniworld"]())))
        parse(TRAIN, "mofi_b16", [str(best) if word.endswith("best.json") else word for word in words[1:]], "")
    elif words[0] == "tune.py":
        sweep = parse_sweep(words[1:])
        trained = replace(sweep.train, labels="x", kb="x", out="x", source=replace(sweep.train.source, uri="x"))
        check_space(trained, sweep.space, Fit())
    elif words[0] == "predict.py":
        parse({"predict": PredictConfig}, "predict", words[1:], "")
    elif words[0] == "words.py":
        parse({"words": WordsConfig}, "words", words[1:], "")
    elif words[0] == "review.py":
        tyro.cli(Command, args=words[1:])
    else:
        tyro.cli(BuildConfig, args=words[1:])


def job_of(manifest: str) -> str:
    return yaml.safe_load((ROOT / "cluster/kuberay" / manifest).read_text())["spec"]["entrypoint"]


def train_config(line: str) -> TrainConfig:
    words = shlex.split(line.partition("jobs/")[2], comments=True)
    assert words[0] == "train.py"
    config: TrainConfig = parse(TRAIN, "mofi_b16", words[1:], "")
    return config


ON_TPUS = [line for _, line in code_lines() if "--accelerator xla" in line] + [job_of("train-job.yaml")]


@pytest.mark.parametrize("line", ON_TPUS)
def test_lines_for_tpus_ask_for_whole_slices(line, monkeypatch):
    """By the job's own check; on a cluster, where it refuses a line that names no slice."""
    from raylab.train.accelerators.run import _xla_scaling

    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:6379")
    config = train_config(line)
    check(config)
    scaling = _xla_scaling(config.parallel.workers, config.parallel)
    chips = math.prod(map(int, config.parallel.topology.split("x")))
    assert scaling.use_tpu and scaling.num_workers * scaling.resources_per_worker["TPU"] == chips
    with pytest.raises(RaylabError, match=r"--parallel\.topology"):
        _xla_scaling(1, ParallelConfig())


def test_lines_for_tpus_were_found():
    assert len(ON_TPUS) >= 3


GPU_FILES = ("gpu.yaml", "gpu-gcp.yaml")


def test_label_lines_for_clusters_with_gpus_use_them():
    """In the part of the page that starts such a cluster, and in the job for Kubernetes."""
    parts = re.split(r"^## ", (ROOT / "docs/cluster.md").read_text(), flags=re.MULTILINE)
    lines = [
        line
        for part in parts
        if any(f"ray up --yes cluster/{name}" in part for name in GPU_FILES)
        for line in part.splitlines()
        if "jobs/label.py" in line
    ]
    assert lines
    for line in [*lines, job_of("label-job.yaml")]:
        config = parse(LABEL, "i2e", shlex.split(line.partition("jobs/label.py")[2], comments=True), "")
        assert label_run.needed(config)[1] >= 1


def test_commands_were_found():
    assert len(code_lines()) > 8


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_named_files_exist(page):
    text = page.read_text()
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in link]
    missing = [link for link in links if not (page.parent / link).exists()]
    missing += [name for name in re.findall(r"`((?:raylab|bench|tests|jobs)/[\w/]+\.(?:py|json))`", text)
                if not (ROOT / name).exists()]  # fmt: skip
    assert not missing


def test_the_python_of_the_knowledge_base_page_runs(tmp_path):
    job = [
        sys.executable,
        str(ROOT / "jobs/build_kb.py"),
        "--catalogues",
        "miniworld://",
        "--out",
        str(tmp_path / "kb"),
    ]
    subprocess.run(job, check=True, capture_output=True, timeout=120)
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs/knowledge-base.md").read_text(), re.DOTALL)
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(blocks)], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert blocks
    assert done.returncode == 0, done.stderr
    assert "Georgia" in done.stdout
