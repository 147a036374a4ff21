"""An audit's figures against what is true of the whole run."""

import json

import numpy as np
import pytest
from label.finished_run import Run, make_run

from raylab.label.judging import audit_figures, by_truth, sampled_rows
from raylab.label.sampling import draw
from raylab.label.store import LabelStore


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return make_run(tmp_path_factory.mktemp("judging") / "run", rows=3000, annotated=True)


@pytest.fixture(scope="module")
def rows(run: Run) -> dict[str, dict]:
    found = [*run.labels.to_table().to_pylist(), *run.rejects.to_table().to_pylist()]
    return {one["row_id"]: one for one in found}


def precision(rows: dict[str, dict]) -> float:
    return float(np.mean([one["entity_id"] in one["truth"] for one in rows.values() if not one.get("reject_reason")]))


def test_the_interval_holds_the_runs_precision_about_as_often_as_it_says(run: Run, rows: dict[str, dict]) -> None:
    truth, held, off = precision(rows), 0, []
    verdicts = by_truth(rows)
    for seed in range(120):
        sample = draw(run.labels, run.rejects, rows=200, seed=seed)
        mine = {row_id: verdicts[row_id] for row_id in sample.by_row()}
        step = audit_figures(sample, rows, mine, 0.95)["steps"]["verify"]
        held += step["low"] <= truth <= step["high"]
        off.append(step["precision"] - truth)
    assert held >= 108
    assert abs(np.mean(off)) < 0.01


def test_judging_everything_is_exact(run: Run, rows: dict[str, dict]) -> None:
    sample = draw(run.labels, run.rejects, rows=10**6)
    mine = sampled_rows(LabelStore(str(run.out)), sample.by_row())
    found = audit_figures(sample, mine, by_truth(mine), 0.9)
    verify = found["steps"]["verify"]
    assert list(found["steps"]) == ["verify"]
    assert verify["precision"] == verify["low"] == verify["high"] == pytest.approx(precision(rows), abs=1e-6)
    assert verify["rows"] == verify["judged"] == run.summary["labelled"]
    lost = next(one for one in found["decisions"] if one["decision"] == "low_confidence")
    refused = [one for one in rows.values() if one.get("reject_reason") == "low_confidence" and one["entity_name"]]
    assert lost["judged"] == len(refused)
    assert lost["precision"] == pytest.approx(np.mean([one["entity_id"] in one["truth"] for one in refused]), abs=1e-6)
    sure, plain = (found["thresholds"]["confidence"][name] for name in ("sure", "plain"))
    assert sure["threshold"] >= plain["threshold"]
    assert sure["low"] >= 0.9 <= plain["precision"]
    kept = [one for one in rows.values() if not one.get("reject_reason")
            and one["annotation"]["confidence"] >= plain["threshold"] - 1e-6]  # fmt: skip
    assert plain["coverage"] == pytest.approx(len(kept) / run.summary["labelled"], abs=1e-6)
    assert found["calibration"]["confidence"]["judged"] == run.summary["labelled"]
    assert found["calibration"]["confidence"]["ece"] < found["calibration"]["score"]["ece"] + 1


def test_undecided_and_missing_rows_are_counted_and_left_out(run: Run, rows: dict[str, dict]) -> None:
    sample = draw(run.labels, run.rejects, rows=100)
    verdicts = by_truth({row_id: rows[row_id] for row_id in sample.by_row()})
    ids = list(verdicts)
    verdicts |= dict.fromkeys(ids[::10], None)
    del verdicts[ids[1]]
    found = audit_figures(sample, rows, verdicts, 0.95)
    assert (found["drawn"], found["judged"], found["undecided"]) == (100, 89, 10)
    assert sum(one["judged"] for one in found["strata"]) == 89
    assert sum(one["undecided"] for one in found["decisions"]) == 10


def test_nothing_judged_is_null_and_can_be_written(run: Run, rows: dict[str, dict]) -> None:
    sample = draw(run.labels, run.rejects, rows=20)
    found = json.loads(json.dumps(audit_figures(sample, rows, {}, 0.95)))
    assert found["steps"]["verify"]["precision"] is None
    assert found["calibration"] == {}


def test_unknown_truth_judges_nothing() -> None:
    judged = by_truth({"a": {"truth": None, "entity_id": "Q1"}, "b": {"truth": [], "entity_id": None}})
    assert judged == {"a": None, "b": False}
