import numpy as np
import pytest
from evaluate.small_sets import FixedFeatures, bare_set
from sklearn.linear_model import LogisticRegression

from raylab.errors import RaylabError
from raylab.evaluate import ranking
from raylab.evaluate.probe import Probe, ProbeConfig, fit_probe, validation_rows


def blobs(per_class, seed, noise=1.0, classes=4, dim=12):
    centre = np.random.default_rng(99).normal(size=(classes, dim))
    rng = np.random.default_rng(seed)
    class_N = np.repeat(np.arange(classes), per_class)
    return ranking.unit(centre[class_N] + noise * rng.normal(size=(len(class_N), dim)), "x"), class_N


def test_every_class_gives_its_share_for_validation_and_keeps_some_for_training():
    class_N = np.repeat([0, 1, 2, 3], [1, 2, 10, 20])
    held = validation_rows(class_N, 0.2, seed=0)
    assert [int(held[class_N == code].sum()) for code in range(4)] == [0, 1, 2, 4]
    assert np.array_equal(held, validation_rows(class_N, 0.2, seed=0))
    assert not np.array_equal(held, validation_rows(class_N, 0.2, seed=1))


def test_the_strength_is_chosen_on_the_validation_part_and_all_rows_are_fitted():
    train, class_N = blobs(20, seed=1, noise=2.0)
    config = ProbeConfig(strengths=(0.01, 1.0, 100.0))
    fitted = fit_probe(train, class_N, config)
    held = validation_rows(class_N, config.validation_share, config.seed)
    accuracy = {}
    for strength in config.strengths:
        model = LogisticRegression(C=strength, max_iter=1000).fit(train[~held], class_N[~held])
        accuracy[strength] = (model.predict(train[held]) == class_N[held]).mean()
    assert dict(fitted.validation) == pytest.approx(accuracy)
    assert fitted.strength == min(c for c in accuracy if accuracy[c] == max(accuracy.values()))
    again = LogisticRegression(C=fitted.strength, max_iter=1000).fit(train, class_N)
    np.testing.assert_allclose(fitted.model.coef_, again.coef_, atol=1e-4)


def run(train, test, train_labels, test_labels, **settings):
    sets = bare_set("train", train_labels), bare_set("test", test_labels)
    return Probe(*sets, ProbeConfig(**settings))(FixedFeatures({"train": train, "test": test}))


def test_the_benchmark_scores_the_test_set():
    train, train_class = blobs(15, seed=1, noise=0.5)
    test, test_class = blobs(10, seed=2, noise=0.5)
    names = np.array(["a", "b", "c", "d"])
    outcome = run(train, test, names[train_class], names[test_class], strengths=(1.0, 10.0, 100.0))
    found = {score.metric: (score.value, score.count) for score in outcome.scores}
    assert found["top-1"][0] > 0.9 and found["top-1"][1] == 40
    assert "C = " in outcome.notes[0]


def test_classes_unknown_to_the_training_set_count_as_wrong_and_are_said():
    train, train_class = blobs(15, seed=1, noise=0.3)
    test, test_class = blobs(10, seed=2, noise=0.3)
    names = np.array(["a", "b", "c", "d"])
    kept = train_class < 3
    outcome = run(train[kept], test, names[train_class[kept]], names[test_class], strengths=(10.0,))
    assert {score.metric: score.value for score in outcome.scores}["top-1"] <= 0.75
    assert any("1 test classes are not in the training set" in note for note in outcome.notes)


def test_a_sweep_that_ends_at_its_end_or_too_early_is_said():
    train, class_N = blobs(15, seed=1, noise=2.0)
    labels = [str(code) for code in class_N]
    outcome = run(train, train, labels, labels, strengths=(1000.0,), max_iterations=2)
    assert any("end of the sweep" in note for note in outcome.notes)
    assert any("ran into its limit at C = 1000" in note for note in outcome.notes)


def test_what_cannot_be_fitted_is_refused():
    with pytest.raises(RaylabError, match="at least two classes"):
        fit_probe(np.eye(4, dtype=np.float32), np.zeros(4, int), ProbeConfig())
    with pytest.raises(RaylabError, match="at least two classes"):
        fit_probe(np.eye(3, dtype=np.float32), np.arange(3), ProbeConfig())
    with pytest.raises(RaylabError, match="share no class"):
        Probe(bare_set("train", ["a"]), bare_set("test", ["b"]), ProbeConfig())
    with pytest.raises(RaylabError, match="3 numbers and the index of 4"):
        run(np.eye(4), np.eye(4)[:, :3] + 1, ["a", "a", "b", "b"], ["a", "a", "b", "b"])
