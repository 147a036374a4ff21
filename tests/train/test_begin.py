"""How a run begins: with the knowledge base of its labels, where the line names none."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from train.runs import small
from train.training_store import Store, make_store

from raylab.errors import RaylabError
from raylab.kb.catalog import Catalog
from raylab.storage import Folder
from raylab.train.begin import begin, completed
from raylab.train.plan import CheckpointConfig, DataConfig, ParallelConfig, TrackConfig, check


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A store as jobs/label.py leaves it: its config says which knowledge base it was made with."""
    store = make_store(tmp_path_factory.mktemp("begin"), rows=8, parts=1)
    (Path(store.labels) / "config.json").write_text(json.dumps({"kb": store.kb}))
    return store


def test_the_labels_knowledge_base_is_taken_where_none_is_named(labelled: Store, tmp_path: Path) -> None:
    config = small("mofi_miniworld", labelled, tmp_path)
    assert completed(replace(config, kb="")) == config
    assert completed(replace(config, kb="s3://b/kb")).kb == "s3://b/kb"


def test_where_the_labels_do_not_say_it_is_asked_for(labelled: Store, tmp_path: Path) -> None:
    config = small("mofi_miniworld", labelled, tmp_path)
    for labels in (str(tmp_path / "nowhere"), ""):
        with pytest.raises(RaylabError, match=r"--(kb|labels) is missing"):
            check(completed(replace(config, kb="", labels=labels)))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"steps": 0}, "--steps 0: give 1 or more"),
        ({"batch": 0}, "--batch 0: give 1"),
        ({"parallel": ParallelConfig(workers=0)}, "--parallel.workers 0: give 1"),
        ({"parallel": ParallelConfig(accumulate=0)}, "--parallel.accumulate 0: give 1"),
        ({"parallel": ParallelConfig(workers=4, most_workers=2)}, "--parallel.most-workers 2 is less than .* 4"),
        ({"checkpoint": CheckpointConfig(every=0)}, "--checkpoint.every 0: give 1"),
        ({"track": TrackConfig(evaluate_every=0)}, "--track.evaluate-every 0: give 1"),
        ({"data": DataConfig(held_out=1.0)}, "--data.held-out 1.0: give a share from 0 to below 1"),
    ],
)
def test_numbers_that_make_no_sense_are_refused(
    changes: dict[str, object], said: str, labelled: Store, tmp_path: Path
) -> None:
    with pytest.raises(RaylabError, match=said):
        check(small("mofi_miniworld", labelled, tmp_path, **changes))


def test_another_knowledge_base_than_the_labels_is_refused(labelled: Store, tmp_path: Path) -> None:
    config = small("mofi_miniworld", labelled, tmp_path / "run")
    labels, kb = Folder(labelled.labels), Catalog.open(labelled.kb)
    begin(config, Folder(config.out), labels, kb)
    labels.write_json("run.json", {"kb": "0123456789abcdef"})
    with pytest.raises(RaylabError, match=r"was labelled with knowledge base 0123456789abcdef, .* give --kb the one"):
        begin(config, Folder(config.out), labels, kb)
