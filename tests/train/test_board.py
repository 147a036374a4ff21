"""Workers whose node was cut off live on beside those that took their place: they are not heard, and name nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from raylab.errors import RaylabError
from raylab.storage import Folder
from raylab.train.board import Board, Word
from raylab.train.checkpoint import Checkpoints


def test_those_that_began_last_are_heard() -> None:
    board = Board()
    board.begin("first")
    assert board.hears("first", "step 1")
    board.begin("second")
    assert not board.hears("first", "step 2")
    assert board.hears("second", "step 1 again")
    assert board.take() == ["step 1", "step 1 again"]
    assert board.take() == []


def test_those_that_are_not_heard_end_no_run() -> None:
    board = Board()
    for workers in ("first", "second"):
        board.begin(workers)
    board.fail("first", RaylabError("Cannot write s3://bucket/run"))
    assert board.error() is None
    board.fail("second", RaylabError("the loss is nan"))
    assert str(board.error()) == "the loss is nan"


def test_workers_wait_until_they_are_told() -> None:
    board = Board()
    for workers in ("first", "second"):
        board.begin(workers)
    board.reach("first", 4, {"loss": 9.0})
    assert board.reached() is None
    board.reach("second", 4, {"loss": 1.0})
    assert board.reached() == (4, {"loss": 1.0})
    assert board.word(4) is None
    board.answer(4, Word(goes=False, more={"validation/HM": 0.5}))
    assert board.reached() is None
    assert board.word(4) == (False, {"validation/HM": 0.5})


def test_an_answer_that_comes_late_wakes_nobody_else() -> None:
    board = Board()
    board.begin("first")
    board.reach("first", 4, {})
    board.begin("second")  # begun again from step 4, while somebody looks at it
    board.reach("second", 8, {})
    board.answer(4, Word(goes=True, more={}))
    assert board.reached() == (8, {})


def test_a_checkpoint_of_those_that_were_replaced_is_not_named_and_removes_none(tmp_path: Path) -> None:
    def check_ours() -> None:
        raise RuntimeError("others have taken over")

    state = {"model": {"weight": torch.zeros(2)}}
    ours = Checkpoints(Folder(str(tmp_path)), keep=1)
    ours.save(4, state)
    with pytest.raises(RuntimeError, match="taken over"):
        Checkpoints(Folder(str(tmp_path)), keep=1, check_ours=check_ours).save(2, state)
    assert ours.latest() == 4
    ours.load(4, state)
