"""What a model makes of images, batch by batch: vectors, or answers to questions. Knows no Ray.

A *step* takes rows that say where an image lies and returns what the model makes of it, with the reason where an image
is refused. Steps run in this process (`in_process`), or in Ray's actors (`run.Actors`).
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa

from raylab.errors import RaylabError
from raylab.evaluate.base import Embedder, Recognised, Recogniser
from raylab.evaluate.image_set import LIMITS, ImageSet
from raylab.evaluate.models import ModelConfig, as_recogniser, is_generative, open_model
from raylab.evaluate.oven_files import Question
from raylab.schema import IMAGE_REF, Reason
from raylab.sources.base import Source
from raylab.sources.images import ImageRefused, open_image

logger = logging.getLogger(__name__)

BATCH_ROWS = 256
"""Rows that a step is handed at once."""
DECODERS = 2
"""Images that one step decodes at once, while the network works on those before."""

QUESTION_ROWS = 32
"""Questions that a model is asked at once; pictures wait for it as they were decoded, so that it is not more."""

Step = Callable[[pa.Table], pa.Table]
Execute = Callable[[Callable[[], Step], pa.Table], Iterator[pa.Table]]
"""Makes a step and yields what it returns for a table's rows, in any order and any pieces."""

ANSWER = pa.struct([pa.field("entity_id", pa.string()), pa.field("text", pa.string()), pa.field("score", pa.float64())])


@dataclass(frozen=True, eq=False)
class Features:
    """The vectors of a data set's images."""

    vectors: np.ndarray
    """float32 [n, d], rows of length 1; nan where the image was refused."""
    reasons: Sequence[str | None]
    """A `Reason` for each image that was refused."""

    @property
    def usable(self) -> np.ndarray:
        """Bool [n]: the image has a vector."""
        return np.array([reason is None for reason in self.reasons], bool)

    def refused(self, name: str) -> dict[str, int]:
        """Return how many images were refused, by ``<name>: <reason>``."""
        return {f"{name}: {reason}": count for reason, count in Counter(filter(None, self.reasons)).items()}


class FeatureStep:
    """From image references to vectors.

    Args:
        embedder: the model.
        source: reads the bytes.
    """

    def __init__(self, embedder: Embedder, source: Source) -> None:
        self._embedder = embedder
        self._read = _Pictures(source, partial(_preprocessed, embedder), embedder.image_side)

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Return ``index, vector, reason, model`` for rows of ``index, image``."""
        vectors = np.full((batch.num_rows, self._embedder.dim), np.nan, np.float32)
        reasons: list[str | None] = []
        for found in self._read(batch["image"].to_pylist(), self._embedder.batch):
            usable = [len(reasons) + place for place, item in enumerate(found) if not isinstance(item, Reason)]
            vectors[usable] = self._embed([item for item in found if not isinstance(item, Reason)])
            reasons += [item.value if isinstance(item, Reason) else None for item in found]
        vector = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), self._embedder.dim)
        return _answer(batch, self._embedder, {"vector": vector}, reasons)

    def _embed(self, pixels: list[np.ndarray]) -> np.ndarray:
        if not pixels:
            return np.empty((0, self._embedder.dim), np.float32)
        try:
            vectors = self._embedder.encode_images(pixels)
        except FloatingPointError as error:
            raise RaylabError(str(error)) from error
        if not np.isfinite(vectors).all():
            raise RaylabError(f"{self._embedder.id}: gives vectors that are not finite; run it in fp32 or train again.")
        return vectors


class AnswerStep:
    """From image references and questions to entities.

    Args:
        recogniser: the model.
        source: reads the bytes.
        k: answers wanted to each question.
    """

    def __init__(self, recogniser: Recogniser, source: Source, k: int) -> None:
        self._recogniser = recogniser
        self._k = k
        self._read = _Pictures(source, _as_it_is, recogniser.image_size)

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Return ``index, answers, note, reason, model`` for rows of ``index, image, question``."""
        questions = iter(batch["question"].to_pylist())
        answers: list[list[dict[str, Any]]] = []
        reasons: list[str | None] = []
        for pictures in self._read(batch["image"].to_pylist(), QUESTION_ROWS):
            asked = [(picture, next(questions)) for picture in pictures]
            said = iter(self._ask([pair for pair in asked if not isinstance(pair[0], Reason)]))
            answers += [[] if isinstance(picture, Reason) else next(said) for picture in pictures]
            reasons += [picture.value if isinstance(picture, Reason) else None for picture in pictures]
        note = pa.array([self._recogniser.note] * batch.num_rows, pa.string())
        columns = {"answers": pa.array(answers, pa.list_(ANSWER)), "note": note}
        return _answer(batch, self._recogniser, columns, reasons)

    def _ask(self, asked: list[tuple[Any, str]]) -> list[list[dict[str, Any]]]:
        if not asked:
            return []
        try:
            said = self._recogniser.recognise([picture for picture, _ in asked], [text for _, text in asked], self._k)
        except FloatingPointError as error:
            raise RaylabError(str(error)) from error
        if len(said) != len(asked):
            raise ValueError(f"{self._recogniser.id} gave {len(said)} answers to {len(asked)} questions")
        return [[one._asdict() for one in found[: self._k]] for found in said]


def _answer(
    batch: pa.Table, model: Embedder | Recogniser, columns: dict[str, pa.Array], reasons: list[str | None]
) -> pa.Table:
    """Return what a step says of a batch; each row names the model, which may be in another process."""
    said_by = pa.array([f"{model.id}@{model.revision}"] * batch.num_rows, pa.string())
    return pa.table({"index": batch["index"], **columns, "reason": pa.array(reasons, pa.string()), "model": said_by})


class _Pictures:
    """Reads and decodes images, the next group while the last one is used."""

    def __init__(self, source: Source, prepare: Callable[[Any], Any], side: int) -> None:
        self._source, self._prepare, self._side = source, prepare, side
        self._ahead = ThreadPoolExecutor(1)
        self._decoders = ThreadPoolExecutor(DECODERS)

    def __call__(self, refs: Sequence[dict], rows: int) -> Iterator[list[Any]]:
        """Yield lists of what `prepare` makes of `rows` images, or the `Reason` where one is refused.

        Never more than two such lists are held, however large the pictures are.
        """
        ahead: Future[list[Any]] | None = None
        for start in range(0, len(refs), rows):
            following = self._ahead.submit(self._group, refs[start : start + rows])
            if ahead is not None:
                yield ahead.result()
            ahead = following
        if ahead is not None:
            yield ahead.result()

    def _group(self, refs: Sequence[dict]) -> list[Any]:
        return list(self._decoders.map(self._decode, self._source.image_bytes(refs)))

    def _decode(self, data: bytes | Reason) -> Any:
        if isinstance(data, Reason):
            return data
        try:
            return self._prepare(open_image(data, LIMITS, self._side))
        except ImageRefused as refused:
            return refused.reason


def _as_it_is(image: Any) -> Any:
    return image


def _preprocessed(embedder: Embedder, image: Any) -> np.ndarray:
    return embedder.preprocess(image)


def in_process(make: Callable[[], Step], requests: pa.Table) -> Iterator[pa.Table]:
    """Run a step in this process; see `Execute`."""
    step = make()
    for start in range(0, requests.num_rows, BATCH_ROWS):
        yield step(requests.slice(start, BATCH_ROWS))


def make_feature_step(model: ModelConfig, source: Source) -> FeatureStep:
    """Open the model and return the step."""
    return FeatureStep(_embedder(model), source)


def make_answer_step(model: ModelConfig, source: Source, kb: str, k: int) -> AnswerStep:
    """Open the model and return the step."""
    return AnswerStep(as_recogniser(model, kb), source, k)


def make_title_step(model: ModelConfig, source: Source, titles: tuple[str, ...], k: int) -> AnswerStep:
    """Open the model and return the step whose answers are titles."""
    namer = open_model(model).namer
    if namer is None:
        raise RaylabError(f"{model.path} writes no titles: it is no generative model.")
    return AnswerStep(namer(titles), source, k)


def _embedder(model: ModelConfig) -> Embedder:
    embedder = open_model(model).embedder
    if embedder is None:
        raise RaylabError(
            f"{model.path} is a generative model and embeds no images: --suite oven and zero_shot can score it."
        )
    return embedder


class ModelSubject:
    """A model under test; see `base.Subject`.

    Args:
        model: which.
        kb: the knowledge base that a dual encoder answers from; empty where no benchmark asks questions.
        execute: where steps run.

    Attributes:
        used: ``id@revision`` of the models that have answered so far.
        notes: what they say that a reader of the scores should know.
    """

    def __init__(self, model: ModelConfig, kb: str = "", execute: Execute = in_process) -> None:
        self.model, self.kb = model, kb
        self.used: list[str] = []
        self.notes: list[str] = []
        self._execute = execute
        self._kept: dict[int, tuple[ImageSet, Features]] = {}

    @property
    def generative(self) -> bool:
        """See `base.Subject`; the model's folder is looked at, and not opened."""
        return is_generative(self.model.path)

    @property
    def embedder(self) -> Embedder:
        """See `base.Subject`. Where images are embedded by other processes, this one may have no GPU, and uses none."""
        elsewhere = self._execute is not in_process
        return _embedder(replace(self.model, device="cpu", precision=None) if elsewhere else self.model)

    def features(self, images: ImageSet) -> Features:
        """See `base.Subject`."""
        if id(images) not in self._kept:  # the set is kept too, so that its id stays its own
            self._kept[id(images)] = images, self._embed(images)
        return self._kept[id(images)][1]

    def _embed(self, images: ImageSet) -> Features:
        requests = _requests(images.refs)
        table = self._run(partial(make_feature_step, self.model, images.source), requests)
        vectors = table["vector"].combine_chunks()
        vector_ND = np.asarray(vectors.flatten()).reshape(len(images), -1).copy()
        features = Features(vector_ND, table["reason"].to_pylist())
        _warn(images.name, images.refs, features.reasons)
        if not features.usable.any():
            raise RaylabError(f"{images.name}: every image is refused: {features.refused(images.name)}")
        return features

    def answers(self, questions: Sequence[Question], source: Source, k: int) -> list[list[Recognised] | str]:
        """See `base.Subject`."""
        make = partial(make_answer_step, self.model, source, self.kb, k)
        return self._said("questions", make, [one.image for one in questions], [one.question for one in questions])

    def titled(self, images: ImageSet, titles: Sequence[str], question: str, k: int) -> list[list[Recognised] | str]:
        """See `base.Subject`."""
        make = partial(make_title_step, self.model, images.source, tuple(titles), k)
        return self._said(images.name, make, images.refs, [question] * len(images))

    def _said(
        self, name: str, make: Callable[[], AnswerStep], refs: Sequence[dict], questions: Sequence[str]
    ) -> list[list[Recognised] | str]:
        requests = _requests(refs).append_column("question", pa.array(questions, pa.string()))
        table = self._run(make, requests)
        self.notes = list(dict.fromkeys([*self.notes, *filter(None, table["note"].unique().to_pylist())]))
        reasons = table["reason"].to_pylist()
        _warn(name, refs, reasons)
        found = table["answers"].to_pylist()
        return [reason or [Recognised(**one) for one in answers] for reason, answers in zip(reasons, found)]

    def _run(self, make: Callable[[], Step], requests: pa.Table) -> pa.Table:
        table = _in_order(list(self._execute(make, requests)), requests.num_rows)
        self.used = list(dict.fromkeys([*self.used, *table["model"].unique().to_pylist()]))
        return table


def _requests(refs: Sequence[dict]) -> pa.Table:
    index = pa.array(np.arange(len(refs)))
    return pa.table({"index": index, "image": pa.array(list(refs), IMAGE_REF)})


def _in_order(parts: list[pa.Table], rows: int) -> pa.Table:
    if not parts:
        raise RaylabError("There is nothing to score: the data set is empty.")
    table = pa.concat_tables(parts).sort_by("index")
    if not np.array_equal(np.asarray(table["index"]), np.arange(rows)):
        raise AssertionError(f"{table.num_rows} rows came back for {rows}")
    return table


def _warn(name: str, refs: Sequence[dict], reasons: Sequence[str | None]) -> None:
    bad = [row for row, reason in enumerate(reasons) if reason]
    if bad:
        first = ", ".join(f"{refs[row]['uri']} ({reasons[row]})" for row in bad[:3])
        logger.warning("%s: %d of %d images refused, such as %s", name, len(bad), len(refs), first)
