import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raylab.label.scoring import background_logits, score_candidates

cosines = st.floats(-1, 1, width=32)
nothing = np.zeros(0, np.int64)


def score(cosine, *, background=0.0, prior=None, scale=10.0, weight=0.0):
    """Score one image's candidates."""
    cosine = np.asarray(cosine, float)
    prior = np.full(len(cosine), np.nan) if prior is None else np.asarray(prior, float)
    rows = np.zeros(len(cosine), np.int64)
    return score_candidates(cosine, rows, prior, np.array([background]), logit_scale=scale, prior_weight=weight)


def test_one_candidate_against_equal_distractors():
    background = background_logits(np.full((1, 3), 0.2), nothing, nothing, 10.0)
    result = score([0.2], background=background[0])
    assert result.image_score == pytest.approx([1 / 4])
    assert result.score == pytest.approx([1 / 4])
    assert (result.best.tolist(), result.margin) == ([0], pytest.approx([1 / 4]))


def test_a_candidate_among_the_distractors_does_not_compete_with_itself():
    cosine = np.array([[0.9, 0.1]])
    with_itself = background_logits(cosine, nothing, nothing, 10.0)
    without = background_logits(cosine, np.array([0]), np.array([0]), 10.0)
    assert without == pytest.approx([1.0])
    assert with_itself > without
    assert background_logits(cosine, np.array([0, 0]), np.array([0, 1]), 10.0) == -np.inf
    assert score([0.3], background=-np.inf).score == pytest.approx([1.0])


def test_rows_are_scored_apart():
    rows = np.array([0, 0, 2])
    both = score_candidates(
        np.array([0.5, 0.1, 0.4]), rows, np.full(3, np.nan), np.zeros(3), logit_scale=10, prior_weight=0
    )
    assert both.best.tolist() == [0, -1, 2]
    assert np.isnan(both.margin[1])
    np.testing.assert_allclose(both.score[:2], score([0.5, 0.1]).score)
    np.testing.assert_allclose(both.score[2:], score([0.4]).score)
    assert both.margin[0] == pytest.approx(both.score[0] - both.score[1])


def test_the_text_decides_between_equals_only_as_far_as_it_is_weighed():
    assert score([0.3, 0.3], prior=[0.1, 0.9], weight=0.5).best.tolist() == [1]
    assert score([0.3, 0.3], prior=[0.1, 0.9], weight=0.0).margin == pytest.approx([0])
    assert score([0.9, 0.3], prior=[0.1, 0.9], weight=0.5).best.tolist() == [0]
    assert score([0.9, 0.3], prior=[0.0, 1.0], weight=0.5).best.tolist() == [0]  # a prior of zero excludes nothing


def test_no_candidates_at_all():
    result = score_candidates(np.zeros(0), nothing, np.zeros(0), np.zeros(2), logit_scale=10, prior_weight=1)
    assert result.best.tolist() == [-1, -1] and np.isnan(result.margin).all()


@given(st.lists(cosines, min_size=1, max_size=6), st.lists(cosines, max_size=6), st.sampled_from([1.0, 14.3, 100.0]))
def test_scores_are_probabilities_that_leave_room_for_something_else(candidates, distractors, scale):
    background = background_logits(np.array([distractors]).reshape(1, -1), nothing, nothing, scale)
    result = score(candidates, background=background[0], scale=scale, prior=[0.5] * len(candidates), weight=0.5)
    assert (result.score >= 0).all() and result.score.sum() <= 1 + 1e-9
    assert ((result.image_score >= 0) & (result.image_score <= 1)).all()
    assert 0 <= result.margin[0] <= result.score[result.best[0]] == result.score.max()


@given(st.lists(cosines, min_size=2, max_size=6), st.floats(0.01, 0.5), cosines)
def test_a_score_grows_with_its_cosine_and_the_others_fall(candidates, more, distractor):
    background = 10 * distractor
    before = score(candidates, background=background)
    after = score([candidates[0] + more, *candidates[1:]], background=background)
    assert after.score[0] > before.score[0] and after.image_score[0] > before.image_score[0]
    assert (after.score[1:] < before.score[1:]).all()
    np.testing.assert_array_equal(after.image_score[1:], before.image_score[1:])


@given(st.lists(cosines, min_size=1, max_size=6), st.lists(cosines, min_size=1, max_size=6), st.floats(-0.5, 0.5))
def test_an_image_that_is_warmer_to_every_text_scores_the_same(candidates, distractors, warmth):
    def scores(shift):
        background = background_logits(np.array([distractors]) + shift, nothing, nothing, 10.0)
        return score(np.array(candidates) + shift, background=background[0])

    np.testing.assert_allclose(scores(warmth).score, scores(0).score, atol=1e-9)
    np.testing.assert_allclose(scores(warmth).image_score, scores(0).image_score, atol=1e-9)
