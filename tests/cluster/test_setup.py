"""The setup commands of the clouds' files install what they name, in an empty home. Minutes and gigabytes each."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
IMPORTS = {
    "tpu.yaml": "ray, torch, torch_xla, libtpu, spacy, open_clip, matplotlib, gcsfs",
    "gpu.yaml": "ray, torch, spacy, open_clip, matplotlib, wandb, s3fs, vllm",
}
"""File -> what its jobs import. Another cloud's file differs in its bucket's library."""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3000)]


def lay_out(home: Path, file: str) -> str:
    """Copy what the file sends to a node; return its setup command."""
    read = yaml.safe_load((ROOT / "cluster" / file).read_text())
    for remote, local in read["file_mounts"].items():
        if local.startswith("~"):
            continue
        target = home / remote.removeprefix("~/")
        target.parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / local).is_dir():
            shutil.copytree(ROOT / local, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / local, target)
    (command,) = read["setup_commands"]
    return str(command)


@pytest.mark.parametrize("file", IMPORTS)
def test_the_setup_of_a_node(file: str, tmp_path: Path) -> None:
    command = lay_out(tmp_path, file)
    passed = {name: value for name, value in os.environ.items() if name.startswith(("PIP_", "SSL_", "HTTPS_"))}
    path = f"{Path(sys.base_prefix) / 'bin'}:/usr/local/bin:/usr/bin:/bin"
    env = passed | {"HOME": str(tmp_path), "PATH": path, "PIP_NO_CACHE_DIR": "1"}
    try:
        done = subprocess.run(["bash", "-c", command], env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        python = tmp_path / "raylab/.venv/bin/python"
        assert _differing(python, tmp_path) == {}
        subprocess.run([python, "-m", "pip", "check"], env=env, check=True)
        subprocess.run([python, "-c", f"import {IMPORTS[file]}"], env=env | {"PJRT_DEVICE": "CPU"}, check=True)
    finally:
        shutil.rmtree(tmp_path / "raylab", ignore_errors=True)


def _differing(python: Path, home: Path) -> dict[str, str]:
    """Return package -> version of those that are not as pinned."""
    (pins_file,) = (home / "raylab").glob("constraints*.txt")
    pins = dict(re.findall(r"^([\w.-]+)===?([^\s;]+)", pins_file.read_text(), re.MULTILINE))
    line = [python, "-m", "pip", "list", "--format", "json", "--disable-pip-version-check"]
    listed = json.loads(subprocess.run(line, capture_output=True, text=True, check=True).stdout)
    found = {package["name"].lower(): package["version"] for package in listed}
    assert {"ray", "torch"} <= pins.keys() & found.keys()
    bare = {name: version.partition("+")[0] for name, version in pins.items()}
    return {name: found[name] for name in bare if name in found and found[name].partition("+")[0] != bare[name]}
