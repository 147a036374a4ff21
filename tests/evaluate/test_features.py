import logging

import numpy as np
import pyarrow as pa
import pytest
from evaluate import small_sets
from evaluate.small_sets import ColourEncoder, ColourNamer, coloured, subject_of

from raylab.errors import RaylabError
from raylab.evaluate import features
from raylab.evaluate.models import ModelConfig
from raylab.evaluate.oven_files import Question
from raylab.evaluate.run import Actors


def test_vectors_come_in_the_order_of_the_set_whatever_the_batches(monkeypatch):
    images = coloured(per_class=5)
    subject = subject_of(monkeypatch, ColourEncoder())
    at_once = subject.features(images).vectors
    monkeypatch.setattr(features, "BATCH_ROWS", 4)
    in_pieces = subject_of(monkeypatch, ColourEncoder()).features(images).vectors
    assert at_once.shape == (15, 3) and at_once.dtype == np.float32
    np.testing.assert_array_equal(at_once, in_pieces)
    assert at_once[0].argmax() == 0 and at_once[14].argmax() == 2


def test_a_set_is_embedded_once(monkeypatch):
    encoder, images = ColourEncoder(), coloured()
    subject = subject_of(monkeypatch, encoder)
    assert subject.features(images) is subject.features(images)
    assert encoder.images_seen == 12
    subject.features(coloured())
    assert encoder.images_seen == 24


def test_a_bad_picture_is_refused_with_its_reason_and_costs_no_other(monkeypatch, caplog):
    images = coloured(per_class=2, bad=[0, 3])
    caplog.set_level(logging.WARNING)
    found = subject_of(monkeypatch, ColourEncoder()).features(images)
    assert found.usable.tolist() == [False, True, True, False, True, True]
    assert np.isnan(found.vectors[[0, 3]]).all() and np.isfinite(found.vectors[found.usable]).all()
    assert found.refused("x") == {"x: image_corrupt": 2}
    assert "2 of 6 images refused, such as memory (image_corrupt)" in caplog.text


def test_a_set_of_bad_pictures_alone_is_an_error(monkeypatch):
    with pytest.raises(RaylabError, match=r"every image is refused: .*'colours: image_corrupt': 3"):
        subject_of(monkeypatch, ColourEncoder()).features(coloured(per_class=1, bad=[0, 1, 2]))


def test_vectors_that_are_not_finite_are_an_error(monkeypatch):
    class Broken(ColourEncoder):
        def encode_images(self, images):
            return super().encode_images(images) * np.nan

    with pytest.raises(RaylabError, match="not finite"):
        subject_of(monkeypatch, Broken()).features(coloured())


def test_a_step_whose_images_are_all_refused_asks_no_model():
    class Silent(ColourEncoder):
        def encode_images(self, images):
            raise AssertionError("there is nothing to embed")

    class Mute(ColourNamer):
        def recognise(self, images, questions, k):
            raise AssertionError("there is nothing to ask")

    images = coloured(per_class=1, bad=[0, 1, 2])
    requests = features._requests(images.refs)
    assert features.FeatureStep(Silent(), images.source)(requests)["reason"].null_count == 0
    asked = requests.append_column("question", pa.array(["?"] * 3))
    assert features.AnswerStep(Mute(), images.source, 1)(asked)["answers"].to_pylist() == [[], [], []]


def test_the_models_that_answered_are_known(monkeypatch):
    images = coloured()
    subject = subject_of(monkeypatch, ColourEncoder(), ColourNamer())
    assert subject.used == []
    subject.features(images)
    subject.answers(questions_about(images), images.source, 1)
    assert subject.used == ["colours@1", "colour namer@1"]


def test_a_model_that_only_names_has_no_vectors(monkeypatch):
    subject = subject_of(monkeypatch, recogniser=ColourNamer())
    with pytest.raises(RaylabError, match="embeds no images"):
        subject.features(coloured())
    with pytest.raises(RaylabError, match="embeds no images"):
        _ = subject.embedder


def questions_about(images):
    return [
        Question(f"q{place}", "which?", label, label, image=images.refs[place])
        for place, label in enumerate(images.labels)
    ]


def test_answers_come_in_order_and_refusals_in_their_place(monkeypatch):
    images = coloured(per_class=2, bad=[2])
    subject = subject_of(monkeypatch, recogniser=ColourNamer())
    monkeypatch.setattr(features, "BATCH_ROWS", 4)
    said = subject.answers(questions_about(images), images.source, 2)
    assert [one if isinstance(one, str) else one[0].text for one in said] == [
        "red", "red", "image_corrupt", "green", "blue", "blue",
    ]  # fmt: skip
    assert all(len(one) == 2 and one[0].score >= one[1].score for one in said if not isinstance(one, str))


def test_a_model_needs_a_knowledge_base_to_answer(monkeypatch):
    images = coloured(per_class=1)
    subject = subject_of(monkeypatch, ColourEncoder())
    with pytest.raises(RaylabError, match="--kb is missing"):
        subject.answers(questions_about(images), images.source, 1)


def remote_step() -> features.FeatureStep:
    return features.FeatureStep(ColourEncoder(), coloured(per_class=200, bad=[7]).source)


def remote_step_that_cannot_be_made() -> features.FeatureStep:
    raise RaylabError("no model here")


def remote_step_that_breaks() -> features.FeatureStep:
    class Broken(ColourEncoder):
        def encode_images(self, images):
            return super().encode_images(images) * np.nan

    return features.FeatureStep(Broken(), coloured().source)


def test_actors_give_what_this_process_gives(ray_cluster):
    images = coloured(per_class=200, bad=[7])
    requests = features._requests(images.refs)
    here = features._in_order(list(features.in_process(remote_step, requests)), len(images))
    there = features._in_order(list(Actors(2, 1, 0)(remote_step, requests)), len(images))
    assert there.num_rows == 600
    assert there["reason"].to_pylist() == here["reason"].to_pylist()
    vectors = [np.asarray(table["vector"].combine_chunks().flatten()) for table in (there, here)]
    np.testing.assert_allclose(*vectors, atol=1e-6)


@pytest.mark.parametrize(
    ("make", "message"), [(remote_step_that_cannot_be_made, "^no model here$"), (remote_step_that_breaks, "not finite")]
)
def test_errors_of_actors_come_back_as_ours(ray_cluster, make, message):
    with pytest.raises(RaylabError, match=message):
        list(Actors(1, 1, 0)(make, features._requests(coloured().refs)))


def test_the_models_own_failure_is_a_readable_error(tiny_clip):
    import torch

    from raylab.models.clip import ClipEncoder

    broken = ClipEncoder.load(str(tiny_clip))
    broken._model.visual.proj.data.fill_(torch.nan)
    step = features.FeatureStep(broken, coloured().source)
    with pytest.raises(RaylabError, match="set precision"):
        step(features._requests(coloured().refs))


def test_a_real_encoder_embeds_as_it_would_alone(tiny_clip):
    subject = features.ModelSubject(ModelConfig(str(tiny_clip)))
    images = coloured(per_class=1)
    found = subject.features(images).vectors
    from raylab.evaluate.image_set import LIMITS
    from raylab.sources.images import open_image

    pictures = [open_image(data, LIMITS) for data in images.source.images]
    np.testing.assert_allclose(found, subject.embedder.encode_images(pictures), atol=1e-5)
    assert small_sets.COLOURS.keys() == dict.fromkeys(images.labels).keys()
