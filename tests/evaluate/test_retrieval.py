import numpy as np
import pytest
from evaluate.small_sets import COLOURS, ColourEncoder, FixedFeatures, bare_set, coloured, subject_of
from sklearn.metrics import average_precision_score

from raylab.evaluate import ranking
from raylab.evaluate.base import Curve, Sheet, WorstPairs
from raylab.evaluate.image_set import class_codes
from raylab.evaluate.retrieval import Retrieval, average_precisions


def clustered(classes=30, per_class=6, dim=24, seed=0):
    rng = np.random.default_rng(seed)
    class_N = np.repeat(np.arange(classes), per_class)
    vectors = rng.normal(size=(classes, dim))[class_N] + 1.5 * rng.normal(size=(len(class_N), dim))
    return ranking.unit(vectors, "x"), class_N


def by_sklearn(vectors, class_N, self_hit):
    score = vectors @ vectors.T
    found = []
    for query in range(len(vectors)):
        kept = np.ones(len(vectors), bool)
        kept[query] = self_hit
        found.append(average_precision_score(class_N[kept] == class_N[query], score[query][kept]))
    return np.array(found)


@pytest.mark.parametrize("self_hit", [True, False])
@pytest.mark.parametrize("rows", [7, 256])
def test_average_precision_is_scikit_learns(monkeypatch, self_hit, rows):
    monkeypatch.setattr(ranking, "QUERY_ROWS", rows)
    vectors, class_N = clustered()
    found = average_precisions(vectors, class_N, self_hit=self_hit).average
    np.testing.assert_allclose(found, by_sklearn(vectors, class_N, self_hit), atol=1e-6)
    assert 0.1 < found.mean() < 0.9


def test_the_curve_is_the_mean_of_interpolated_precisions():
    vectors, class_N = clustered(classes=5, per_class=4)
    found = average_precisions(vectors, class_N, self_hit=False)
    score = vectors @ vectors.T
    expected = []
    for query in range(len(vectors)):
        order = [int(one) for one in np.argsort(-score[query], kind="stable") if one != query]
        hits = np.cumsum([class_N[one] == class_N[query] for one in order])
        precision, recall = hits / np.arange(1, len(order) + 1), hits / 3
        expected.append([precision[recall >= level / 100 - 1e-9].max() for level in range(101)])
    np.testing.assert_allclose(found.curve, np.mean(expected, axis=0), atol=1e-9)
    assert np.all(np.diff(found.curve) <= 1e-12)


def scores_of(outcome):
    return {score.name: (score.value, score.count) for score in outcome.scores}


def test_a_toy_of_known_scores():
    # two classes on a line: a a b a b; cosines fall with the angle between them
    angles = np.deg2rad([0, 1, 3, 7, 20])
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    images = bare_set("toy", ["a", "a", "b", "a", "b"])
    outcome = Retrieval(images)(FixedFeatures({"toy": vectors}))
    # others of its class rank: a0: 1, 3; a1: 1, 3; b2: 4; a3: 2, 3; b4: 2
    ap = [(1 + 2 / 3) / 2, (1 + 2 / 3) / 2, 1 / 4, (1 / 2 + 2 / 3) / 2, 1 / 2]
    found = scores_of(outcome)
    assert found["retrieval/leave-one-out/all/mAP"] == (pytest.approx(np.mean(ap)), 5)
    assert found["retrieval/k-nn any/all/@1"] == (pytest.approx(2 / 5), 5)
    assert "retrieval/official/all/mAP" not in found


def test_gpr1200_counts_the_query_itself_and_reports_every_domain():
    rng = np.random.default_rng(1)
    labels = [str(row // 4) for row in range(48)]
    domains = ["landmarks"] * 24 + ["faces"] * 24
    vectors = ranking.unit(rng.normal(size=(12, 8))[np.repeat(np.arange(12), 4)] + rng.normal(size=(48, 8)), "x")
    outcome = Retrieval(bare_set("toy", labels, domains), "gpr1200", gpr1200=True)(FixedFeatures({"toy": vectors}))
    found = scores_of(outcome)
    expected = by_sklearn(vectors, class_codes(labels)[1], self_hit=True)
    assert found["gpr1200/official/all/mAP"] == (pytest.approx(expected.mean(), abs=1e-6), 48)
    assert found["gpr1200/official/landmarks/mAP"] == (pytest.approx(expected[:24].mean(), abs=1e-6), 24)
    assert found["gpr1200/official/faces/mAP"] == (pytest.approx(expected[24:].mean(), abs=1e-6), 24)
    assert found["gpr1200/leave-one-out/all/mAP"][0] < found["gpr1200/official/all/mAP"][0]


def test_a_set_that_is_not_gpr1200_is_said_to_be_none():
    vectors, class_N = clustered(classes=3, per_class=3)
    images = bare_set("toy", [str(code) for code in class_N])
    outcome = Retrieval(images, "gpr1200", gpr1200=True)(FixedFeatures({"toy": vectors}))
    assert "9 images, not GPR1200's own 12,000" in outcome.notes[0]


def test_an_image_alone_in_its_class_is_no_query():
    vectors = np.array([[1, 0], [1, 0.1], [0, 1]])
    outcome = Retrieval(bare_set("toy", ["a", "a", "b"]))(FixedFeatures({"toy": vectors}))
    assert scores_of(outcome)["retrieval/leave-one-out/all/mAP"] == (1.0, 2)
    assert scores_of(outcome)["retrieval/k-nn any/all/@1"] == (1.0, 2)
    _, pairs, sheet = outcome.figures
    assert pairs.pairs == () and len(sheet.rows) == 2


def test_a_set_without_two_images_of_a_class_has_no_scores_and_says_why():
    outcome = Retrieval(bare_set("toy", ["a", "b", "c"]))(FixedFeatures({"toy": np.eye(3)}))
    assert outcome.scores == () and "no class of toy has two images" in outcome.notes[0]


def test_k_nn_any_and_majority_are_those_of_a_brute_force_loop():
    vectors, class_N = clustered(classes=8, per_class=5, seed=3)
    outcome = Retrieval(bare_set("toy", [str(code) for code in class_N]))(FixedFeatures({"toy": vectors}))
    score = ranking.unit(vectors, "x") @ ranking.unit(vectors, "x").T
    any_hits = votes = 0
    for query in range(len(vectors)):
        order = [one for one in np.argsort(-score[query], kind="stable") if one != query][:5]
        near = [class_N[one] for one in order]
        any_hits += class_N[query] in near
        votes += max(near, key=lambda label: (near.count(label), -near.index(label))) == class_N[query]
    found = scores_of(outcome)
    assert found["retrieval/k-nn any/all/@5"] == (pytest.approx(any_hits / 40), 40)
    assert found["retrieval/k-nn majority/all/@5"] == (pytest.approx(votes / 40), 40)
    assert found["retrieval/k-nn any/all/@1"] == found["retrieval/k-nn majority/all/@1"]


def test_images_that_cannot_be_opened_are_left_out_counted_and_named(monkeypatch, caplog):
    subject = subject_of(monkeypatch, ColourEncoder())
    outcome = Retrieval(coloured(per_class=4, bad=[1, 6]))(subject)
    assert outcome.refused == {"colours: image_corrupt": 2}
    assert scores_of(outcome)["retrieval/leave-one-out/all/mAP"] == (1.0, 10)
    assert "2 of 12 images refused" in caplog.text


def test_the_figures_show_curve_pairs_and_neighbours(monkeypatch):
    subject = subject_of(monkeypatch, ColourEncoder())
    images = coloured(per_class=4)
    images.labels[0] = "blue"  # a red picture that is said to be blue
    curve, pairs, sheet = Retrieval(images)(subject).figures
    assert isinstance(curve, Curve) and isinstance(pairs, WorstPairs) and isinstance(sheet, Sheet)
    assert pairs.pairs[0] == ("blue thing", "red thing", 1)
    assert len(sheet.rows) == 12
    wrong = next(row for row in sheet.rows if row.query == 0)
    assert wrong.right[0] is False and len(wrong.found) == 5
    assert set(COLOURS) == set(images.labels)
