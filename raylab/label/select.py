"""Step 4: which of the candidates does the image show? (MOFI 1.4; calibration: `raylab.label.scoring`)."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raylab.kb.catalog import Catalog
from raylab.kb.vectors import EntityVectors
from raylab.label.embed import ImageEmbedder
from raylab.label.evidence import FlatCandidates, flat_candidates, note_model, replace_fields
from raylab.label.leak import LeakConfig, LeakGuard
from raylab.label.scoring import Scores, background_logits, score_candidates
from raylab.label.step import StepContext
from raylab.models.clip import ClipConfig
from raylab.schema import Reason, alive, reject, set_column

STEP = "select"
_PAIRS = 4096


@dataclass(frozen=True)
class SelectConfig:
    """How the image decides."""

    clip: ClipConfig = field(default_factory=ClipConfig)
    """The model that compares image and entity."""
    vectors: str | None = None
    """Where entity vectors are kept; null: ``vectors`` in the knowledge base's folder."""
    logit_scale: float | None = None
    """Inverse temperature of the score; null: the CLIP's own."""
    distractors: int = 1024
    """Entities drawn from the knowledge base that every image is also compared with."""
    seed: int = 0
    """Draws the distractors."""
    link_weight: float = 0.1
    """Exponent of the text's probability. With a CLIP's usual scale of 100 the default settles near-ties only. 0 lets
    the image decide alone, which is best where texts mislead as they do in the mini-world."""
    min_score: float = 0.3
    """Rows whose best score is lower are rejected as `LOW_SCORE`. Depends on the CLIP and on the number of distractors:
    choose it on rows whose truth is known (`label.audit`); the default is our choice for CLIPs of the web."""
    min_margin: float = 0.1
    """Rows whose best score leads the next one by less are rejected as `LOW_MARGIN`. Pictures that show two of their
    candidates have a small margin too."""
    leak: LeakConfig = field(default_factory=LeakConfig)
    """Evaluation images to keep out."""
    threads: int = 1
    """Images decoded at once."""

    def build(self, context: StepContext) -> Select:
        """Load the CLIP, map the entity vectors (computing them at the first use), embed the evaluation sets.

        Raises:
            RaylabError: see `ClipEncoder.load`, `EntityVectors.open`, `LeakGuard.build`.
        """
        from raylab.sources import open_source

        encoder = self.clip.load(context.device)
        catalog = Catalog.open(context.kb)
        folder = Path(self.vectors or catalog.path / "vectors")
        vectors = EntityVectors.open(folder, catalog, encoder)
        images = ImageEmbedder(open_source(context.source), context.source.limits, encoder, self.threads)
        guard = LeakGuard.build(self.leak, context.source, encoder, folder) if self.leak.images else None
        return Select(self, catalog, vectors, images, guard)


class Select:
    """The step. See `SelectConfig.build`."""

    def __init__(
        self,
        config: SelectConfig,
        catalog: Catalog,
        vectors: EntityVectors,
        images: ImageEmbedder,
        guard: LeakGuard | None,
    ) -> None:
        self.config = config
        self._catalog = catalog
        self._vectors = vectors
        self._images = images
        self._guard = guard
        encoder = images.encoder
        self._model = f"{encoder.id}@{encoder.revision}"
        self._logit_scale = encoder.logit_scale if config.logit_scale is None else config.logit_scale
        self._distractor_rows = draw_distractors(len(catalog), config.distractors, config.seed)
        self._distractor_vectors = vectors.gather(self._distractor_rows)

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Fill in the candidates' image scores and the row's entity, score, margin and leak cosine, or reject it.

        A rejected row keeps all of them as evidence.
        """
        batch, seen, vectors = self._look(batch)
        batch = note_model(batch, STEP, self._model)
        flat = flat_candidates(batch)
        pairs = Pairs.of(flat, seen, self._catalog, batch.num_rows)
        cosine = self._cosine(vectors, pairs)
        scores = score_candidates(
            cosine,
            pairs.image,
            pairs.prior,
            self._background(vectors, pairs),
            logit_scale=self._logit_scale,
            prior_weight=self.config.link_weight,
        )
        batch = _write_candidates(batch, flat, pairs, cosine, scores)
        leak = self._guard.nearest(vectors) if self._guard else np.full(len(seen), np.nan)
        batch = self._write_choice(batch, seen, pairs, scores, leak)
        return self._judge(batch, seen, scores, leak)

    def _look(self, batch: pa.Table) -> tuple[pa.Table, np.ndarray, np.ndarray]:
        """Embed the images of the rows in the flow; return the batch, the rows seen [k] and their vectors [k, dim]."""
        rows = np.flatnonzero(alive(batch).to_numpy())
        result = self._images(batch["image"].take(pa.array(rows)).to_pylist())
        batch = _reject_rows(batch, rows, result.reasons, result.details)
        return batch, rows[result.usable], result.vectors[result.usable]

    def _cosine(self, vectors: np.ndarray, pairs: Pairs) -> np.ndarray:
        """Return float32 [p]; some thousand pairs at a time, since each takes two vectors."""
        cosine = np.empty(len(pairs.image), np.float32)
        for start in range(0, len(cosine), _PAIRS):
            part = slice(start, start + _PAIRS)
            entity = self._vectors.gather(pairs.entity[part])
            cosine[part] = np.einsum("pd,pd->p", vectors[pairs.image[part]], entity)
        return cosine

    def _background(self, vectors: np.ndarray, pairs: Pairs) -> np.ndarray:
        order = np.searchsorted(self._distractor_rows, pairs.entity)
        order = np.minimum(order, len(self._distractor_rows) - 1)
        own = self._distractor_rows[order] == pairs.entity
        cosine = vectors @ self._distractor_vectors.T
        return background_logits(cosine, pairs.image[own], order[own], self._logit_scale)

    def _write_choice(
        self, batch: pa.Table, seen: np.ndarray, pairs: Pairs, scores: Scores, leak: np.ndarray
    ) -> pa.Table:
        has = scores.best >= 0
        best = scores.best[has]
        chosen = self._catalog.take(pairs.entity[best], ("id", "title"))
        batch = _fill(batch, "entity_id", seen[has], chosen["id"])
        batch = _fill(batch, "entity_name", seen[has], chosen["title"])
        batch = _fill(batch, "score", seen[has], pa.array(scores.score[best]))
        batch = _fill(batch, "margin", seen[has], pa.array(scores.margin[has]))
        return _fill(batch, "leak_cosine", seen, pa.array(leak)) if self._guard else batch

    def _judge(self, batch: pa.Table, seen: np.ndarray, scores: Scores, leak: np.ndarray) -> pa.Table:
        reasons: list[Reason | None] = []
        details: list[str | None] = []
        for best, margin, nearest in zip(scores.best, scores.margin, leak):
            score = scores.score[best] if best >= 0 else np.nan
            reason, detail = self._verdict(score, margin, nearest)
            reasons.append(reason)
            details.append(detail)
        return _reject_rows(batch, seen, reasons, details)

    def _verdict(self, score: float, margin: float, leak: float) -> tuple[Reason | None, str | None]:
        """Leak control speaks first, so that its count is the number of leaks among the images looked at."""
        config = self.config
        if leak > config.leak.cosine:
            return Reason.EVAL_LEAK, f"cosine {leak:.3f} to an evaluation image is above {config.leak.cosine}"
        if np.isnan(score):
            return Reason.NO_CANDIDATES, "no candidate is in this knowledge base"
        if score < config.min_score:
            return Reason.LOW_SCORE, f"score {score:.3f} is below {config.min_score}"
        if margin < config.min_margin:
            return Reason.LOW_MARGIN, f"margin {margin:.3f} is below {config.min_margin}"
        return None, None


@dataclass(frozen=True)
class Pairs:
    """What is scored: every (image, entity) once, though several mentions of a row may stand for the same entity."""

    image: np.ndarray
    """int64 [p], ascending: index into the images that were seen."""
    entity: np.ndarray
    """int64 [p]: the catalogue's row."""
    prior: np.ndarray
    """float64 [p]: the text's highest probability for the entity in this row; nan where it gave none."""
    of_candidate: np.ndarray
    """int64 [m]: each flat candidate's pair; -1 where its image was not seen or its entity is not in the catalogue."""

    @classmethod
    def of(cls, flat: FlatCandidates, seen: np.ndarray, catalog: Catalog, count: int) -> Pairs:
        """Pair the candidates of the rows `seen` with their images; `count` is the number of rows in the batch."""
        image_of_row = np.full(count, -1, np.int64)
        image_of_row[seen] = np.arange(len(seen))
        image = image_of_row[flat.rows]
        entity = catalog.rows(flat.field("entity_id"))
        usable = (image >= 0) & (entity >= 0)
        size = max(1, len(catalog))
        keys, inverse = np.unique(image[usable] * size + entity[usable], return_inverse=True)
        of_candidate = np.full(len(image), -1, np.int64)
        of_candidate[usable] = inverse
        prior = np.full(len(keys), np.nan)
        np.fmax.at(prior, inverse, flat.numbers("link_score")[usable])
        return cls(keys // size, keys % size, prior, of_candidate)


def draw_distractors(entities: int, count: int, seed: int) -> np.ndarray:
    """Return int64 [min(count, entities)], ascending: the same rows of a catalogue for every image, process and run."""
    chosen = np.random.default_rng(seed).choice(entities, size=min(count, entities), replace=False)
    return np.sort(chosen).astype(np.int64)


def _write_candidates(
    batch: pa.Table, flat: FlatCandidates, pairs: Pairs, cosine: np.ndarray, scores: Scores
) -> pa.Table:
    scored = pairs.of_candidate >= 0
    fields = {}
    for name, values in (("image_cosine", cosine), ("image_score", scores.image_score)):
        column = flat.numbers(name)
        column[scored] = values[pairs.of_candidate[scored]]
        fields[name] = pa.array(column, pa.float32(), from_pandas=True)
    return replace_fields(batch, flat, fields)


def _fill(batch: pa.Table, name: str, rows: np.ndarray, values: pa.Array | pa.ChunkedArray) -> pa.Table:
    """Return the batch with `values` written to `rows` of a column."""
    mask = np.zeros(batch.num_rows, bool)
    mask[rows] = True
    values = values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values
    new = values.cast(batch[name].type)
    return set_column(batch, name, pc.replace_with_mask(batch[name].combine_chunks(), pa.array(mask), new))


def _reject_rows(
    batch: pa.Table, rows: np.ndarray, reasons: list[Reason | None], details: list[str | None]
) -> pa.Table:
    all_reasons: list[Reason | None] = [None] * batch.num_rows
    all_details: list[str | None] = [None] * batch.num_rows
    for row, reason, detail in zip(rows, reasons, details):
        all_reasons[row], all_details[row] = reason, detail
    return reject(batch, STEP, all_reasons, all_details)
