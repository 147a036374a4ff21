"""Step 2, second source: the entities whose text lies nearest to the whole caption (Entity-WebLI; arXiv 2410.23676).

Alias lookup finds what a caption spells out. A caption that paraphrases ("the red maple leaf flag") is reached through
the CLIP's text tower instead: it is embedded and compared with the vector of every entity's "title: description". The
search is exact, one block of the matrix after the other, so that memory stays bounded. An approximate index would save
time that is not spent here (6.1 M x 512 in float16 are 6.2 GB and one matrix product on a GPU) and cost recall at the
rare entities, which are the reason for this second source.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raylab.errors import RaylabError
from raylab.kb.catalog import Catalog
from raylab.kb.vectors import EntityVectors
from raylab.label.evidence import append_candidates, flat_candidates, note_model
from raylab.label.step import StepContext
from raylab.models.clip import ClipConfig, ClipEncoder
from raylab.schema import CANDIDATE, alive

if TYPE_CHECKING:
    import torch

STEP = "neighbours"
_BLOCK = 65_536


@dataclass(frozen=True)
class NeighboursConfig:
    """Whether and how entities near the caption become candidates."""

    enabled: bool = False
    """Off: alias lookup alone. A recipe turns it on."""
    clip: ClipConfig = field(default_factory=ClipConfig)
    """The model whose text tower is used; the same as in `select` shares its entity vectors."""
    vectors: str | None = None
    """Where entity vectors are kept; null: ``vectors`` in the knowledge base's folder."""
    count: int = 5
    """Entities added to a row at most."""
    min_cosine: float = 0.5
    """Entities less like the caption are not added."""
    max_entities_on_cpu: int = 500_000
    """Larger knowledge bases are refused on a CPU, where each caption costs 2 x entities x dim operations."""

    def build(self, context: StepContext) -> Neighbours:
        """Load the CLIP and map the entity vectors, computing them at the first use.

        Raises:
            RaylabError: see `ClipEncoder.load` and `EntityVectors.open`; or the knowledge base is too large for a CPU.
        """
        catalog = Catalog.open(context.kb)
        if context.device == "cpu" and len(catalog) > self.max_entities_on_cpu:
            raise RaylabError(
                f"{context.kb}: {len(catalog)} entities are too many for the neighbours step on a CPU "
                f"(neighbours.max_entities_on_cpu is {self.max_entities_on_cpu}): give its pool GPUs, raise the limit, "
                "or switch the step off."
            )
        encoder = self.clip.load(context.device)
        vectors = EntityVectors.open(Path(self.vectors or catalog.path / "vectors"), catalog, encoder)
        return Neighbours(self, catalog, NearestEntities(vectors.matrix, context.device), encoder)


class Neighbours:
    """The step. Candidates come with mention -1, source ``neighbour`` and their cosine as the prior.

    An entity that a mention has already brought keeps that entry and gets no second one.
    """

    def __init__(
        self, config: NeighboursConfig, catalog: Catalog, nearest: NearestEntities, encoder: ClipEncoder
    ) -> None:
        self.config = config
        self._catalog = catalog
        self._nearest = nearest
        self._encoder = encoder
        self._model = f"{encoder.id}@{encoder.revision}"

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Append each caption's nearest entities to its candidates."""
        with_text = pc.and_(alive(batch), pc.fill_null(pc.greater(pc.utf8_length(batch["caption"]), 0), False))
        rows = np.flatnonzero(with_text.to_numpy())
        captions = batch["caption"].take(pa.array(rows)).to_pylist()
        entity, cosine = self._nearest(self._encoder.encode_texts(captions), self.config.count)
        return note_model(self._append(batch, rows, entity, cosine), STEP, self._model)

    def _append(self, batch: pa.Table, rows: np.ndarray, entity: np.ndarray, cosine: np.ndarray) -> pa.Table:
        flat_rows = np.repeat(rows, entity.shape[1])
        known = flat_candidates(batch)
        known_entity = self._catalog.rows(known.field("entity_id"))
        size = len(self._catalog)
        is_new = ~np.isin(flat_rows * size + entity.ravel(), known.rows * size + known_entity)
        keep = is_new & (cosine.ravel() >= self.config.min_cosine)
        ids = self._catalog.take(entity.ravel()[keep], ("id",))["id"]
        return append_candidates(batch, flat_rows[keep], _candidates(ids.combine_chunks(), cosine.ravel()[keep]))


class NearestEntities:
    """Exact nearest rows of a matrix by cosine.

    Args:
        matrix: float16 [entities, dim], rows of length 1. On a GPU it is copied there whole; on a CPU it stays
            memory-mapped and is widened block by block.
        device: a torch device.
    """

    def __init__(self, matrix: np.ndarray, device: str) -> None:
        import torch

        self._device = device
        self._matrix = matrix if device == "cpu" else torch.from_numpy(np.asarray(matrix)).to(device)

    def __call__(self, queries: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Return int64 [n, k] rows and float32 [n, k] cosines, best first; k = min(count, entities).

        Args:
            queries: float32 [n, dim], rows of length 1.
            count: neighbours wanted.
        """
        import torch

        count = min(count, len(self._matrix))
        query = torch.from_numpy(queries).to(self._device)
        best = torch.full((len(queries), 0), -torch.inf, device=self._device)
        rows = torch.zeros((len(queries), 0), dtype=torch.int64, device=self._device)
        with torch.inference_mode():
            for start in range(0, len(self._matrix), _BLOCK):
                cosine = query @ self._block(start).T
                top, at = cosine.topk(min(count, cosine.shape[1]), dim=1)
                best, order = torch.cat([best, top], dim=1).topk(min(count, best.shape[1] + top.shape[1]), dim=1)
                rows = torch.cat([rows, at + start], dim=1).gather(1, order)
        return rows.cpu().numpy(), best.cpu().numpy()

    def _block(self, start: int) -> torch.Tensor:
        import torch

        block = self._matrix[start : start + _BLOCK]
        return torch.from_numpy(block.astype(np.float32)) if isinstance(block, np.ndarray) else block.float()


def _candidates(ids: pa.Array, cosine: np.ndarray) -> pa.StructArray:
    known = {
        "entity_id": ids.cast(pa.string()),
        "mention": pa.array(np.full(len(ids), -1, np.int32)),
        "source": pa.array(["neighbour"] * len(ids), pa.string()),
        "prior": pa.array(cosine, pa.float32()),
    }
    columns = [known[f.name] if f.name in known else pa.nulls(len(ids), f.type) for f in CANDIDATE]
    return pa.StructArray.from_arrays(columns, fields=list(CANDIDATE))
