from __future__ import annotations

import pyarrow as pa

from raylab.annotate.log import forget_answers, read_answers, write_answers
from raylab.annotate.records import ANSWER, ROW, SEGMENT
from raylab.storage import Folder


def answers(*keys: tuple[int, int, str, int], text: str = "x") -> pa.Table:
    rows = [{SEGMENT: s, ROW: r, "call": call, "attempt": attempt, "text": text} for s, r, call, attempt in keys]
    return pa.Table.from_pylist(rows, ANSWER)


def test_answers_come_back_by_segment_and_row_in_the_order_of_attempts(tmp_path):
    folder = Folder(str(tmp_path))
    write_answers(folder, answers((0, 3, "verify", 2), (1, 3, "verify", 1)))
    write_answers(folder, answers((0, 3, "verify", 1), (0, 5, "questions", 1)))
    found = read_answers(folder, 0)
    assert {row: [one["attempt"] for one in mine] for row, mine in found.items()} == {3: [1, 2], 5: [1]}
    assert list(read_answers(folder, 1)) == [3]
    assert read_answers(folder, 10) == {}


def test_an_answer_that_was_given_twice_counts_once(tmp_path):
    folder = Folder(str(tmp_path))
    for _ in range(2):
        write_answers(folder, answers((0, 1, "verify", 1)))
    assert len(read_answers(folder, 0)[1]) == 1


def test_a_committed_segment_forgets_its_own_answers_only(tmp_path):
    folder = Folder(str(tmp_path))
    write_answers(folder, answers((0, 1, "verify", 1), (1, 1, "verify", 1)))
    forget_answers(folder, 0)
    assert read_answers(folder, 0) == {}
    assert list(read_answers(folder, 1)) == [1]
