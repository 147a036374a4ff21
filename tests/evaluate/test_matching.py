import numpy as np
import pytest
from evaluate.small_sets import FixedFeatures, bare_set

from raylab.errors import RaylabError
from raylab.evaluate import ranking
from raylab.evaluate.matching import Matching, match
from raylab.evaluate.stores import Memory


def test_queries_get_the_nearest_label_and_the_vote_of_the_nearest():
    angles = np.deg2rad([0, 2, 4, 60, 62])
    memory = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    query = np.array([[1, 0]], np.float32)
    first, voted, found = match(query, memory, ["wrong", "right", "right", "far", "far"], 3)
    assert (first, voted, found.tolist()) == (["wrong"], ["right"], [[0, 1, 2]])


def test_pictures_without_a_label_are_not_in_the_memory():
    memory = np.eye(3, dtype=np.float32)
    first, _, found = match(memory[:1], memory, [None, "b", "c"], 1)
    assert first == ["b"] and found.tolist() == [[1]]
    with pytest.raises(RaylabError, match="No picture of the memory has a label"):
        match(memory, memory, [None] * 3, 1)


def noisy_world(noise, seed=0):
    rng = np.random.default_rng(seed)
    centre = rng.normal(size=(6, 16))
    class_N, class_Q = rng.integers(0, 6, 200), rng.integers(0, 6, 100)
    memory = ranking.unit(centre[class_N] + 0.4 * rng.normal(size=(200, 16)), "x")
    query = ranking.unit(centre[class_Q] + 0.4 * rng.normal(size=(100, 16)), "x")
    true = [f"Q{code}" for code in class_N]
    noisy = [f"Q{rng.integers(0, 6)}" if rng.random() < noise else label for label in true]
    return memory, query, true, noisy, [f"Q{code}" for code in class_Q]


def test_corrected_labels_beat_noisy_ones_and_by_how_much_is_said():
    memory, query, true, noisy, asked = noisy_world(noise=0.4)
    pictures = bare_set("memory", true)
    bench = Matching(Memory(pictures, {"candidate": noisy, "corrected": true}), bare_set("asked", asked), 5)
    outcome = bench(FixedFeatures({"memory": memory, "asked": query}))
    found = {(score.part, score.metric): score.value for score in outcome.scores}
    nearest = np.argmax(query @ memory.T, axis=1)
    assert found["candidate", "top-1"] == np.mean([noisy[i] == label for i, label in zip(nearest, asked)])
    assert found["corrected", "top-1"] == np.mean([true[i] == label for i, label in zip(nearest, asked)])
    assert found["corrected", "top-1"] > found["candidate", "top-1"]
    assert found["candidate", "top-5 vote"] > found["candidate", "top-1"]  # a vote forgives noise
    gain = found["corrected", "top-1"] / found["candidate", "top-1"] - 1
    assert f"top-1: {gain:+.1%} relative" in outcome.notes[0]


def test_classes_that_the_memory_lacks_are_said():
    bench = Matching(Memory(bare_set("memory", ["a"]), {"given": ["a"]}), bare_set("asked", ["a", "z"]), 5)
    outcome = bench(FixedFeatures({"memory": [[1, 0]], "asked": [[1, 0], [0, 1]]}))
    assert {score.metric: score.value for score in outcome.scores} == {"top-1": 0.5, "top-1 vote": 0.5}
    assert "1 queries' classes are in no label" in outcome.notes[0]


def test_a_memory_of_another_model_is_refused():
    bench = Matching(Memory(bare_set("memory", ["a"]), {"given": ["a"]}), bare_set("asked", ["a"]), 1)
    with pytest.raises(RaylabError, match="must come from the same model"):
        bench(FixedFeatures({"memory": [[1, 0, 0]], "asked": [[1, 0]]}))
    with pytest.raises(RaylabError, match="must be 1 or more"):
        Matching(Memory(bare_set("m", ["a"]), {"given": ["a"]}), bare_set("q", ["a"]), 0)
