"""A segment's end."""

from __future__ import annotations

from pathlib import Path

from raylab.annotate.desk import Desk
from raylab.annotate.plan import RewConfig
from raylab.storage import Folder


def test_a_task_that_ray_repeats_leaves_a_committed_segment_as_it_is(tmp_path: Path) -> None:
    """Its answers are gone by then: it must not ask for them again."""
    folder = Folder(str(tmp_path))
    folder.write_json("segments/00003.json", {"segment": 3})
    assert Desk(RewConfig(), folder).advance(3) is None
    assert folder.read_json("segments/00003.json") == {"segment": 3}
