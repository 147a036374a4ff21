"""What a training run shows of its model lies in its folder, and evaluation's report shows it again."""

from __future__ import annotations

import base64
import io
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from raylab.evaluate.run import run
from raylab.recipes.evaluate import smoke
from raylab.samples import read_samples, write_samples
from raylab.sources.miniworld.make_clip import SHIPPED
from raylab.storage import Folder

PICTURES = [np.full((4, 12, 3), value, np.uint8) for value in (10, 200)]


def test_they_are_read_as_they_were_written_last(tmp_path: Path) -> None:
    out = Folder(str(tmp_path))
    assert read_samples(out) == []
    write_samples(out, [(PICTURES[0], "before"), (PICTURES[1], "before")])
    write_samples(out, [(PICTURES[1], "a red flag (right: a blue flag)")])
    ((data, said),) = read_samples(out)
    assert said == "a red flag (right: a blue flag)"
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(data))), PICTURES[1])


def test_the_evaluations_report_shows_them(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="plots need matplotlib")
    shutil.copytree(SHIPPED, tmp_path / "run" / "model")
    write_samples(Folder(str(tmp_path / "run")), [(PICTURES[0], "<two> stars")])
    out = tmp_path / "scores"
    small = replace(smoke(), suite="retrieval", data="miniworld://?rows=30", plots=True, threads=1)
    summary = run(replace(small, model=str(tmp_path / "run"), out=str(out)))
    assert "plots/sample-00.png" in summary["plots"]
    html = (out / "report.html").read_text()
    assert "held out in training: &lt;two&gt; stars" in html
    assert base64.b64encode((out / "plots" / "sample-00.png").read_bytes()).decode() in html
