import numpy as np
import pytest
from evaluate.small_sets import ColourEncoder, FixedFeatures, TitleWriter, bare_set, coloured, subject_of

from raylab.errors import RaylabError
from raylab.evaluate.zero_shot import (
    CIFAR100,
    ZeroShot,
    class_vectors,
    load_prompts,
    load_titles,
    mean_per_class,
)


class HashEncoder:
    """Gives each text a vector of its own, of a length other than 1."""

    id, revision, dim = "hash", "1", 6

    def encode_texts(self, texts):
        return np.stack([np.random.default_rng(list(text.encode())).normal(size=6) for text in texts])


def test_the_eighteen_prompts_of_cifar100():
    assert len(CIFAR100) == len(set(CIFAR100)) == 18
    assert "a photo of a {}." in CIFAR100 and "a black and white photo of the {}." in CIFAR100
    assert "a photo of the big {}." in CIFAR100


def test_a_class_is_the_normalised_mean_of_normalised_prompts():
    encoder, prompts = HashEncoder(), ("a {}.", "the {}.")
    found = class_vectors(encoder, [("cat",), ("dog", "hound")], prompts)
    for row, texts in zip(found, (["a cat.", "the cat."], ["a dog.", "the dog.", "a hound.", "the hound."])):
        vectors = encoder.encode_texts(texts)
        mean = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).mean(axis=0)
        np.testing.assert_allclose(row, mean / np.linalg.norm(mean), atol=1e-6)


def test_pictures_get_the_class_whose_name_is_nearest(monkeypatch):
    subject = subject_of(monkeypatch, ColourEncoder())
    images = coloured(per_class=4)
    images.labels[0] = "green"  # one red picture that is said to be green
    outcome = ZeroShot(images)(subject)
    found = {score.metric: (score.value, score.count) for score in outcome.scores}
    assert found == {
        "top-1": (pytest.approx(11 / 12), 12),
        "mean per class": (pytest.approx((1 + 4 / 5 + 1) / 3), 12),
    }
    assert outcome.figures[0].pairs == (("green thing", "red thing", 1),)


def test_top_5_counts_the_first_five_classes():
    labels = [f"k{number}" for number in range(8)]

    class Axes:
        id, dim = "axes", 8

        def encode_texts(self, texts):
            return np.stack([np.eye(8)[int(text.removeprefix("k"))] for text in texts])

    vectors = np.tile(np.arange(8, 0, -1, dtype=np.float32), (8, 1))  # every picture: k0 first, k7 last
    outcome = ZeroShot(bare_set("toy", labels), ("{}",))(FixedFeatures({"toy": vectors}, Axes()))
    assert {score.metric: score.value for score in outcome.scores}["top-5"] == 5 / 8
    assert {score.metric: score.value for score in outcome.scores}["top-1"] == 1 / 8


def test_a_generative_model_writes_one_of_the_classes_titles(monkeypatch):
    images, made = coloured(per_class=2, bad=[5]), []

    def namer(titles):
        made.append(TitleWriter(titles))
        return made[0]

    titles = {"red": ("red rose", "red fox"), "green": ("green tea",), "blue": ("green sea",)}
    outcome = ZeroShot(images, titles=titles, question="which?")(subject_of(monkeypatch, namer=namer))
    assert sorted(made[0].titles) == ["green sea", "green tea", "red fox", "red rose"]
    assert made[0].asked == ["which?"] * 5
    found = {score.metric: (score.value, score.count) for score in outcome.scores}
    assert found == {"top-1": (pytest.approx(3 / 5), 5), "mean per class": (pytest.approx(2 / 3), 5)}
    assert outcome.refused == {"colours: image_corrupt": 1}


def test_titles_of_classes_come_from_a_file_where_one_is_given(tmp_path):
    path = tmp_path / "titles.jsonl"
    path.write_text('{"class": "red", "title": ["ruby", "red"]}\n{"class": 7, "title": "seven"}\n')
    assert load_titles(str(path)) == {"red": ("ruby", "red"), "7": ("seven",)}
    table = tmp_path / "titles.tsv"
    table.write_text("red\truby\nred\tred one\nblue\tsea\n")
    assert load_titles(str(table)) == {"red": ("ruby", "red one"), "blue": ("sea",)}
    with pytest.raises(RaylabError, match="names 2 classes, and not 'green'"):
        ZeroShot(coloured(), CIFAR100, load_titles(str(table)))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.tsv", "red ruby\n", r"t.tsv:1: wanted a class, a tab and a title"),
        ("t.jsonl", '{"class": "red"}\n', r"t.jsonl:1: 'title' must be a text"),
        ("t.jsonl", '{"title": "red"}\n', r"t.jsonl:1: 'class' is missing; present: title"),
    ],
)
def test_wrong_lines_of_titles_are_named(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(RaylabError, match=message):
        load_titles(str(tmp_path / name))


def test_imagenets_prompts_are_clips(tmp_path):
    found = load_prompts("imagenet")
    assert len(found) == len(set(found)) == 80
    assert all(prompt.count("{}") == 1 for prompt in found)
    assert "itap of a {}." in found and "a photo of many {}." in found


def test_prompts_come_by_name_or_from_a_file(tmp_path):
    assert load_prompts("cifar100") == CIFAR100
    path = tmp_path / "prompts.txt"
    path.write_text("a {} here\n\nthe {}\n")
    assert load_prompts(str(path)) == ("a {} here", "the {}")
    path.write_text("no place\n")
    with pytest.raises(RaylabError, match=r"must hold \{\} once"):
        load_prompts(str(path))
    with pytest.raises(RaylabError, match="Did you mean 'cifar100'"):
        load_prompts("cifar10")


def test_mean_per_class_weighs_classes_alike():
    assert mean_per_class(np.array([0, 0, 0, 3]), np.array([True, True, False, False])) == pytest.approx(1 / 3)
