"""jobs/segment.py and jobs/search.py as a user starts them: mistakes are named before anything runs."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (
            ["segment.py", "--recipe", "segmentation_smoke", "--task.head.cell", "aspppp", "--out", "OUT"],
            "segment: cell 'aspppp': a .json file, or one of dpc, aspp, linear. Did you mean 'aspp'?",
        ),
        (
            ["search.py", "--recipe", "dpc_search_smoke", "--sampler.kind", "best", "--out", "OUT"],
            "search: --sampler.kind 'best' is not known: near_best, uniform.",
        ),
    ],
)
def test_a_mistake_is_named_and_nothing_runs(
    tmp_path: Path, line: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    job, *flags = [word.replace("OUT", str(tmp_path / "run")) for word in line]
    main = runpy.run_path(str(ROOT / "jobs" / job))["main"]
    assert main(flags) == 2
    shown = capsys.readouterr()
    assert said in shown.err and not shown.out
    assert not (tmp_path / "run/model").exists() and not (tmp_path / "run/trials").exists()
