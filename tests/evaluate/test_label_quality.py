import json
import shutil

import numpy as np
import pytest
from label.finished_run import make_run
from sklearn.metrics import precision_recall_curve

from raylab.errors import RaylabError
from raylab.evaluate.label_quality import LabelQuality, judge, precision_curve
from raylab.evaluate.stores import is_store, open_memory, open_part
from raylab.label.audit import truth_report


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("plain") / "run", source="miniworld://?rows=1000&seed=7")


@pytest.fixture(scope="module")
def annotated(tmp_path_factory):
    out = tmp_path_factory.mktemp("annotated") / "run"
    return make_run(out, annotated=True, source="miniworld://?rows=1000&seed=7")


def scores_of(run):
    return {f"{s.part} {s.metric}": (s.value, s.count) for s in LabelQuality(str(run.out))(None).scores}


def test_precision_recall_and_coverage_are_counted_row_by_row(plain):
    labels, rejects = (part.to_table().to_pylist() for part in (plain.labels, plain.rejects))
    right = sum(row["entity_id"] in row["truth"] for row in labels)
    held = len(labels) + len(rejects)  # every picture of this run holds an entity
    assert scores_of(plain) == {
        "all precision": (right / len(labels), len(labels)),
        "all recall": (right / held, held),
        "all coverage": (len(labels) / held, held),
    }


def test_corrected_labels_are_compared_with_the_candidates_of_the_same_rows(annotated):
    found = scores_of(annotated)
    rows = [row for row in annotated.labels.to_table().to_pylist() if row["annotation"]]
    said = [row for row in rows if row["annotation"]["candidate_id"]]
    right = sum(row["annotation"]["candidate_id"] in row["truth"] for row in said)
    assert found["candidate precision"] == (pytest.approx(right / len(said)), len(said))
    assert found["corrected precision"][0] > found["candidate precision"][0]


def test_it_agrees_with_the_audit_of_the_labels_alone(plain):
    """The audit's last step, over labels only: a rejected row then cannot count as labelled."""
    labels = plain.labels
    expected = truth_report(labels)["select"]["precision"]
    assert scores_of(plain)["all precision"][0] == pytest.approx(expected, abs=1e-6)


def test_the_curve_is_scikit_learns_precision_at_falling_thresholds(plain):
    rows = LabelQuality(str(plain.out))._rows
    judged = judge(rows)
    curve = precision_curve(judged)
    kept = judged.labelled
    precision, _, thresholds = precision_recall_curve(judged.correct[kept], judged.score[kept])
    np.testing.assert_allclose(curve.y, precision[:-1][::-1][: len(curve.y)])
    assert len(thresholds) == len(curve.y)
    assert np.all(np.diff(curve.x) > 0) and curve.x[-1] == pytest.approx(kept.sum() / judged.holds.sum())


def test_a_store_without_truth_is_refused(tmp_path):
    run = make_run(tmp_path / "run", rows=40, truth=False)
    with pytest.raises(RaylabError, match="no row's truth is known"):
        LabelQuality(str(run.out))


def test_what_is_no_finished_store_is_refused(tmp_path):
    with pytest.raises(RaylabError, match=r"has no MANIFEST\.json"):
        LabelQuality(str(tmp_path))
    with pytest.raises(RaylabError, match=r"--label-quality.labels is missing"):
        LabelQuality("")
    assert not is_store(str(tmp_path)) and not is_store("miniworld://?rows=5")


def test_a_store_of_another_schema_is_refused(plain, tmp_path):
    import pyarrow.parquet as pq

    copy = tmp_path / "old"
    shutil.copytree(plain.out, copy)
    path = copy / "labels" / "00000.parquet"
    table = pq.read_table(path)
    pq.write_table(table.replace_schema_metadata({b"raylab_schema_version": b"1"}), path)
    with pytest.raises(RaylabError, match="schema version 1"):
        open_part(str(copy), "labels")


def test_a_store_is_a_memory_and_an_annotated_one_has_two_kinds_of_labels(plain, annotated):
    memory = open_memory(str(plain.out))
    rows = plain.labels.to_table().to_pylist()
    assert list(memory.labels) == ["labelled"]
    assert memory.labels["labelled"] == [row["entity_id"] for row in rows]
    assert all(isinstance(one, bytes) for one in memory.images.source.image_bytes(memory.images.refs[:2]))
    both = open_memory(str(annotated.out))
    assert list(both.labels) == ["candidate", "corrected"]
    assert len(both.images) == sum(row["annotation"] is not None for row in annotated.labels.to_table().to_pylist())


def test_the_images_of_a_store_made_from_a_store_are_in_the_first_ones_source(plain, annotated, tmp_path):
    copy = tmp_path / "second"
    shutil.copytree(annotated.out, copy)
    (copy / "config.json").write_text(json.dumps({"source": {"uri": str(plain.out)}}))
    images = open_memory(str(copy)).images
    assert isinstance(images.source.image_bytes(images.refs[:1])[0], bytes)
    (copy / "config.json").unlink()
    with pytest.raises(RaylabError, match=r"has no config\.json"):
        open_memory(str(copy))


def test_a_set_of_images_is_a_memory_too():
    memory = open_memory("miniworld://?rows=20&seed=5")
    assert list(memory.labels) == ["given"]
    assert memory.labels["given"] == memory.images.labels
