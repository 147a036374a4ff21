"""Review by people: a sample of a finished run's decisions out to a review tool, and their verdicts back.

export ──► audit_sample.json beside the labels, tasks for the tool
import ──► audit.json beside the labels, report and card written again with what was measured
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import tyro

from raylab.config import from_dict
from raylab.errors import RaylabError
from raylab.label import fiftyone, label_studio
from raylab.label.card import write_card
from raylab.label.judging import AUDIT, SAMPLE, audit_figures, by_truth, sampled_rows
from raylab.label.report import name_entities, write_report
from raylab.label.review_files import Read, Task
from raylab.label.samples import Named, Thumbnail, make_thumbnails
from raylab.label.sampling import AuditSample, draw
from raylab.label.store import LabelStore
from raylab.sources import open_source
from raylab.sources.base import Source, SourceConfig

logger = logging.getLogger(__name__)

PICTURE_SIDE = 512
"""Pixels of the longer side of a picture that is judged."""
PICTURE_BYTES = 80_000
"""Each may have about so many."""
_NAMED = 20
_RIGHT = {"right": True, "wrong": False, "unsure": None}

Format = Literal["label-studio", "fiftyone"]
_WRITERS: dict[str, Callable[[Sequence[Task], str], list[str]]] = {
    "label-studio": label_studio.write_tasks,
    "fiftyone": fiftyone.write_dataset,
}
_READERS: dict[str, Callable[[str], Read]] = {
    "label-studio": label_studio.read_reviews,
    "fiftyone": fiftyone.read_reviews,
}


@dataclass(frozen=True)
class ExportConfig:
    """Draw a sample of decisions and write it as tasks for a review tool."""

    labels: str
    """A finished run's folder."""
    out: str
    """Where the tasks go: a .json file or a folder (label-studio), a folder (fiftyone)."""
    format: Format = "label-studio"
    """Whose format."""
    rows: int = 200
    """Decisions to judge."""
    seed: int = 0
    """Another seed draws other rows."""
    precision: float = 0.95
    """The precision for which a threshold is sought when the reviews are in."""


@dataclass(frozen=True)
class ImportConfig:
    """Read reviews, measure the run by them, and write its report and card again."""

    labels: str
    """The run's folder, as for export."""
    reviews: str
    """What the review tool exported: a .json file, or a dataset's folder (fiftyone)."""
    format: Format = "label-studio"
    """Whose format."""
    precision: float | None = None
    """Another precision than that of the export."""


@dataclass(frozen=True)
class TruthConfig:
    """Let the source's known truth judge the sample instead of people: a rehearsal."""

    labels: str
    """A finished run's folder, of a source that knows the truth."""
    rows: int = 200
    """Decisions to judge."""
    seed: int = 0
    """Another seed draws other rows."""
    precision: float = 0.95
    """The precision for which a threshold is sought."""


Command = (
    Annotated[ExportConfig, tyro.conf.subcommand("export", prefix_name=False)]
    | Annotated[ImportConfig, tyro.conf.subcommand("import", prefix_name=False)]
    | Annotated[TruthConfig, tyro.conf.subcommand("truth", prefix_name=False)]
)
"""What ``jobs/review.py`` understands."""


def run(config: ExportConfig | ImportConfig | TruthConfig) -> dict[str, Any]:
    """Do what the config says; see the three functions below."""
    if isinstance(config, ExportConfig):
        return export_tasks(config)
    return import_reviews(config) if isinstance(config, ImportConfig) else audit_by_truth(config)


def export_tasks(config: ExportConfig) -> dict[str, Any]:
    """Write the tasks, and the sample that they came from; return what was written.

    Raises:
        RaylabError: no finished run; no decision to judge; a folder that cannot be written.
    """
    store = LabelStore(config.labels)
    sample = _draw(store, config.rows, config.seed, config.precision)
    rows = sampled_rows(store, sample.by_row())
    tasks = make_tasks(store, [rows[row_id] for row_id in _mixed(sample)], sample)
    store.folder.write_json(SAMPLE, sample.to_json() | {"precision": config.precision})
    files = _WRITERS[config.format](tasks, config.out)
    blind = sum(task.picture.uri is None for task in tasks)
    return {"rows": len(tasks), "strata": len(sample.strata), "without_picture": blind, "files": files}


def import_reviews(config: ImportConfig) -> dict[str, Any]:
    """Read reviews, write ``audit.json``, the report and the card; return the audit.

    Raises:
        RaylabError: no finished run; no sample was exported; a review file that is not what it should be.
    """
    store = LabelStore(config.labels)
    if not store.folder.exists(SAMPLE):
        raise RaylabError(f"{config.labels} has no {SAMPLE}: export a sample for review first.")
    plain = store.folder.read_json(SAMPLE)
    sample = AuditSample.from_json(plain)
    read = _READERS[config.format](config.reviews)
    known = sample.by_row()
    unknown = sorted({one.row_id for one in read.decisions} - known.keys())
    mine = [one for one in read.decisions if one.row_id in known]
    last = {one.row_id: one for one in mine}
    counted = {
        "unreviewed": len(known) - len(last),
        "duplicates": len(mine) - len(last),
        "unknown_rows": len(unknown),
        "unknown_row_ids": unknown[:_NAMED],
        "corrections": [{"row_id": one.row_id, "entity": one.corrected} for one in last.values() if one.corrected],
    }
    if unknown:
        logger.warning("%d reviewed rows are not in %s: %s", len(unknown), SAMPLE, ", ".join(unknown[:_NAMED]))
    if counted["duplicates"]:
        logger.warning("%d decisions were replaced by a later one on the same row", counted["duplicates"])
    wanted = _share(plain["precision"] if config.precision is None else config.precision)
    right = {row_id: _RIGHT[one.verdict] for row_id, one in last.items()}
    figures = audit_figures(sample, sampled_rows(store, known), right, wanted)
    return _keep(store, {"measured_by": "review", "format": config.format} | figures | counted)


def audit_by_truth(config: TruthConfig) -> dict[str, Any]:
    """Judge a sample by the known truth, write ``audit.json``, the report and the card; return the audit.

    Raises:
        RaylabError: no finished run; its source does not know the truth.
    """
    store = LabelStore(config.labels)
    sample = _draw(store, config.rows, config.seed, config.precision)
    rows = sampled_rows(store, sample.by_row())
    verdicts = by_truth(rows)
    if all(verdict is None for verdict in verdicts.values()):
        raise RaylabError(f"{config.labels}: the source of these labels does not know the truth. Let people judge.")
    return _keep(store, {"measured_by": "truth"} | audit_figures(sample, rows, verdicts, config.precision))


def make_tasks(store: LabelStore, rows: Sequence[Mapping[str, Any]], sample: AuditSample) -> list[Task]:
    """Return tasks for rows of a run, with their pictures.

    Args:
        store: the run.
        rows: of its labels and rejects.
        sample: the sample that they are of.
    """
    source, source_config, config = _source(store)
    budget = PICTURE_BYTES * max(1, len(rows))
    pictures = make_thumbnails([row["image"] for row in rows], source, source_config.limits, budget, PICTURE_SIDE)
    ids = sorted({row["entity_id"] for row in rows} - {None})
    names = name_entities(ids, config.get("kb", ""))
    strata = sample.by_row()
    return [
        _task(row, picture, names, strata[row["row_id"]].step, strata[row["row_id"]].decision)
        for row, picture in zip(rows, pictures)
    ]


def _task(row: Mapping[str, Any], picture: Thumbnail, names: Mapping[str, Named], step: str, decision: str) -> Task:
    note = row["annotation"] or {}
    named = names.get(row["entity_id"], Named(row["entity_name"] or row["entity_id"] or ""))
    models = {one["step"]: one["model"] for one in row["models"] or ()}
    changed = note.get("decision") == "corrected"
    return Task(
        row_id=row["row_id"],
        picture=picture,
        caption=row["caption"] or "",
        entity=named.title,
        entity_id=row["entity_id"] or "",
        description=named.description,
        step=step,
        decision=decision,
        candidate=(note.get("candidate_name") or note.get("candidate_id") or "") if changed else "",
        rationale=note.get("rationale") or "",
        questions=[f"{one['question']} {one['answer']}" for one in note.get("questions") or ()],
        score=row["score"],
        confidence=note.get("confidence"),
        where=f"{row['shard']} {row['key']}",
        model=models.get(step, models.get("select", "")),
    )


def _draw(store: LabelStore, rows: int, seed: int, precision: float) -> AuditSample:
    _share(precision)
    if rows < 1:
        raise RaylabError(f"--rows must be 1 or more, not {rows}.")
    sample = draw(store.labels(), store.rejects(), rows, seed)
    if not sample.strata:
        raise RaylabError(f"{store.folder.uri} has no decision to judge: no row has an entity.")
    return sample


def _share(precision: float) -> float:
    if not 0 < precision < 1:
        raise RaylabError(f"--precision must lie between 0 and 1, not be {precision}.")
    return precision


def _mixed(sample: AuditSample) -> list[str]:
    """Return the sampled rows, strata taking turns by their share: whoever stops early has judged some of each."""
    places = [
        ((number + 0.5) / len(stratum.row_ids), place, row_id)
        for place, stratum in enumerate(sample.strata)
        for number, row_id in enumerate(stratum.row_ids)
    ]
    return [row_id for *_, row_id in sorted(places)]


def _source(store: LabelStore) -> tuple[Source, SourceConfig, dict[str, Any]]:
    config = store.folder.read_json("config.json")
    source = from_dict(SourceConfig, config["source"])
    return open_source(source), source, config


def _keep(store: LabelStore, audit: dict[str, Any]) -> dict[str, Any]:
    """Write an audit, and the run's report and card again."""
    folder = store.folder
    folder.write_json(AUDIT, audit)
    source, source_config, config = _source(store)
    summary = folder.read_json("summary.json")
    write_card(folder, summary, config)
    write_report(folder, summary, store.labels(), store.rejects(), source, source_config.limits)
    return audit
