"""What a CLIP makes of every entity's "title: description": computed once per knowledge base and model, then mapped.

<kb>/vectors/<model>-<revision>/vectors.npy    float16 [entities, dim], rows of length 1, in the catalogue's order
                                vectors.json   which knowledge base and which model they belong to
"""

from __future__ import annotations

import json
import logging
import os
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from raylab.errors import RaylabError

logger = logging.getLogger(__name__)

_FORMAT = 1
_BLOCK = 4096
_REPORT_EVERY_S = 30.0


class TextEncoder(Protocol):
    """What embeds the texts; `raylab.models.clip.ClipEncoder` is one."""

    id: str
    revision: str
    dim: int

    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Return float32 [n, dim], rows of length 1."""
        ...


class Entities(Protocol):
    """What is embedded; `raylab.kb.catalog.Catalog` is one."""

    @property
    def info(self) -> Any:
        """Holds the knowledge base's `fingerprint`."""
        ...

    def __len__(self) -> int:
        """Return the number of entities."""
        ...

    def texts(self, rows: np.ndarray) -> list[str]:
        """Return "title: description" of the entities in these rows."""
        ...


@dataclass(frozen=True)
class VectorsInfo:
    """What vectors.json holds; vectors are used only where all of it is as expected."""

    kb_fingerprint: str
    model: str
    revision: str
    entities: int
    dim: int
    format: int = _FORMAT


class EntityVectors:
    """The vectors of a knowledge base under one CLIP, memory-mapped and shared by all processes of a host.

    Attributes:
        matrix: float16 [entities, dim]; row i belongs to row i of the catalogue.
    """

    def __init__(self, matrix: np.ndarray) -> None:
        self.matrix = matrix

    def __len__(self) -> int:
        """Return the number of entities."""
        return len(self.matrix)

    def gather(self, rows: np.ndarray) -> np.ndarray:
        """Return float32 [n, dim] for these rows of the catalogue.

        The pages of a cold file are read in the order of the file, whatever the order of `rows`.
        """
        unique, inverse = np.unique(rows, return_inverse=True)
        return self.matrix[unique].astype(np.float32)[inverse]

    @classmethod
    def open(cls, folder: str | Path, entities: Entities, encoder: TextEncoder) -> EntityVectors:
        """Map the vectors of `entities` under `encoder`, computing them first where they are missing or stale.

        Processes that come at once wait for the first one to compute. Nothing half-written is ever seen.

        Args:
            folder: the ``vectors`` folder of the knowledge base, or any other folder that may be written.
            entities: the catalogue.
            encoder: the CLIP.

        Raises:
            RaylabError: the vectors have to be computed and the folder cannot be written.
        """
        expected = VectorsInfo(entities.info.fingerprint, encoder.id, encoder.revision, len(entities), encoder.dim)
        place = Path(folder) / f"{slug(encoder.id)}-{encoder.revision}"
        found = _read(place, expected)
        if found is None:
            found = _compute_once(place, expected, entities, encoder)
        return cls(found)


def slug(text: str) -> str:
    """Return a model's id as a part of a file name."""
    return re.sub(r"[^A-Za-z0-9.]+", "-", text).strip("-").lower()


def _read(place: Path, expected: VectorsInfo) -> np.ndarray | None:
    """Map the vectors if they are all there and those expected."""
    try:
        info = json.loads((place / "vectors.json").read_text("utf-8"))
        matrix = np.load(place / "vectors.npy", mmap_mode="r", allow_pickle=False)
    except (FileNotFoundError, NotADirectoryError, ValueError, EOFError):
        return None
    if info != asdict(expected):
        return None
    whole = matrix.shape == (expected.entities, expected.dim) and matrix.dtype == np.float16
    return matrix if whole else None


def _compute_once(place: Path, info: VectorsInfo, entities: Entities, encoder: TextEncoder) -> np.ndarray:
    from filelock import FileLock

    try:
        place.mkdir(parents=True, exist_ok=True)
        with FileLock(place / "vectors.lock"):
            found = _read(place, info)  # another process may have been faster
            if found is None:
                _write(place, info, entities, encoder)
                found = _read(place, info)
    except OSError as error:
        raise RaylabError(
            f"{place}: the entity vectors of {info.model} have to be computed, and cannot be written here ({error}). "
            "Make the folder writable with enough space "
            f"({info.entities * info.dim * 2 / 2**20:.0f} MiB), or point `vectors` to a folder that is."
        ) from error
    if found is None:
        raise RaylabError(f"{place}: the entity vectors were written but cannot be read back; is the disk sound?")
    return found


def _write(place: Path, info: VectorsInfo, entities: Entities, encoder: TextEncoder) -> None:
    """Compute all vectors block by block. vectors.json goes first and comes last: without it nothing is valid."""
    (place / "vectors.json").unlink(missing_ok=True)
    part = place / "vectors.npy.part"
    try:
        # Written, not mapped: on a full disk a write fails with an error, a mapped page kills the process.
        with part.open("wb") as file:
            header = {"descr": "<f2", "fortran_order": False, "shape": (info.entities, info.dim)}
            np.lib.format.write_array_header_1_0(file, header)
            for block in _blocks(info.entities, entities, encoder):
                file.write(block.astype("<f2").tobytes())
            file.flush()
            os.fsync(file.fileno())
        part.replace(place / "vectors.npy")
    finally:
        part.unlink(missing_ok=True)
    text = place / "vectors.json.part"
    text.write_text(json.dumps(asdict(info), indent=1) + "\n", "utf-8")
    with text.open("rb") as file:
        os.fsync(file.fileno())
    text.replace(place / "vectors.json")


def _blocks(total: int, entities: Entities, encoder: TextEncoder) -> Iterator[np.ndarray]:
    started = reported = time.monotonic()
    for start in range(0, total, _BLOCK):
        end = min(start + _BLOCK, total)
        yield encoder.encode_texts(entities.texts(np.arange(start, end)))
        if time.monotonic() - reported > _REPORT_EVERY_S:
            reported = time.monotonic()
            logger.info("entity vectors: %d of %d, %.0f/s", end, total, end / (reported - started))
