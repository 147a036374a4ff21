"""Where compiled programs are kept. XLA's CPU device keeps none, so a TPU is stood in for."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from xla.settings import settings

pytest.importorskip("torch_xla", reason="torch-xla has an environment of its own: make test-xla")

OPEN = """
import os
from torch_xla import runtime
from raylab.errors import RaylabError
from raylab.train.accelerators.xla import XlaAccelerator

for device, cache in (("CPU", "~/none"), ("TPU", ""), ("TPU", "~/file/xla"), ("TPU", "~/kept/xla")):
    runtime.device_type = lambda: device
    try:
        XlaAccelerator(cache)
    except RaylabError as error:
        print(error)
    print(os.environ.get("XLA_PERSISTENT_CACHE_PATH", "nothing"))
"""


def test_a_tpu_host_keeps_programs_in_a_folder_of_its_own(tmp_path: Path) -> None:
    """In a process of its own, as the programs' folder is a process's."""
    (tmp_path / "file").write_text("")
    environment = os.environ | settings(devices=1) | {"HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", OPEN], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    cpu, none, error, failed, kept = done.stdout.splitlines()
    assert (cpu, none, failed, kept) == ("nothing", "nothing", "nothing", f"{tmp_path}/kept/xla")
    assert f"--parallel.compile-cache {tmp_path}/file/xla cannot be made on this host" in error
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "kept"]
    assert (tmp_path / "kept/xla").is_dir()
