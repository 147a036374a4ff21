"""Which rows an audit looks at."""

import collections
from pathlib import Path

import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from label.finished_run import Run, make_run

from raylab.label.sampling import LABELS, LEAST, WEIGHED, AuditSample, draw


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return make_run(tmp_path_factory.mktemp("sampling") / "run", rows=1500, annotated=True)


@pytest.fixture(scope="module")
def found(run: Run) -> AuditSample:
    return draw(run.labels, run.rejects, rows=200)


def kind(row: dict) -> tuple[str, str] | None:
    note = row["annotation"] or {}
    if not row.get("reject_reason"):
        named = "unresolved" if note and row["entity_id"] is None else note.get("decision")
        return ("verify", named) if note else ("select", "labelled")
    return (row["reject_step"], row["reject_reason"]) if row["reject_reason"] in WEIGHED else None


def test_strata_count_every_decision_once(run: Run, found: AuditSample) -> None:
    rows = [*run.labels.to_table().to_pylist(), *run.rejects.to_table().to_pylist()]
    counted = collections.Counter(filter(None, map(kind, rows)))
    sizes: collections.Counter = collections.Counter()
    for stratum in found.strata:
        sizes[stratum.step, stratum.decision] += stratum.size
    assert sizes == counted
    assert {"verified", "corrected", "unresolved", "low_score", "low_confidence"} <= {one for _, one in sizes}


def test_sampled_rows_belong_to_their_stratum(run: Run, found: AuditSample) -> None:
    rows = {one["row_id"]: one for part in (run.labels, run.rejects) for one in part.to_table().to_pylist()}
    for row_id, stratum in found.by_row().items():
        row = rows[row_id]
        sure = (row["annotation"] or {}).get("confidence")
        value = row["score"] if sure is None else sure
        assert kind(row) == (stratum.step, stratum.decision)
        assert stratum.low <= value < stratum.high or stratum.high == 1


def test_as_many_rows_as_asked_for_most_of_them_labels_and_some_of_each_stratum(found: AuditSample) -> None:
    assert len(found.by_row()) == sum(len(one.row_ids) for one in found.strata) == 200
    labels = sum(len(one.row_ids) for one in found.strata if one.decision in LABELS)
    assert labels == 160
    for stratum in found.strata:
        least = min(LEAST, stratum.size) if stratum.decision in LABELS else 1
        assert least <= len(stratum.row_ids) <= stratum.size


def test_a_seed_decides_and_parts_do_not(run: Run, found: AuditSample, tmp_path: Path) -> None:
    assert draw(run.labels, run.rejects, rows=200) == found
    assert draw(run.labels, run.rejects, rows=200, seed=1).by_row().keys() != found.by_row().keys()
    for name, part in (("labels", run.labels), ("rejects", run.rejects)):
        (tmp_path / name).mkdir()
        table = part.to_table().sort_by("key")
        for number in range(4):
            pq.write_table(table.slice(number * 400, 400), tmp_path / name / f"{3 - number}.parquet")
    other = [ds.dataset(tmp_path / name, schema=part.schema) for name, part in
             (("labels", run.labels), ("rejects", run.rejects))]  # fmt: skip
    assert draw(*other, rows=200) == found


def test_it_is_drawn_evenly(run: Run) -> None:
    """Every row of a stratum is drawn as often as any other, over the seeds."""
    largest = max(draw(run.labels, run.rejects, rows=60).strata, key=lambda one: one.size)
    times: collections.Counter = collections.Counter()
    for seed in range(40):
        mine = draw(run.labels, run.rejects, rows=60, seed=seed).strata
        stratum = next(one for one in mine if (one.decision, one.low) == (largest.decision, largest.low))
        times.update(stratum.row_ids)
    expected = sum(times.values()) / largest.size
    assert max(times.values()) < expected + 6 * expected**0.5


@pytest.mark.parametrize("allocation", ["neyman", "equal"])
def test_a_run_with_fewer_rows_gives_all_of_them(tmp_path: Path, allocation: str) -> None:
    run = make_run(tmp_path / "run", rows=40, annotated=True)
    found = draw(run.labels, run.rejects, rows=500, allocation=allocation)
    assert all(len(one.row_ids) == one.size for one in found.strata)
    assert draw(run.labels, run.rejects, rows=3, allocation=allocation).rows == 3


def test_equal_allocation_gives_equal_numbers(run: Run) -> None:
    found = draw(run.labels, run.rejects, rows=200, allocation="equal")
    given = [len(one.row_ids) for one in found.strata if one.decision in LABELS and one.size > 15]
    assert max(given) - min(given) <= 1


def test_a_run_without_annotations_or_without_rows_can_be_sampled(tmp_path: Path) -> None:
    plain = make_run(tmp_path / "plain", rows=200)
    found = draw(plain.labels, plain.rejects, rows=50)
    assert {(one.step, one.decision) for one in found.strata} == {
        ("select", "labelled"),
        ("select", "low_score"),
        ("select", "low_margin"),
    }
    empty = make_run(tmp_path / "empty", rows=0)
    assert draw(empty.labels, empty.rejects).strata == []


def test_it_survives_json(found: AuditSample) -> None:
    assert AuditSample.from_json(found.to_json()) == found
