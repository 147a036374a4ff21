"""What evaluation is made of: models as they are asked, benchmarks, and the scores and figures that come out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

    from raylab.evaluate.features import Features
    from raylab.evaluate.image_set import ImageSet
    from raylab.evaluate.oven_files import Question


class Embedder(Protocol):
    """A dual encoder; `raylab.models.clip.ClipEncoder` is one."""

    id: str
    revision: str
    dim: int
    image_side: int
    """Pixels of the network's input: what a picture may be scaled down to while it is decoded."""
    batch: int
    """Images or texts that go through the network at once."""

    def preprocess(self, image: Image.Image) -> np.ndarray:
        """Return what `encode_images` takes for an RGB picture, smaller than the picture."""
        ...

    def encode_images(self, images: Sequence[Image.Image | np.ndarray]) -> np.ndarray:
        """Return float32 [n, dim], rows of length 1."""
        ...

    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Return float32 [n, dim], rows of length 1."""
        ...


class Recognised(NamedTuple):
    """One answer of a recogniser."""

    entity_id: str | None
    """None where the model's words name no entity that it knows."""
    text: str
    """The entity's title, or the model's own words."""
    score: float
    """Higher is surer; comparable between the answers to one question only."""


class Recogniser(Protocol):
    """A model that names the entity in a picture that a question asks for.

    `raylab.evaluate.generative.GitRecogniser` is one; `raylab.evaluate.models.NearestEntity` makes one of a dual
    encoder and a knowledge base.
    """

    id: str
    revision: str
    note: str
    """What a reader of its scores should know; empty: nothing."""

    @property
    def image_size(self) -> int:
        """Return the pixels a side of the network's input: what a picture may be scaled down to while it is decoded."""
        ...

    def recognise(self, images: list[Image.Image], questions: list[str], k: int) -> list[list[Recognised]]:
        """Return at most `k` answers to each question, best first, each about the picture of the same place."""
        ...


@dataclass(frozen=True)
class Score:
    """One number, with all that it takes to read it."""

    benchmark: str
    """Name of the benchmark: ``gpr1200``."""
    protocol: str
    """Name of the way it is measured, a key of the benchmark's `protocols`: ``official``, ``leave-one-out``."""
    part: str
    """What it is measured on: ``all``, ``landmarks``, ``entity/unseen``."""
    metric: str
    """``mAP``, ``top-1``, ``HM``, ..."""
    value: float
    """0..1, higher is better."""
    count: int
    """Images, questions or rows that `value` is a mean over."""

    @property
    def name(self) -> str:
        """All names in one: ``gpr1200/official/all/mAP``."""
        return f"{self.benchmark}/{self.protocol}/{self.part}/{self.metric}"


@dataclass(frozen=True, eq=False)
class Curve:
    """Precision against recall, or against coverage."""

    title: str
    axes: tuple[str, str]
    """Names of x and y."""
    x: np.ndarray
    """float64 [points], 0..1, rising."""
    y: np.ndarray
    """float64 [points], 0..1."""


@dataclass(frozen=True)
class WorstPairs:
    """Which classes are taken for which others most often."""

    title: str
    pairs: tuple[tuple[str, str, int], ...]
    """(true class, class said instead, how often), most frequent first."""


class SheetRow(NamedTuple):
    """One query of a sheet and what was found for it."""

    query: int
    """Index into the sheet's queries."""
    found: tuple[int, ...]
    """Indices into the sheet's index, nearest first."""
    right: tuple[bool, ...]
    """For each found image: of the query's class."""


@dataclass(frozen=True, eq=False)
class Sheet:
    """Pictures of some queries beside what was found for them."""

    title: str
    queries: ImageSet
    index: ImageSet
    rows: tuple[SheetRow, ...]


Figure = Curve | WorstPairs | Sheet


@dataclass(frozen=True, eq=False)
class Outcome:
    """What a benchmark says."""

    scores: tuple[Score, ...]
    figures: tuple[Figure, ...] = ()
    refused: Mapping[str, int] | None = None
    """How many images were refused, by data set and reason: ``{"birds: image_corrupt": 2}``."""
    notes: tuple[str, ...] = ()
    """What a reader of the scores should know."""
    files: Mapping[str, bytes] | None = None
    """Files to be kept beside the scores: predictions."""


class Subject(Protocol):
    """A model under test, as benchmarks ask it. Vectors are kept: a data set that two share is embedded once."""

    @property
    def generative(self) -> bool:
        """Tell whether the model writes its answers: then it embeds nothing.

        Raises:
            RaylabError: there is no such model.
        """
        ...

    @property
    def embedder(self) -> Embedder:
        """Return the dual encoder, in this process, for texts.

        Raises:
            RaylabError: the model is none.
        """
        ...

    def features(self, images: ImageSet) -> Features:
        """Return the vectors of a data set's images, in its order."""
        ...

    def answers(self, questions: Sequence[Question], source: Any, k: int) -> list[list[Recognised] | str]:
        """Return for each question at most `k` answers, best first, or the reason why its image was refused."""
        ...

    def titled(self, images: ImageSet, titles: Sequence[str], question: str, k: int) -> list[list[Recognised] | str]:
        """Return for each image at most `k` of these titles, as a generative model writes them, or as `answers`."""
        ...


class Benchmark(Protocol):
    """A way to score; every one passes tests/evaluate/test_conformance.py."""

    @property
    def name(self) -> str:
        """Return its name, as in ``--suite``."""
        ...

    @property
    def protocols(self) -> Mapping[str, str]:
        """Return what is measured, one sentence for each protocol that its scores may have, by name."""
        ...

    def __call__(self, subject: Subject) -> Outcome:
        """Score a model, or with a benchmark of labels: the labels.

        Raises:
            RaylabError: data that does not fit the benchmark, or the model.
        """
        ...
