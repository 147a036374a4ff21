"""What `ray job submit --working-dir .` sends, by the function that it calls."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path

import pytest
from ray._private.runtime_env.packaging import create_package

ROOT = Path(__file__).parents[2]
LIMIT_BYTES = 5_000_000
BIG = 6_000_000
LITTER = [
    ".venv/lib/python3.11/site-packages/torch/libtorch.so",
    ".venv-xla/lib/libtpu.so",
    ".git/objects/pack/pack-1.pack",
    "runs/mine/labels/00000.parquet",
    "wandb/offline-run/run-1.wandb",
    "pairs/00000.tar",
    "my-labels.parquet",
    "weights/model.safetensors",
    "pairs/picture.jpg",
]
SMALL = ["my-entities.jsonl", "prompts/verify/mine.md"]


@pytest.fixture
def project(tmp_path) -> Path:
    """The project with what gathers around it in use, each piece larger than the limit."""
    folder = tmp_path / "project"
    skipped = shutil.ignore_patterns(
        ".git", ".venv*", "runs", "wandb", "shared", "__pycache__", ".*_cache", ".hypothesis"
    )
    shutil.copytree(ROOT, folder, ignore=skipped)
    for name in (*LITTER, *SMALL):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        with (folder / name).open("wb") as file:
            file.truncate(BIG if name in LITTER else 100)
    return folder


def sent(folder: Path, package: Path) -> set[str]:
    create_package(str(folder), package, include_gitignore=True)
    with zipfile.ZipFile(package) as archive:
        return set(archive.namelist())


def test_it_stays_small_whatever_lies_about(project, tmp_path):
    names = sent(project, tmp_path / "upload.zip")
    assert (tmp_path / "upload.zip").stat().st_size < LIMIT_BYTES
    assert not names & set(LITTER)


def test_it_holds_every_job_and_the_users_small_files(project, tmp_path):
    names = sent(project, tmp_path / "upload.zip")
    assert {f"jobs/{path.name}" for path in (ROOT / "jobs").glob("*.py")} | set(SMALL) <= names


def test_the_raylab_of_the_nodes_is_not_hidden_by_a_part_of_it(project, tmp_path):
    """The working directory comes first among a worker's imports: half a package there would break it."""
    assert not [name for name in sent(project, tmp_path / "upload.zip") if name.startswith("raylab/")]


def test_a_changed_raylab_can_be_sent_with_all_its_assets(project, tmp_path):
    """`py_modules`: the exclude list of the project's folder does not reach into it."""
    names = sent(project / "raylab", tmp_path / "module.zip")
    assets = [path for path in (ROOT / "raylab/sources/miniworld/assets").rglob("*") if path.is_file()]
    assert {str(path.relative_to(ROOT / "raylab")) for path in assets} <= names
