"""The entities of a run's training rows, a number each: the rows of its class table."""

from __future__ import annotations

from functools import cached_property

import numpy as np
import pyarrow as pa

from raylab.kb.catalog import Catalog
from raylab.storage import Folder

CLASSES = "classes.parquet"
"""In a run's folder: ``kb_row`` ascending, ``entity_id``, and the ``rows`` that show each."""


class Classes:
    """Entity id -> number, by way of its row in the knowledge base: eight bytes a class in each process.

    Pickles as an address; read where it is used.

    Args:
        folder: URI of the run's folder.
        kb: the knowledge base's folder.
    """

    def __init__(self, folder: str, kb: str) -> None:
        self.folder, self.kb = folder, kb

    def __getstate__(self) -> dict[str, str]:
        return {"folder": self.folder, "kb": self.kb}

    @cached_property
    def kb_rows(self) -> np.ndarray:
        """int64 [classes], ascending."""
        return Folder(self.folder).read_parquet(CLASSES, ["kb_row"])["kb_row"].to_numpy()

    @cached_property
    def _catalog(self) -> Catalog:
        return Catalog.open(self.kb)

    def __len__(self) -> int:
        return len(self.kb_rows)

    def numbers(self, entity_ids: pa.Array) -> np.ndarray:
        """Return int64 [n]: the number of each entity, -1 for one that is not in the table."""
        rows = self._catalog.rows(entity_ids)
        at = np.searchsorted(self.kb_rows, rows).clip(max=len(self.kb_rows) - 1)
        return np.where(self.kb_rows[at] == rows, at, -1)
