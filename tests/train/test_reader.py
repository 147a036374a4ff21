"""Rows and pictures as a batch's arrays: the right ones, in order, and what happens where a picture is missing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from train.runs import prepared, small
from train.training_store import Store

from raylab.errors import RaylabError
from raylab.schema import Reason
from raylab.sources.files import FileSource
from raylab.storage import Folder
from raylab.tasks.base import Collator
from raylab.train.batch import batches, to_arrays
from raylab.train.examples import held_out, parts_of, read_part
from raylab.train.order import Order, Share
from raylab.train.reader import HeldOut, Reader
from raylab.train.worker import Run


def reader_of(run: Run, share: Share, held: bool = False) -> Reader:
    config = run.config
    order = Order(parts_of(run.examples, held), config.seed, config.data.window_rows, share.batch)
    rows = HeldOut(config.data.held_out, held, () if held else config.data.mix)
    return Reader(config.labels, config.source, config.task.collator(run.context), order, share=share, rows=rows)


@pytest.fixture
def run(store: Store, tmp_path: Path) -> Run:
    return prepared(small("mofi_miniworld", store, tmp_path, batch=12))


def test_workers_read_what_one_would(run: Run) -> None:
    alone = list(batches(reader_of(run, Share(12, 0, 1)).read(range(3)), 12))
    shares = [list(batches(reader_of(run, Share(12, rank, 3)).read(range(3)), 4)) for rank in range(3)]
    for step, whole in enumerate(alone):
        for name, values in whole.items():
            np.testing.assert_array_equal(np.concatenate([mine[step][name] for mine in shares]), values)
    assert alone[0]["image_BHWC"].shape == (12, 64, 64, 3)
    assert alone[0]["image_BHWC"].dtype == np.uint8


def test_workers_share_each_groups_part_of_a_batch(store: Store, tmp_path: Path) -> None:
    run = prepared(small("git_oven_miniworld", store, tmp_path, batch=12))
    rows = {part.group: part.rows for part in parts_of(run.examples)}
    assert rows[0] > 3 * rows[1] > 0
    alone = list(batches(reader_of(run, Share(12, 0, 1)).read(range(4)), 12))
    shares = [list(batches(reader_of(run, Share(12, rank, 3)).read(range(4)), 4)) for rank in range(3)]
    for step, whole in enumerate(alone):
        for name, values in whole.items():
            halves = [np.concatenate([mine[step][name][half] for mine in shares]) for half in (slice(2), slice(2, 4))]
            np.testing.assert_array_equal(np.concatenate(halves), values)


def test_a_crop_that_is_not_known_names_the_nearest(store: Store, tmp_path: Path) -> None:
    run = prepared(small("mofi_miniworld", store, tmp_path))
    misspelt = replace(run, config=replace(run.config, task=replace(run.config.task, crop="incepton")))  # type: ignore[type-var]
    with pytest.raises(RaylabError, match=r"crop 'incepton' is not known: .* Did you mean 'inception'"):
        reader_of(misspelt, Share(16, 0, 1))


def test_it_begins_at_any_step(run: Run) -> None:
    share = Share(12, 0, 1)
    whole, late = (list(batches(reader_of(run, share).read(range(start, 9)), 12)) for start in (0, 5))
    np.testing.assert_array_equal(whole[5]["image_BHWC"], late[0]["image_BHWC"])
    assert len(late) == 4


def lose_pictures(monkeypatch: pytest.MonkeyPatch, every: int) -> None:
    """Have the source miss each picture whose number is a multiple of `every`."""
    kept = FileSource.image_bytes

    def some_missing(self: FileSource, refs: list[dict]) -> list[bytes | Reason]:
        found = kept(self, refs)
        return [data if ref["offset"] % every else Reason.MISSING_IMAGE for ref, data in zip(refs, found)]

    monkeypatch.setattr(FileSource, "image_bytes", some_missing)


def test_the_next_row_stands_in_for_one_whose_picture_is_missing(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    share = Share(12, 0, 1)
    whole = [to_arrays(table) for table in reader_of(run, share).read(range(3))]
    class_N = np.concatenate([one["class_B"] for one in whole])
    lose_pictures(monkeypatch, 3)
    found = [to_arrays(table) for table in reader_of(run, share).read(range(2))]
    replaced_N, shown_N = (np.concatenate([one[name] for one in found]) for name in ("replaced", "class_B"))
    assert 0 < replaced_N.sum() < 24
    next_N = [next(at for at in range(i, 36) if at >= 24 or not replaced_N[at]) for i in range(24)]
    known = [i for i, at in enumerate(next_N) if at < 24]
    assert shown_N[known].tolist() == class_N[[next_N[i] for i in known]].tolist()


def test_a_worker_with_one_row_a_step_finds_a_stand_in_too(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """However rows are shared: the same one, cut alike."""
    lose_pictures(monkeypatch, 3)
    alone = [to_arrays(table) for table in reader_of(run, Share(12, 0, 1)).read(range(2))]
    assert sum(one["replaced"].sum() for one in alone) > 0
    shares = [list(batches(reader_of(run, Share(12, rank, 12)).read(range(2)), 1)) for rank in range(12)]
    for step, whole in enumerate(batches(reader_of(run, Share(12, 0, 1)).read(range(2)), 12)):
        for name, values in whole.items():
            np.testing.assert_array_equal(np.concatenate([mine[step][name] for mine in shares]), values)


def test_no_picture_at_all_is_an_error(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FileSource, "image_bytes", lambda self, refs: [b"no picture"] * len(refs))
    with pytest.raises(RaylabError, match=r"None of \d\d pictures .* opened; of row [0-9a-f]{32}: image_format"):
        next(reader_of(run, Share(12, 0, 1)).read(range(1)))
    with pytest.raises(RaylabError, match=r"None of \d\d pictures"):
        next(reader_of(run, Share(12, 0, 12)).read(range(1)))


def test_rows_that_are_held_out_are_not_trained_on(store: Store, tmp_path: Path) -> None:
    config = small("mofi_miniworld", store, tmp_path)
    run = prepared(replace(config, data=replace(config.data, held_out=0.3)))
    train, held = (sum(part.rows for part in parts_of(run.examples, held)) for held in (False, True))
    assert train == run.examples["rows"]
    assert 10 < held < 50
    read = reader_of(run, Share(held, 0, 1), held=True).read(range(1))
    assert sum(table.num_rows for table in read) == held
    collator = config.task.collator(run.context)
    ids = [
        [row for part in parts_of(run.examples) for row in _ids(config.labels, part.name, collator, is_held)]
        for is_held in (False, True)
    ]
    assert len(ids[0]) == train
    assert len(ids[1]) == held
    assert not set(ids[0]) & set(ids[1])


def _ids(labels: str, name: str, collator: Collator, held: bool) -> list[str]:
    rows, _ = read_part(Folder(labels), name, collator)
    return rows.filter(pa.array(held_out(rows, 0.3) == held))["row_id"].to_pylist()


def test_a_label_store_that_changed_is_an_error(run: Run) -> None:
    parts = tuple(replace(part, rows=part.rows + 1) for part in parts_of(run.examples))
    reader = reader_of(run, Share(12, 0, 1))
    reader.order = replace(reader.order, parts=parts)
    with pytest.raises(RaylabError, match="usable rows, and had"):
        list(reader.read(range(6)))
