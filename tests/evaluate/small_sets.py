"""Small labelled sets and models that are understood without running anything: for the tests of evaluation."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image

from raylab.evaluate.base import Recognised
from raylab.evaluate.features import Features, ModelSubject, in_process
from raylab.evaluate.image_set import ImageSet
from raylab.evaluate.models import Model, ModelConfig
from raylab.schema import Reason

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (40, 60, 230)}


def png(colour: tuple[int, int, int], shade: int = 0) -> bytes:
    """Return a picture of one colour, a little darker for each shade."""
    buffer = io.BytesIO()
    Image.new("RGB", (16, 16), tuple(max(0, value - shade) for value in colour)).save(buffer, "PNG")
    return buffer.getvalue()


class MemorySource:
    """Images held in memory; an offset is the place in the list."""

    def __init__(self, images: Sequence[bytes | Reason]) -> None:
        self.images = list(images)

    def image_bytes(self, refs):
        return [self.images[ref["offset"]] for ref in refs]


def ref(place: int) -> dict:
    return {"uri": "memory", "offset": place, "size": -1}


def coloured(per_class: int = 4, bad: Sequence[int] = (), name: str = "colours") -> ImageSet:
    """Return pictures of three colours in shades; those at the places `bad` are no images."""
    labels = [colour for colour in COLOURS for _ in range(per_class)]
    images = [png(COLOURS[label], shade=5 * (place % per_class)) for place, label in enumerate(labels)]
    for place in bad:
        images[place] = b"\x89PNG\r\n\x1a\nbroken"
    titles = {label: (f"{label} thing",) for label in COLOURS}
    return ImageSet(name, MemorySource(images), [ref(place) for place in range(len(labels))], labels, titles)


class ColourEncoder:
    """Embeds a picture as its mean colour, a text as the colour that it names, both around grey."""

    id, revision, dim, image_side, batch = "colours", "1", 3, 8, 4

    def __init__(self) -> None:
        self.images_seen = 0

    def preprocess(self, image):
        return np.asarray(image.resize((8, 8)))

    def encode_images(self, images):
        self.images_seen += len(images)
        return self._unit([np.asarray(image).reshape(-1, 3).mean(axis=0) for image in images])

    def encode_texts(self, texts):
        found = [next((COLOURS[name] for name in COLOURS if name in text), (128, 128, 140)) for text in texts]
        return self._unit(found)

    @staticmethod
    def _unit(colours):
        colours = np.array(colours, np.float32).reshape(-1, 3) - 127.5
        return colours / np.linalg.norm(colours, axis=1, keepdims=True)


class ColourNamer:
    """Names the colour of a picture, as an id or in words, and then the others."""

    id, revision, image_size, note = "colour namer", "1", 8, ""

    def __init__(self, words: bool = False) -> None:
        self.words, self.encoder = words, ColourEncoder()

    def recognise(self, images, questions, k):
        names = list(COLOURS)
        scores = self.encoder.encode_images(images) @ self.encoder.encode_texts(names).T
        return [
            [Recognised(None if self.words else f"c:{names[i]}", names[i], float(row[i])) for i in np.argsort(-row)[:k]]
            for row in scores
        ]


class TitleWriter(ColourNamer):
    """Says the titles, the one first that holds the colour of the picture; of all, the first `k`."""

    def __init__(self, titles) -> None:
        super().__init__(words=True)
        self.titles, self.asked = list(titles), []

    def recognise(self, images, questions, k):
        self.asked += questions
        scores = self.encoder.encode_images(images) @ self.encoder.encode_texts(self.titles).T
        return [
            [Recognised(None, self.titles[i], float(row[i])) for i in np.argsort(-row, kind="stable")[:k]]
            for row in scores
        ]


class FixedFeatures:
    """A subject whose vectors are given: for benchmarks whose numbers are to be checked."""

    generative = False

    def __init__(self, vectors: dict[str, np.ndarray], embedder=None) -> None:
        self.vectors, self.embedder = vectors, embedder

    def features(self, images: ImageSet) -> Features:
        vectors = self.vectors[images.name]
        return Features(np.asarray(vectors, np.float32), [None] * len(vectors))


def bare_set(name: str, labels: Sequence[str], domains: Sequence[str] | None = None) -> ImageSet:
    """Return a set without images, for subjects whose vectors are given."""
    return ImageSet(name, MemorySource([]), [ref(place) for place in range(len(labels))], list(labels), {}, domains)


def subject_of(monkeypatch, embedder=None, recogniser=None, namer=None) -> ModelSubject:
    """Return the subject that a run would make of these models; `namer` makes one of titles: a generative model."""
    from raylab.evaluate import features

    monkeypatch.setattr(features, "open_model", lambda config: Model(embedder, lambda catalog: recogniser, namer))
    monkeypatch.setattr(features, "is_generative", lambda path: namer is not None)
    if recogniser is not None:
        monkeypatch.setattr(features, "as_recogniser", lambda config, kb: recogniser)
    return ModelSubject(ModelConfig("test"), "", in_process)
