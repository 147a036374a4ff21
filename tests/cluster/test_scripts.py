"""node.sh, the images and what no file of a cluster may hold."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / "cluster"
FILES = sorted(path for path in CLUSTER.rglob("*") if path.is_file())
SCRIPTS = sorted(CLUSTER.rglob("*.sh"))
DOCKERFILES = sorted(CLUSTER.glob("docker/*.Dockerfile"))
SECRETS = {
    "a private key": r"-----BEGIN [A-Z ]*PRIVATE KEY",
    "an AWS key": r"\b(AKIA|ASIA)[A-Z0-9]{16}\b",
    "a Google key": r"\bAIza[\w-]{35}\b|\"private_key\"",
    "a hub's token": r"\bhf_[A-Za-z0-9]{20,}\b|\bgh[pousr]_[A-Za-z0-9]{30,}\b",
    "a long hexadecimal or base64 word": r"\b[0-9a-f]{32,}\b|\b[A-Za-z0-9+/]{60,}={0,2}\b",
    "a secret given by value": r"(?i)(api[_-]?key|token|password|secret)\w*\s*[:=]\s*['\"]?[A-Za-z0-9+/_-]{16,}",
}


def relative(path: Path) -> str:
    return str(path.relative_to(CLUSTER))


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_no_file_holds_a_secret(path):
    found = [what for what, pattern in SECRETS.items() if re.search(pattern, path.read_text())]
    assert not found


def test_the_search_for_secrets_finds_some():
    lines = ["WANDB_API_KEY: 0123456789abcdef0123", "-----BEGIN OPENSSH PRIVATE KEY-----", "AKIA" + "A" * 16]
    assert all(any(re.search(pattern, line) for pattern in SECRETS.values()) for line in lines)


@pytest.mark.parametrize("path", SCRIPTS, ids=relative)
def test_bash_reads_the_script(path):
    subprocess.run(["bash", "-n", path], check=True)


@pytest.mark.skipif(not shutil.which("shellcheck"), reason="shellcheck is not installed")
@pytest.mark.parametrize("path", SCRIPTS, ids=relative)
def test_shellcheck_has_nothing_to_say(path):
    done = subprocess.run(["shellcheck", path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def node(*words: str, home: Path, made: bool = False, **env: str) -> subprocess.CompletedProcess[str]:
    """Run the script with a `ray` that writes down how it was called; `made`: as the last call left the home."""
    if not made:
        make_home(home)
    line = ["bash", str(home / "raylab/cluster/node.sh"), *words]
    env = {"HOME": str(home), "PATH": os.environ["PATH"]} | env
    return subprocess.run(line, env=env, capture_output=True, text=True, check=False)


def make_home(home: Path) -> None:
    project = home / "raylab"
    (project / "cluster").mkdir(parents=True, exist_ok=True)
    (project / ".venv/bin").mkdir(parents=True, exist_ok=True)
    shutil.copy(CLUSTER / "node.sh", project / "cluster")
    ray = home / "bin/ray"
    ray.parent.mkdir(exist_ok=True)
    for program in (ray, ray.with_name("python")):
        program.write_text('#!/bin/sh\necho "$RAY_AUTH_MODE $*" >> "$HOME/calls"\n')
        program.chmod(0o755)
    (project / ".venv/bin/activate").write_text(f"PATH={ray.parent}:$PATH\n")


def give_token(home: Path) -> Path:
    token = home / ".ray/auth_token"
    token.parent.mkdir()
    token.write_text("0" * 64)
    token.chmod(0o644)
    return token


def test_no_node_starts_without_a_token(tmp_path):
    done = node("head", home=tmp_path)
    assert done.returncode == 1
    assert "ray get-auth-token --generate" in done.stderr
    assert not (tmp_path / "calls").exists()


def test_the_head_asks_for_the_token_and_listens_on_loopback(tmp_path):
    token = give_token(tmp_path)
    assert node("head", "--object-store-memory=8", home=tmp_path).returncode == 0
    stop, start, told = (tmp_path / "calls").read_text().splitlines()
    assert stop == "token stop"
    assert start.startswith("token start --head ")
    assert "--dashboard-host=127.0.0.1" in start
    assert start.endswith("--object-store-memory=8")
    assert told == f"token -m raylab.ceiling {tmp_path}/ray_bootstrap_config.yaml 127.0.0.1:6379"
    assert token.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("kind", ["head", "worker"])
def test_what_fails_on_the_way_ends_it(kind, tmp_path):
    """Here the environment is not there: Ray is not started by another one that may be on the PATH."""
    give_token(tmp_path)
    make_home(tmp_path)
    (tmp_path / "raylab/.venv/bin/activate").unlink()
    done = node(kind, home=tmp_path, made=True, RAY_HEAD_IP="10.0.0.2", PATH=f"{tmp_path}/bin:{os.environ['PATH']}")
    assert done.returncode != 0
    assert not (tmp_path / "calls").exists()


def test_a_worker_joins_the_head_that_ray_names(tmp_path):
    give_token(tmp_path)
    assert node("worker", home=tmp_path, RAY_HEAD_IP="10.0.0.2").returncode == 0
    calls = tmp_path / "calls"
    assert calls.read_text().splitlines()[1] == "token start --address=10.0.0.2:6379"
    wait_for(lambda: calls.read_text().splitlines()[2:] == ["token -m raylab.spot 10.0.0.2:6379"])
    assert node("worker", home=tmp_path).returncode != 0


def wait_for(reached: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not reached():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_what_it_does_not_know_is_refused(tmp_path):
    done = node("install", home=tmp_path)
    assert done.returncode == 1
    assert "not: install" in done.stderr


@pytest.mark.parametrize("path", DOCKERFILES, ids=relative)
def test_images_take_their_versions_from_the_same_files_and_run_as_a_user(path):
    text = path.read_text()
    pins = "constraints-xla.txt" if path.name.startswith("tpu") else "constraints.txt"
    assert f" {pins} " in text
    assert "==" not in text
    assert "pip install" not in text
    (setup,) = re.findall(r"^RUN bash cluster/node\.sh setup (\S+)$", text, re.MULTILINE)
    assert ("tpu" in setup.split(",")) == path.name.startswith("tpu")
    assert re.findall(r"^USER (.*)$", text, re.MULTILINE) == ["1000"]
    assert text.index("USER 1000") < text.index("RUN bash cluster/node.sh")


@pytest.mark.parametrize("path", DOCKERFILES, ids=relative)
def test_what_images_copy_exists_and_is_the_users(path):
    copies = re.findall(r"^COPY (.*)$", path.read_text(), re.MULTILINE)
    assert copies
    for line in copies:
        owner, *sources, _ = line.split()
        assert owner == "--chown=1000:1000"
        assert all((ROOT / source).exists() for source in sources)
