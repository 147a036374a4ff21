import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raylab.label.audit import precision_at_coverage, precision_coverage, truth_report
from raylab.schema import LABEL, REJECT, Reason


def candidate(entity, mention=0):
    return {"entity_id": entity, "mention": mention, "source": "alias" if mention >= 0 else "neighbour"}


def row(number, truth, candidates, link, entity=None, *, reason=None, step=None, annotation=None):
    return {
        "row_id": str(number),
        "shard": "s",
        "key": str(number),
        "truth": truth,
        "candidates": list(candidates),
        "link_entity_id": link,
        "entity_id": entity,
        "reject_step": step,
        "reject_reason": reason,
        "annotation": annotation,
    }


def said(candidate_id, decision="verified", *, rescued=False):
    return {"candidate_id": candidate_id, "decision": decision, "rescued": rescued}


ROWS = [
    row(0, ["a"], [candidate("a"), candidate("b")], "b", "a"),
    row(1, ["a", "c"], [candidate("c"), candidate("b", 1)], "c", "c"),
    row(2, ["b"], [candidate("a"), candidate("b", -1)], "a", "a"),
    row(3, [], [candidate("a")], "a", "a"),
    row(4, ["a"], [candidate("a")], "a", "a", reason=Reason.LOW_SCORE),
    row(5, ["a"], [candidate("a")], "a", "a", reason=Reason.RARE_ENTITY),
    row(6, ["b"], [], None, None, reason=Reason.NO_CANDIDATES),
    row(7, None, [candidate("z")], "z", "z"),
    row(8, [], [candidate("z")], "z", "z", reason=Reason.LOW_MARGIN),
]
EXPECTED = {
    # 8 mentions have candidates: rows 0, 1 (two), 2, 3, 4, 5, 8; true ones: rows 0, 1, 4, 5
    "mentions": {"precision": 4 / 8, "recall": 4 / 6, "coverage": 5 / 6},
    "candidates": {"precision": 5 / 10, "recall": 5 / 6, "coverage": 5 / 6},
    "link": {"precision": 3 / 7, "recall": 3 / 6, "coverage": 5 / 6},
    "select": {"precision": 3 / 5, "recall": 3 / 6, "coverage": 4 / 6},
}


def labels_and_rejects(rows=ROWS):
    split = [[r for r in rows if (r["reject_reason"] is None) == kept] for kept in (True, False)]
    return [pa.Table.from_pylist(part, schema) for part, schema in zip(split, (LABEL, REJECT))]


def assert_expected(report):
    assert list(report) == list(EXPECTED)
    for step, figures in EXPECTED.items():
        assert report[step] == pytest.approx(figures, abs=1e-6), step


def test_the_report_counts_as_the_issue_defines():
    assert_expected(truth_report(*labels_and_rejects()))


def test_it_reads_datasets_and_does_not_depend_on_batches(tmp_path):
    parts = []
    for name, table in zip(("labels", "rejects"), labels_and_rejects()):
        (tmp_path / name).mkdir()
        for i in range(table.num_rows):
            pq.write_table(table.slice(i, 1), tmp_path / name / f"{i}.parquet")
        parts.append(ds.dataset(tmp_path / name, schema=table.schema))
    assert_expected(truth_report(*parts))


ANNOTATED = [
    row(0, ["a"], [candidate("a")], "a", "a", annotation=said("a")),
    row(1, ["b"], [candidate("a"), candidate("b")], "a", "b", annotation=said("a", "corrected")),
    row(2, ["c"], [candidate("a")], "a", None, annotation=said("a", "corrected")),  # the title names no entity
    row(3, ["a"], [candidate("a")], "a", "a", annotation=said("a", rescued=True)),
    row(4, ["a"], [candidate("a")], "a", "a", annotation=said("a"), step="count", reason=Reason.RARE_ENTITY),
    row(5, ["a"], [candidate("a")], "a", "a", annotation=said("a"), step="questions", reason=Reason.ANSWER_EMPTY),
    row(6, ["a"], [candidate("a")], "a", "a", annotation=said("a"), step="verify", reason=Reason.LOW_CONFIDENCE),
    row(7, ["a"], [candidate("b")], "b", "b", annotation=said("b", None), step="verify", reason=Reason.NOT_IDENTIFIED),
    row(8, ["a"], [candidate("a")], "a", "a", step="verify", reason=Reason.ENGINE_CRASH),
    row(9, ["a"], [candidate("a")], "a", "a", step="select", reason=Reason.LOW_SCORE),
    row(10, None, [candidate("a")], "a", "a", annotation=said("a")),
]


def test_verify_is_judged_by_the_entity_it_left_and_select_by_the_candidate_it_gave():
    report = truth_report(*labels_and_rejects(ANNOTATED))
    # select: rows 0, 4, 5, 6, 8 right, 1, 2, 7 wrong, 3 rescued and 9 rejected: not its labels
    assert report["select"] == pytest.approx({"precision": 5 / 8, "recall": 5 / 10, "coverage": 8 / 10})
    # verify: rows 0, 1, 3, 4, 5 right, 2 unresolved and so wrong, 6 to 8 refused, 9 never asked
    assert report["verify"] == pytest.approx({"precision": 5 / 6, "recall": 5 / 10, "coverage": 6 / 10}, abs=1e-6)
    assert list(report) == [*EXPECTED, "verify"]


def test_rows_of_which_none_is_annotated_have_no_figures_of_the_annotator():
    assert "verify" not in truth_report(*labels_and_rejects([ANNOTATED[8], ANNOTATED[9]]))
    old = [part.drop_columns(["annotation"]) for part in labels_and_rejects()]
    assert_expected(truth_report(*old))


def test_unknown_truth_gives_no_report():
    assert truth_report(*labels_and_rejects([ROWS[7]])) == {}
    assert truth_report(*labels_and_rejects([])) == {}


def test_nothing_labelled_is_null_and_not_a_crash():
    report = truth_report(*labels_and_rejects([ROWS[6]]))
    assert report["select"] == {"precision": None, "recall": 0, "coverage": 0}


def test_precision_and_coverage_of_a_score():
    scores = np.array([0.9, 0.8, 0.7, 0.6, np.nan, 0.5])
    correct = np.array([True, True, False, True, False, False])
    holds = np.array([True, True, True, True, True, False])
    curve = precision_coverage(scores, correct, holds)
    assert curve.threshold.tolist() == [0.9, 0.8, 0.7, 0.6, 0.5]
    assert curve.precision.tolist() == pytest.approx([1, 1, 2 / 3, 3 / 4, 3 / 5])
    assert curve.coverage.tolist() == pytest.approx([0.2, 0.4, 0.6, 0.8, 0.8])
    assert curve.at_coverage(0.5) == pytest.approx((2 / 3, 0.7))
    assert curve.at_precision(0.75) == pytest.approx((0.8, 0.6))
    assert np.isnan(precision_at_coverage(scores, correct, holds, 0.9))


def test_equal_scores_stand_or_fall_together():
    curve = precision_coverage(np.array([0.5, 0.5]), np.array([True, False]), np.array([True, True]))
    assert (curve.precision.tolist(), curve.coverage.tolist()) == ([0.5], [1.0])


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans(), st.booleans()), max_size=30), st.randoms())
def test_the_curve_does_not_depend_on_the_order_of_rows(rows, random):
    def of(rows):
        scores, correct, holds = (np.array(column) for column in zip(*rows)) if rows else (np.zeros(0),) * 3
        curve = precision_coverage(scores.astype(float), correct.astype(bool), holds.astype(bool))
        return np.stack([curve.threshold, curve.precision, curve.coverage])

    shuffled = list(rows)
    random.shuffle(shuffled)
    np.testing.assert_allclose(of(rows), of(shuffled))
