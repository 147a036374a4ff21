import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raylab.errors import RaylabError
from raylab.evaluate import ranking

whole_scores = st.lists(st.integers(-3, 3), min_size=1, max_size=30)


@given(whole_scores, st.data())
def test_ranks_are_places_in_a_stable_sort(scores, data):
    score = np.array(scores, np.float32)
    wanted = np.array(data.draw(st.lists(st.integers(0, len(scores) - 1), unique=True, min_size=1)))
    order = sorted(range(len(scores)), key=lambda place: (-scores[place], place))
    expected = [order.index(place) + 1 for place in wanted]
    assert ranking.ranks(score, wanted).tolist() == expected


@given(st.lists(whole_scores.filter(lambda row: len(row) > 2), min_size=1, max_size=4), st.data())
def test_top_k_is_a_stable_sort_cut_off(rows, data):
    width = min(map(len, rows))
    score = np.array([row[:width] for row in rows], np.float32)
    k = data.draw(st.integers(1, width))
    index, best = ranking.top_k(score, k)
    expected = np.argsort(-score, axis=1, kind="stable")[:, :k]
    assert np.array_equal(index, expected)
    assert np.array_equal(best, np.take_along_axis(score, expected, axis=1))


def grid_vectors(count, seed):
    """Vectors whose cosines are exact in float32, with many ties."""
    rng = np.random.default_rng(seed)
    return rng.integers(-1, 2, (count, 4)).astype(np.float32)


@pytest.mark.parametrize("leave_one_out", [False, True])
def test_nearest_in_many_blocks_equals_one_stable_sort_of_everything(monkeypatch, leave_one_out):
    monkeypatch.setattr(ranking, "QUERY_ROWS", 7)
    monkeypatch.setattr(ranking, "SCORE_BYTES", 4 * 7 * 5)  # index blocks of 5
    vectors = grid_vectors(33, 0)
    score = vectors @ vectors.T
    if leave_one_out:
        np.fill_diagonal(score, -np.inf)
    index, best = ranking.nearest(vectors, vectors, 9, leave_one_out=leave_one_out)
    expected = np.argsort(-score, axis=1, kind="stable")[:, :9]
    assert np.array_equal(index, expected)
    assert np.array_equal(best, np.take_along_axis(score, expected, axis=1))


def test_nearest_gives_what_there_is_and_never_the_query_itself():
    vectors = ranking.unit(np.eye(3), "x")
    index, _ = ranking.nearest(vectors, vectors, 10, leave_one_out=True)
    assert index.tolist() == [[1, 2], [0, 2], [0, 1]]
    assert ranking.nearest(vectors[:1], vectors[:1], 5, leave_one_out=True)[0].shape == (1, 0)
    assert ranking.nearest(vectors[:0], vectors, 2)[0].shape == (0, 2)


def test_an_index_in_half_precision_is_searched_too():
    vectors = ranking.unit(np.random.default_rng(0).normal(size=(50, 16)), "x")
    index, _ = ranking.nearest(vectors, vectors.astype(np.float16), 1)
    assert index[:, 0].tolist() == list(range(50))


def test_vectors_of_two_models_are_refused():
    with pytest.raises(RaylabError, match="4 numbers and the index of 5"):
        ranking.nearest(np.ones((1, 4), np.float32), np.ones((1, 5), np.float32), 1)


@pytest.mark.parametrize("bad", [np.nan, np.inf, 0.0])
def test_vectors_that_cannot_be_compared_are_refused_by_number(bad):
    vectors = np.ones((4, 3))
    vectors[2] = bad
    with pytest.raises(RaylabError, match=r"birds: 1 of 4 vectors .* number 2"):
        ranking.unit(vectors, "birds")


@settings(max_examples=50)
@given(st.lists(st.lists(st.integers(0, 3), min_size=3, max_size=3), min_size=1, max_size=5))
def test_the_majority_is_the_most_frequent_and_of_equals_the_first(rows):
    expected = [max(row, key=lambda label: (row.count(label), -row.index(label))) for row in rows]
    assert ranking.majority(np.array(rows)).tolist() == expected


def test_average_precision_of_known_ranks():
    assert ranking.average_precision(np.array([1, 2])) == 1
    assert ranking.average_precision(np.array([2, 4])) == pytest.approx((1 / 2 + 2 / 4) / 2)


def test_interpolated_precision_is_the_best_from_there_on():
    # precisions at the ranks: 1/2, 2/3, 3/6
    found = ranking.interpolated_precision(np.array([2, 3, 6]), 4)
    assert found.tolist() == pytest.approx([2 / 3, 2 / 3, 2 / 3, 1 / 2])
    assert ranking.interpolated_precision(np.array([1, 4]), 3).tolist() == [1, 1, 0.5]


def test_members_are_all_images_of_each_class():
    found = ranking.members_of(np.array([2, 0, 2, 0, 0]))
    assert [rows.tolist() for rows in found] == [[1, 3, 4], [], [0, 2]]
    assert ranking.members_of(np.empty(0, np.int64)) == []
