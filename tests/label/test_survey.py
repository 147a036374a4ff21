"""Which rows and numbers a report looks at."""

from pathlib import Path

import numpy as np
import pyarrow.dataset as ds
import pytest
from label.finished_run import Run, cut, make_run

from raylab.label.survey import Histogram, Survey, survey
from raylab.schema import Reason


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return make_run(tmp_path_factory.mktemp("survey") / "run", rows=600)


@pytest.fixture(scope="module")
def found(run: Run) -> Survey:
    return survey(run.labels, run.rejects, sample=5)


def total(histogram: Histogram, *names: str) -> int:
    return sum(int(histogram.series[name].sum()) for name in names)


def test_histograms_count_each_row_once(run: Run, found: Survey) -> None:
    abstained = run.summary["reasons"]["low_score"] + run.summary["reasons"]["low_margin"]
    assert total(found.score, "right", "wrong") == run.summary["labelled"]
    assert total(found.score, "abstained") == abstained
    assert total(found.margin.coarse(25), "right", "wrong", "abstained") == run.summary["labelled"] + abstained
    assert total(found.caption_chars, "labelled") == run.summary["labelled"]
    assert total(found.caption_chars, "rejected") == run.summary["rejected"] + run.summary["failed"]


def test_the_sample_is_the_lowest_row_ids_of_the_group(run: Run, found: Survey) -> None:
    for reason in (Reason.LOW_SCORE, Reason.STEP_ERROR):
        group = next(group for group in found.groups if group.decision == reason)
        all_ids = run.rejects.to_table(["row_id"], filter=ds.field("reject_reason") == reason.value)[
            "row_id"
        ].to_pylist()
        assert [row["row_id"] for row in group.rows] == sorted(all_ids)[:5]
        assert group.total == len(all_ids)
        assert {row["reject_reason"] for row in group.rows} == {reason.value}


def test_groups_of_labelled_rows_are_what_they_say(run: Run, found: Survey) -> None:
    groups = {group.decision: group for group in found.groups if group.step is None}
    low, high = found.score.quantile(0.1), found.score.quantile(0.5)
    labelled = Histogram(found.score.edges, {name: found.score.series[name] for name in ("right", "wrong")})
    low, high, thin = labelled.quantile(0.1), labelled.quantile(0.5), 1.0
    assert all(row["score"] >= high for row in groups["high"].rows)
    assert all(row["score"] < low or row["margin"] < thin for row in groups["near"].rows)
    assert all(row["entity_id"] not in row["truth"] for row in groups["wrong"].rows)
    assert all(row["entity_id"] != row["link_entity_id"] for row in groups["overruled"].rows)
    assert groups["wrong"].total == total(found.score, "wrong")


def test_a_label_on_a_picture_that_holds_nothing_is_wrong_and_unknown_truth_is_neither(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", rows=80, truth=False)
    found = survey(run.labels, run.rejects)
    assert set(found.score.series) == {"labelled", "abstained"}
    assert "wrong" not in {group.decision for group in found.groups}


def test_values_beyond_the_ends_count_in_the_end_bins_and_nan_nowhere() -> None:
    histogram = Histogram(np.array([0.0, 0.5, 1.0]))
    histogram.add("a", np.array([-3.0, 0.2, 0.9, 7.0, np.nan]))
    assert histogram.series["a"].tolist() == [2, 2]
    assert histogram.coarse(2).series["a"].tolist() == [4]


def test_quantiles_come_from_the_bins() -> None:
    histogram = Histogram(np.linspace(0, 1, 101))
    histogram.add("a", np.linspace(0, 1, 1001))
    assert histogram.quantile(0.1) == pytest.approx(0.1, abs=0.011)
    assert histogram.quantile(1.0) == 1.0
    assert Histogram(np.linspace(0, 1, 3)).quantile(0.5) == 1.0


def test_annotated_rows_have_groups_and_a_histogram_of_their_own(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", rows=600, annotated=True)
    found = survey(run.labels, run.rejects)
    rows = run.labels.to_table().to_pylist()
    groups = {group.decision: group for group in found.groups if group.step is None}
    noted = [row["annotation"]["decision"] for row in rows]
    unresolved = sum(row["entity_id"] is None for row in rows)
    assert groups["verified"].total == noted.count("verified")
    assert groups["corrected"].total + groups["unresolved"].total == noted.count("corrected")
    assert groups["unresolved"].total == unresolved > 0
    assert all(row["annotation"]["candidate_id"] != row["link_entity_id"] for row in groups["overruled"].rows)
    assert total(found.confidence, "right", "wrong") == len(rows)
    assert total(found.confidence, "rejected") > 0
    plain = make_run(tmp_path / "plain", rows=60)
    assert not any(counts.sum() for counts in survey(plain.labels, plain.rejects).confidence.series.values())


def test_of_very_many_rows_a_part_is_looked_at(run: Run, found: Survey, tmp_path: Path) -> None:
    labels, rejects = cut(run.labels, tmp_path / "labels", 20), cut(run.rejects, tmp_path / "rejects", 20)
    part = survey(labels, rejects, sample=5, most_rows=-(-labels.count_rows() // 2))
    assert found.looked_at == found.rows == part.rows == labels.count_rows() + rejects.count_rows()
    looked = total(part.score, "right", "wrong")
    assert 0.4 * run.summary["labelled"] < looked < 0.6 * run.summary["labelled"], "every other file"
    assert part.looked_at < part.rows
    wrong = next(group for group in part.groups if group.decision == "wrong")
    assert wrong.total == round(total(part.score, "wrong") * labels.count_rows() / looked)
    files = [file.to_table(columns=["row_id"])["row_id"].to_pylist() for file in labels.get_fragments()]
    seen = {one for file in files[::2] for one in file}
    assert {row["row_id"] for group in part.groups if group.step is None for row in group.rows} <= seen
