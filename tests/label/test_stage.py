from __future__ import annotations

from pathlib import Path

import pytest

from raylab.errors import RaylabError
from raylab.label.stage import StageWorker
from raylab.label.step import StepContext
from raylab.schema import FLOW, widen
from raylab.sources.base import SourceConfig
from raylab.storage import Folder


class NoLedger:
    def begin(self, key: str) -> int:
        return 1

    def end(self, key: str) -> None:
        return None


def test_a_node_that_does_not_see_the_runs_folder_says_so_at_its_first_batch(tmp_path: Path) -> None:
    context = StepContext(kb="", source=SourceConfig(), device="cpu")
    worker = StageWorker("select", {}, context, NoLedger(), Folder(str(tmp_path / "other disk")))
    with pytest.raises(RaylabError, match=r"Node .* does not see .*/other disk/run.json, which the driver wrote"):
        worker(widen(FLOW.empty_table()))
    assert list(tmp_path.iterdir()) == []
