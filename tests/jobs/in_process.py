"""Calls a job in this process: what a line is refused for needs no process that imports everything anew."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import logging
import os
import subprocess
from pathlib import Path
from unittest import mock

ROOT = Path(__file__).parents[2]


def called(job: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Call ``main`` of jobs/<job>.py with these arguments; return its status and what it printed."""
    spec = importlib.util.spec_from_file_location(f"job_{job}", ROOT / "jobs" / f"{job}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    line, out, err = list(map(str, arguments)), io.StringIO(), io.StringIO()
    logger = logging.getLogger("raylab")
    level = logger.level
    try:
        with mock.patch.dict(os.environ), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = module.main(line)
    finally:
        logger.setLevel(level)
    return subprocess.CompletedProcess(line, status, out.getvalue(), err.getvalue())
