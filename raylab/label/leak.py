"""Leak control: no image of an evaluation set may come back as a training label.

Pairs whose image embedding is closer than a cosine of 0.95 to any evaluation image are excluded (VER, A.1).
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from raylab.errors import RaylabError
from raylab.kb.vectors import slug
from raylab.label.embed import ImageEmbedder
from raylab.models.clip import ClipEncoder
from raylab.sources.base import Columns, Shard, Source, SourceConfig
from raylab.sources.files import FORMATS
from raylab.sources.filesystem import File, list_files

logger = logging.getLogger(__name__)

_BLOCK = 65_536
_READ_ROWS = 512
_IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp")


@dataclass(frozen=True)
class LeakConfig:
    """Which images must not be labelled."""

    images: tuple[str, ...] = ()
    """Evaluation sets: any source URI (captions are not looked at), a folder of image files, or a .npy or .npz file of
    embeddings [n, dim] that the same CLIP made. Empty: no leak control."""
    columns: Columns = field(default_factory=Columns)
    """How those sources' columns are called."""
    cosine: float = 0.95
    """Images closer than this to an evaluation image are rejected (VER, A.1)."""


class LeakGuard:
    """Knows the embeddings of the evaluation images.

    Attributes:
        vectors: float32 [n, dim], rows of length 1.
    """

    def __init__(self, vectors: np.ndarray) -> None:
        self.vectors = vectors

    @classmethod
    def build(cls, config: LeakConfig, source: SourceConfig, encoder: ClipEncoder, cache: Path) -> LeakGuard:
        """Embed the evaluation sets, each of them once per CLIP: later processes read the result from `cache`.

        Args:
            config: the sets.
            source: whose limits hold for the images.
            encoder: the CLIP that embeds the pairs' images.
            cache: a folder that may be written, or else every process embeds the sets for itself.

        Raises:
            RaylabError: a set cannot be opened, holds no usable image, or was embedded by another CLIP.
        """
        parts = [_embedding_file(uri, encoder) if _is_embedding_file(uri) else None for uri in config.images]
        for i, uri in enumerate(config.images):
            if parts[i] is None:
                own = replace(source, uri=uri, columns=config.columns)
                parts[i] = _embedded_source(own, encoder, cache)
        return cls(np.concatenate([part for part in parts if part is not None]))

    def nearest(self, vectors: np.ndarray) -> np.ndarray:
        """Return float32 [m]: for each image [m, dim] the cosine to its nearest evaluation image."""
        best = np.full(len(vectors), -1.0, np.float32)
        for start in range(0, len(self.vectors), _BLOCK):
            np.maximum(best, (vectors @ self.vectors[start : start + _BLOCK].T).max(axis=1), out=best)
        return best


def _is_embedding_file(uri: str) -> bool:
    return Path(uri).suffix in (".npy", ".npz")


def _embedding_file(uri: str, encoder: ClipEncoder) -> np.ndarray:
    try:
        loaded = np.load(uri, allow_pickle=False)
        arrays = [loaded] if isinstance(loaded, np.ndarray) else [loaded[name] for name in loaded.files]
    except (OSError, ValueError) as error:
        raise RaylabError(f"leak control: {uri}: not a readable .npy or .npz file ({error}).") from error
    if len(arrays) != 1 or arrays[0].ndim != 2 or arrays[0].shape[1] != encoder.dim or not len(arrays[0]):
        raise RaylabError(
            f"leak control: {uri}: expected one array [images, {encoder.dim}], as {encoder.id} makes them; "
            f"found {[array.shape for array in arrays]}."
        )
    vectors = arrays[0].astype(np.float32)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    if not (np.isfinite(lengths).all() and lengths.all()):
        raise RaylabError(f"leak control: {uri}: holds vectors that are zero or not finite.")
    return vectors / lengths


def _embedded_source(config: SourceConfig, encoder: ClipEncoder, cache: Path) -> np.ndarray:
    images = _list_images(config)
    digest = hashlib.blake2b("\x1e".join([config.uri, str(config.limits), *images.versions]).encode(), digest_size=8)
    path = cache / f"evaluation-{slug(encoder.id)}-{encoder.revision}-{digest.hexdigest()}.npy"
    return _load_or_compute(path, lambda: _embed_all(images, config, encoder))


@dataclass(frozen=True)
class _Images:
    """An evaluation set before it is read."""

    source: Source
    versions: list[str]
    references: Callable[[], Iterator[list[dict]]]
    """Yields `schema.IMAGE_REF` values, some hundred at a time."""


def _list_images(config: SourceConfig) -> _Images:
    from raylab.sources import open_source

    source = open_source(config)
    files = _bare_image_files(config.uri)
    if files:
        refs = [{"uri": file.uri, "offset": 0, "size": file.size} for file in files]
        return _Images(source, [f"{file.name}\x1f{file.version}" for file in files], lambda: _cut(refs))
    shards = source.shards()
    versions = [f"{shard.name}\x1f{shard.version}\x1f{shard.size}" for shard in shards]
    return _Images(source, versions, lambda: _references(source, shards))


def _bare_image_files(uri: str) -> list[File]:
    """Return the files of a folder or glob of images without any table; a source of pairs has none."""
    if uri.startswith("miniworld:"):
        return []
    files = list_files(uri)
    tables = tuple(suffix for form in FORMATS for suffix in form.suffixes)
    has_table = any(file.name.lower().endswith(tables) for file in files)
    return [] if has_table else [file for file in files if file.name.lower().endswith(_IMAGE_SUFFIXES)]


def _load_or_compute(path: Path, compute: Callable[[], np.ndarray]) -> np.ndarray:
    """Return the array in `path`, made by `compute` where there is none yet; who comes meanwhile waits."""
    from filelock import FileLock

    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists() and not os.access(path.parent, os.W_OK):
        logger.warning("leak control: %s cannot be written: every process embeds the evaluation images itself", path)
        return compute()
    with FileLock(path.with_suffix(".lock")):
        if not path.exists():
            part = path.with_suffix(".part.npy")
            np.save(part, compute())
            part.replace(path)
    return np.load(path, allow_pickle=False)


def _embed_all(images: _Images, config: SourceConfig, encoder: ClipEncoder) -> np.ndarray:
    embed = ImageEmbedder(images.source, config.limits, encoder)
    parts, refused = [], 0
    for refs in images.references():
        result = embed(refs)
        parts.append(result.vectors[result.usable])
        refused += int((~result.usable).sum())
    vectors = np.concatenate(parts) if parts else np.empty((0, encoder.dim), np.float32)
    if not len(vectors):
        raise RaylabError(f"leak control: {config.uri}: no usable image ({refused} refused); nothing would be guarded.")
    logger.info("leak control: %s: %d images embedded, %d refused", config.uri, len(vectors), refused)
    return vectors


def _references(source: Source, shards: list[Shard]) -> Iterator[list[dict]]:
    """Yield image references. Rows that the source rejects for their caption have images all the same."""
    for shard in shards:
        for table in source.read(shard):
            yield from _cut([ref for ref in table["image"].to_pylist() if ref is not None])


def _cut(refs: list[dict]) -> Iterator[list[dict]]:
    return (refs[start : start + _READ_ROWS] for start in range(0, len(refs), _READ_ROWS))
