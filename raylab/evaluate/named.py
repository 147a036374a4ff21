"""DeViSE models as evaluation and prediction ask them: pictures among names, classes that were learnt from or not."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from raylab.errors import RaylabError
from raylab.evaluate.base import Recognised
from raylab.evaluate.ranking import nearest, unit
from raylab.kb.vectors import EntityVectors, slug
from raylab.kb.words import NameVectors, open_words

if TYPE_CHECKING:
    from PIL import Image

    from raylab.kb.catalog import Catalog
    from raylab.models.image_encoder import ImageEncoder

logger = logging.getLogger(__name__)

ABOUT, MAP = "devise.json", "map.safetensors"
"""See `models.devise`, which loads torch."""
EXACT_NAMES = 200_000
"""So many names are compared one by one; of more, faiss looks through the cells nearest to the picture."""
CELLS_OF_ROOT = 4
"""Cells, as a multiple of the root of the number of names: faiss's own rule of thumb begins there."""
CELLS_LOOKED_AT = 128
"""For one picture (our choice)."""
PLACING_ROUNDS = 10
"""Of k-means; faiss's 25 find hardly more."""
TRAINING_NAMES_A_CELL = 40
"""To place the cells; with fewer than 39 faiss warns."""


class NamedEncoder:
    """A `base.Embedder` of pictures and of names. Make one with `NamedEncoder.load`.

    Args:
        encoder: the pictures'.
        map_ED: float32, into the space; of a softmax, its classes' rows.
        words: the names'; None: a softmax, which knows its classes alone.
        classes: that were learnt from: id -> title.

    Attributes:
        id, revision, dim, image_side, batch: see `base.Embedder`.
        classes: see above.
    """

    def __init__(
        self, encoder: ImageEncoder, map_ED: np.ndarray, words: NameVectors | None, classes: Mapping[str, str]
    ) -> None:
        self.id, self.image_side, self.batch = encoder.id, encoder.image_side, encoder.batch
        self.revision = encoder.revision
        self.words, self.classes = words, classes
        self._encoder, self._map_ED = encoder, map_ED
        self._class_CD = None if words else _lifted(map_ED)
        self.dim = len(map_ED) if words else map_ED.shape[1] + 1

    @classmethod
    def load(cls, folder: Path, encoder: ImageEncoder) -> NamedEncoder:
        """Open what `models.devise.Devise.save` wrote.

        Args:
            folder: the model's.
            encoder: opened from the same folder.

        Raises:
            RaylabError: it is damaged, or its word space is gone, or is another one.
        """
        from safetensors.numpy import load_file

        try:
            about = json.loads((folder / ABOUT).read_text("utf-8"))
            map_ED, classes = load_file(folder / MAP)["weight"], dict(about["classes"])
        except Exception as error:  # safetensors raises a kind of its own
            raise RaylabError(f"{folder} is damaged ({type(error).__name__}: {error}): copy it again.") from error
        words = open_words(about["words"]) if "words" in about else None
        if words and (words.revision, words.dim) != (about["revision"], about["dim"]):
            raise RaylabError(
                f"{folder}: was trained with word vectors {about['revision']}, and {about['words']} holds "
                f"{words.revision}: name the place of the former in its {ABOUT}."
            )
        return cls(encoder, map_ED, words, classes)

    def preprocess(self, image: Image.Image) -> np.ndarray:
        """See `base.Embedder`."""
        return self._encoder.preprocess(image)

    def encode_images(self, images: Sequence[Image.Image | np.ndarray]) -> np.ndarray:
        """See `base.Embedder`."""
        vector_ND = self._encoder.encode_images(images)
        if self.words is None:
            return np.pad(vector_ND, ((0, 0), (0, 1)))
        return unit(vector_ND @ self._map_ED.T, self.id)

    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        """See `base.Embedder`.

        Raises:
            RaylabError: of a text no word is known.
        """
        vector_ND = self.name_vectors(texts)
        unknown = [text for text, vector in zip(texts, vector_ND) if np.isnan(vector[0])]
        if unknown:
            raise RaylabError(f"{self.id}: {len(unknown)} of {len(texts)} names are not known, such as {unknown[0]!r}.")
        return vector_ND

    def name_vectors(self, names: Sequence[str]) -> np.ndarray:
        """Return float32 [n, dim], rows of length 1; nan for a name that is not known."""
        if self.words is not None:
            return self.words.vectors(names)
        assert self._class_CD is not None
        place = {title: number for number, title in enumerate(self.classes.values())}
        rows = np.array([place.get(name, -1) for name in names], np.int64)
        return np.where(rows[:, None] >= 0, self._class_CD[rows], np.float32(np.nan))


def _lifted(weight_CD: np.ndarray) -> np.ndarray:
    """Return float32 [C, D + 1], rows of length 1, whose cosines with (vector, 0) rank classes as logits do.

    One more number brings all rows to the length of the longest (Bachrach et al., RecSys 2014).
    """
    weight_CD = weight_CD / np.linalg.norm(weight_CD, axis=1).max()
    rest_C1 = np.sqrt(np.clip(1 - np.square(weight_CD).sum(1, keepdims=True), 0, None))
    return np.concatenate([weight_CD, rest_C1], 1).astype(np.float32)


@dataclass(frozen=True)
class _Titles:
    """A catalogue whose entities are embedded by their titles alone: see `kb.vectors.Entities`."""

    catalog: Catalog

    @property
    def info(self) -> Any:
        return self.catalog.info

    def __len__(self) -> int:
        return len(self.catalog)

    def texts(self, rows: np.ndarray) -> list[str]:
        return self.catalog.take(rows, ("title",))["title"].to_pylist()


class _Space:
    """A word space as `kb.vectors.TextEncoder`; unknown names are zeros, which are near nothing."""

    def __init__(self, words: NameVectors) -> None:
        self.id, self.revision, self.dim = f"words {words.id}", words.revision, words.dim
        self._words = words

    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        return np.nan_to_num(self._words.vectors(texts))


class NearestName:
    """A `base.Recogniser`: names the entities whose titles lie nearest to the picture. No question is looked at.

    Args:
        encoder: the model.
        catalog: the entities. Their titles' vectors are computed once and kept beside them, and so is faiss's index
            where there are more than `EXACT_NAMES`; all models of one word space share them.
    """

    def __init__(self, encoder: NamedEncoder, catalog: Catalog) -> None:
        self.id, self.revision = f"nearest name by {encoder.id}", encoder.revision
        self.image_size, self.note = encoder.image_side, ""
        self._encoder, self._catalog = encoder, catalog
        self._index: Any = None
        self._rows: np.ndarray | None = None
        if encoder.words is None:
            rows = catalog.rows(list(encoder.classes))
            self._rows = rows[rows >= 0]
            titles = [title for title, row in zip(encoder.classes.values(), rows) if row >= 0]
            self._matrix = encoder.name_vectors(titles)
            return
        folder, space = catalog.path / "vectors", _Space(encoder.words)
        self._matrix = EntityVectors.open(folder, _Titles(catalog), space).matrix
        if len(catalog) > EXACT_NAMES:
            self._index = open_index(folder / f"{slug(space.id)}-{space.revision}", self._matrix)

    def recognise(self, images: list[Image.Image], questions: list[str], k: int) -> list[list[Recognised]]:
        """See `base.Recogniser`; scores are cosines. Fewer than `k` where faiss's cells hold no more."""
        if len(images) != len(questions):
            raise ValueError(f"{len(images)} images and {len(questions)} questions")
        row_NK, cosine_NK = self._nearest(self._encoder.encode_images(images), k)
        return [self._named(row_K[row_K >= 0], cosine_K) for row_K, cosine_K in zip(row_NK, cosine_NK)]

    def _nearest(self, vector_ND: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        if self._index is None:
            row_NK, cosine_NK = nearest(vector_ND, self._matrix, k)
            return (row_NK if self._rows is None else self._rows[row_NK]), cosine_NK
        cosine_NK, row_NK = self._index.search(vector_ND, k)
        return row_NK, cosine_NK

    def _named(self, row_K: np.ndarray, cosine_K: np.ndarray) -> list[Recognised]:
        found = self._catalog.take(row_K, ("id", "title"))
        return [
            Recognised(*one) for one in zip(*(found[name].to_pylist() for name in ("id", "title")), cosine_K.tolist())
        ]


def open_index(folder: Path, matrix_ND: np.ndarray) -> Any:
    """Map faiss's index of names, building it first where it is missing.

    Cells of names (IVF), half precision. The file is about as large as the vectors.

    Args:
        folder: where the vectors lie.
        matrix_ND: float16 [n, d], rows of length 1, or zeros: mapped.

    Raises:
        RaylabError: faiss is not installed.
    """
    try:
        import faiss
    except ImportError as error:
        raise RaylabError("More names than are compared one by one need faiss: install raylab[words].") from error
    from filelock import FileLock

    place = folder / "names.faiss"
    with FileLock(folder / "names.lock"):
        if not place.exists():
            logger.info("index of %d names: built once", len(matrix_ND))
            part = place.with_name("names.faiss.part")
            faiss.write_index(_built(matrix_ND), str(part))
            part.replace(place)
    index: Any = faiss.read_index(str(place), faiss.IO_FLAG_MMAP)
    index.nprobe = CELLS_LOOKED_AT
    return index


def _built(matrix_ND: np.ndarray) -> Any:
    import faiss

    cells, rows = int(CELLS_OF_ROOT * len(matrix_ND) ** 0.5), 1 << 16
    rng = np.random.default_rng(0)
    chosen = np.sort(rng.choice(len(matrix_ND), min(len(matrix_ND), TRAINING_NAMES_A_CELL * cells), replace=False))
    index: Any = faiss.index_factory(matrix_ND.shape[1], f"IVF{cells},SQfp16", faiss.METRIC_INNER_PRODUCT)
    index.cp.niter = PLACING_ROUNDS
    index.train(matrix_ND[chosen].astype(np.float32))
    for start in range(0, len(matrix_ND), rows):
        index.add(matrix_ND[start : start + rows].astype(np.float32))
    return index
