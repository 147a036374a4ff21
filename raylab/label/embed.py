"""From image references to image embeddings, with a typed reason for each image that refuses."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from raylab.models.clip import ClipEncoder
from raylab.schema import Reason
from raylab.sources.base import Limits, Source
from raylab.sources.images import ImageRefused, open_image

Refusal = tuple[Reason, str | None]


@dataclass(frozen=True)
class Embedded:
    """Embeddings of a list of images."""

    vectors: np.ndarray
    """float32 [n, dim], rows of length 1; nan where the image was refused."""
    reasons: list[Reason | None]
    details: list[str | None]

    @property
    def usable(self) -> np.ndarray:
        """Bool [n]: the images that could be embedded."""
        return np.array([reason is None for reason in self.reasons], bool)


class ImageEmbedder:
    """Reads, decodes and embeds the images of a source.

    Args:
        source: where the bytes are.
        limits: what is accepted.
        encoder: the CLIP.
        threads: images decoded at once (Pillow lets go of the interpreter while it decodes).

    Attributes:
        encoder: as given.
    """

    def __init__(self, source: Source, limits: Limits, encoder: ClipEncoder, threads: int = 1) -> None:
        self._source = source
        self._limits = limits
        self.encoder = encoder
        self._ahead = ThreadPoolExecutor(1)
        self._decoders = ThreadPoolExecutor(threads)

    def __call__(self, refs: Sequence[dict | None]) -> Embedded:
        """Embed the images behind `schema.IMAGE_REF` values; null is a missing image."""
        vectors = np.full((len(refs), self.encoder.dim), np.nan, np.float32)
        refusals: list[Refusal | None] = []
        size = self.encoder.batch
        groups = [refs[start : start + size] for start in range(0, len(refs), size)]
        for found in self._ahead.map(self._read, groups):  # the next group is read and decoded meanwhile
            usable = [len(refusals) + i for i, item in enumerate(found) if isinstance(item, np.ndarray)]
            pixels = [item for item in found if isinstance(item, np.ndarray)]
            vectors[usable] = self.encoder.encode_images(pixels)
            refusals += [item if isinstance(item, tuple) else None for item in found]
        reasons = [refusal and refusal[0] for refusal in refusals]
        details = [refusal and refusal[1] for refusal in refusals]
        return Embedded(vectors, reasons, details)

    def _read(self, refs: Sequence[dict | None]) -> list[np.ndarray | Refusal]:
        present = [ref for ref in refs if ref is not None]
        data = iter(self._source.image_bytes(present))
        answers = [next(data) if ref is not None else Reason.MISSING_IMAGE for ref in refs]
        return list(self._decoders.map(self._decode, answers))

    def _decode(self, answer: bytes | Reason) -> np.ndarray | Refusal:
        if isinstance(answer, Reason):
            return answer, None
        try:
            return self.encoder.preprocess(open_image(answer, self._limits, self.encoder.image_side))
        except ImageRefused as refused:
            return refused.reason, refused.detail
