"""The order of a run's rows: every row once an epoch, the same for any number of workers, from any step."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raylab.train.order import Order, Part, Share, windows

PARTS = st.lists(st.integers(1, 30), min_size=1, max_size=8).map(
    lambda sizes: tuple(Part(f"labels/{i}.parquet", rows) for i, rows in enumerate(sizes))
)


def rows_of(order: Order, steps: range) -> list[tuple[str, int]]:
    """(part, row) at each position of some steps."""
    found = []
    for piece in order.pieces(steps):
        held = [(part.name, row) for part in piece.window.parts for row in range(part.rows)]
        at = piece.window.shuffled(order.seed)[np.arange(piece.start, piece.stop) - piece.window.start]
        found += [held[i] for i in at]
    return found


@settings(deadline=None, max_examples=50)
@given(parts=PARTS, seed=st.integers(0, 5), window_rows=st.integers(1, 60), batch=st.integers(1, 8))
def test_an_epoch_has_each_row_once(parts: tuple[Part, ...], seed: int, window_rows: int, batch: int) -> None:
    order = Order(parts, seed, window_rows, batch)
    found = rows_of(order, range(order.batches_per_epoch))
    assert len(found) == order.batches_per_epoch * batch
    assert len(set(found)) == len(found)
    assert sum(part.rows for part in parts) - len(found) < batch


@settings(deadline=None, max_examples=50)
@given(parts=PARTS, window_rows=st.integers(1, 60), batch=st.integers(1, 8), data=st.data())
def test_any_step_can_be_the_first(parts: tuple[Part, ...], window_rows: int, batch: int, data: st.DataObject) -> None:
    order = Order(parts, 3, window_rows, batch)
    if not order.batches_per_epoch:
        return
    steps = 3 * order.batches_per_epoch
    start = data.draw(st.integers(0, steps))
    whole = rows_of(order, range(steps))
    assert rows_of(order, range(start, steps)) == whole[start * batch :]


@pytest.mark.parametrize("world", [1, 2, 3, 6])
def test_workers_share_each_batch(world: int) -> None:
    position = np.arange(60)
    shares = [Share(12, rank, world) for rank in range(world)]
    masks = np.stack([share.mine(position) for share in shares])
    assert (masks.sum(axis=0) == 1).all()
    for share, mask in zip(shares, masks):
        assert np.bincount(position[mask] // 12).tolist() == [share.rows] * 5


def test_epochs_and_seeds_differ() -> None:
    parts = tuple(Part(str(i), 10) for i in range(6))
    orders = {
        tuple(rows_of(Order(parts, seed, 20, 10), range(epoch * 6, epoch * 6 + 6)))
        for seed in (0, 1)
        for epoch in (0, 1)
    }
    assert len(orders) == 4


def test_a_window_holds_neighbours_of_the_shuffled_parts() -> None:
    parts = tuple(Part(str(i), 10) for i in range(6))
    found = windows(parts, 0, 0, 25)
    assert [window.rows for window in found] == [30, 30]
    assert [window.start for window in found] == [0, 30]


GROUPS = st.lists(st.tuples(st.integers(12, 30), st.integers(0, 2)), min_size=1, max_size=8).map(
    lambda sizes: tuple(Part(f"labels/{i}.parquet", rows, group) for i, (rows, group) in enumerate(sizes))
)


@settings(deadline=None, max_examples=50)
@given(parts=GROUPS, window_rows=st.integers(1, 60))
def test_a_batch_has_as_many_rows_of_each_group(parts: tuple[Part, ...], window_rows: int) -> None:
    group_of = {part.name: part.group for part in parts}
    groups = sorted(set(group_of.values()))
    order = Order(parts, 3, window_rows, batch=4 * len(groups))
    for step in range(12):
        found = [group_of[name] for name, _ in rows_of(order, range(step, step + 1))]
        assert np.bincount(found)[groups].tolist() == [4] * len(groups)


@settings(deadline=None, max_examples=50)
@given(parts=GROUPS, window_rows=st.integers(1, 60))
def test_each_group_has_epochs_of_its_own(parts: tuple[Part, ...], window_rows: int) -> None:
    groups = Order(parts, 3, window_rows, batch=4 * len({part.group for part in parts})).groups
    for order in groups:
        found = rows_of(order, range(order.batches_per_epoch))
        assert len(set(found)) == len(found) == sum(part.rows for part in order.parts) // 4 * 4


@settings(deadline=None, max_examples=50)
@given(parts=GROUPS, window_rows=st.integers(1, 60), start=st.integers(0, 20))
def test_any_step_of_groups_can_be_the_first(parts: tuple[Part, ...], window_rows: int, start: int) -> None:
    order = Order(parts, 3, window_rows, batch=12)
    share = len(rows_of(order, range(1)))
    assert rows_of(order, range(start, 20)) == rows_of(order, range(20))[start * share :]


def test_groups_of_equal_parts_are_shuffled_differently() -> None:
    parts = tuple(Part("same", 20, group) for group in (0, 1))
    first, second = (rows_of(order, range(5)) for order in Order(parts, 0, 50, 8).groups)
    assert first != second
    assert sorted(first) == sorted(second)
