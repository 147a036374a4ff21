"""The report of a run: one HTML file that shows what each step did, and to which rows.

The file is self-contained and needs no script: styles, figures (SVG) and thumbnails (data URIs) lie inside, and its
content security policy forbids it to load anything. Everything that came from a caption, a key or a config is escaped.
"""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from raylab.errors import RaylabError
from raylab.kb.catalog import Catalog
from raylab.label import formats
from raylab.label.charts import HEIGHT, WIDTH, Chart, lay_out, precision_curve
from raylab.label.samples import Named, Sample, entity_ids, make_samples
from raylab.label.survey import Group, Histogram, Survey, survey
from raylab.sources.base import Limits, Source
from raylab.storage import Folder

logger = logging.getLogger(__name__)

SAMPLE = 8
"""Rows shown for each decision."""
_TOP_SHOWN = 20

_EXPLAINED = {
    "high": ("Labelled, sure", "score in the upper half, margin not thin"),
    "near": ("Labelled, close call", "score or margin in the lowest tenth: where a threshold would cut next"),
    "overruled": ("The picture overruled the text", "the label is not the entity that the text alone gave"),
    "wrong": ("Labelled wrong", "by the known truth"),
    "low_score": ("Abstained: low score", "no candidate looks enough like the picture"),
    "low_margin": ("Abstained: low margin", "the two best candidates are too close to tell"),
    "no_candidates": ("No candidates", "nothing in the text leads to an entity"),
    "rare_entity": ("Rare entity", "too few labelled images of it in the run"),
    "eval_leak": ("Evaluation leak", "too close to an image of an evaluation set"),
}


@dataclass(frozen=True)
class Exhibit:
    """A decision with the rows that stand for it."""

    anchor: str
    title: str
    note: str
    total: int
    samples: list[Sample]


def write_report(  # noqa: PLR0917 - the parts of a run, in the order in which they came to be
    folder: Folder,
    summary: dict[str, Any],
    labels: ds.Dataset,
    rejects: ds.Dataset,
    source: Source,
    limits: Limits,
) -> None:
    """Write ``report.html`` into a finished run's folder.

    Args:
        folder: the run's folder. Its ``config.json`` is shown, and names the knowledge base in which entity titles are
            looked up; its ``entity_counts.parquet`` gives the images of each entity.
        summary: the run's ``summary.json``.
        labels: Parquet dataset of `schema.LABEL`; read a row group at a time.
        rejects: the same of `schema.REJECT`.
        source: gives the bytes of the sampled images.
        limits: what images are accepted.

    Raises:
        RaylabError: the folder cannot be written.
    """
    config = folder.read_json("config.json")
    counts = folder.read_parquet("entity_counts.parquet")
    found = survey(labels, rejects, SAMPLE)
    rows = [row for group in found.groups for row in group.rows]
    samples = make_samples(rows, source, limits, name_entities(entity_ids(rows), config["kb"]))
    html = render_report(summary, config, found, samples, counts)
    folder.write_bytes("report.html", html.encode("utf-8", "replace"))


def render_report(
    summary: dict[str, Any],
    config: dict[str, Any],
    found: Survey,
    samples: dict[str, Sample],
    entity_counts: pa.Table,
) -> str:
    """Return the report's HTML.

    Args:
        summary: as in ``summary.json``.
        config: the resolved config.
        found: distributions and groups of rows.
        samples: row id -> sample, for every row in `found`.
        entity_counts: ``images`` int64 and ``kept`` bool, a row an entity.
    """
    template = _environment().get_template("report.html.j2")
    top = summary.get("entities", {}).get("top", [])[:_TOP_SHOWN]
    return template.render(
        summary=summary,
        config=json.dumps(config, indent=2, ensure_ascii=False, default=str),
        charts=[asdict(chart) for chart in _charts(found, entity_counts, config.get("select", {}))],
        curve=precision_curve("Precision of the surest labels", found.score),
        exhibits=[_exhibit(group, samples) for group in _in_order(found.groups, summary)],
        top=top,
        most=max((images for _, _, images in top), default=1),
        width=WIDTH,
        height=HEIGHT,
    )


def _environment() -> Any:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("raylab.label"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    shown = (formats.count, formats.share, formats.percent, formats.figure, formats.duration, formats.words)
    environment.filters |= {function.__name__: function for function in (*shown, formats.kb_source)}
    return environment


def name_entities(ids: list[str], kb: str) -> dict[str, Named]:
    """Return what entities are called, by id; without those that the knowledge base does not know.

    Args:
        ids: entity ids.
        kb: the knowledge base's folder. Where it has gone since the run, ids stay without names: that costs the report
            some comfort, and is no reason to end a run that has its labels.
    """
    try:
        catalog = Catalog.open(kb)
    except RaylabError as error:
        logger.warning("The report shows ids instead of names: %s", error)
        return {}
    rows = catalog.rows(ids)
    found = catalog.take(rows[rows >= 0]).to_pylist()
    return {one["id"]: Named(one["title"], one["description"] or "") for one in found}


def _in_order(groups: list[Group], summary: dict[str, Any]) -> list[Group]:
    """Return labelled groups first, then the steps' rejects, the last step (the closest decisions) first."""
    place = {step["name"]: number for number, step in enumerate(summary["steps"])}
    return sorted(groups, key=lambda group: 0 if group.step is None else len(place) + 1 - place.get(group.step, 0))


def _exhibit(group: Group, samples: dict[str, Sample]) -> Exhibit:
    title, note = _EXPLAINED.get(group.decision, (formats.words(group.decision).capitalize(), ""))
    if group.step is not None:
        note = f"step {group.step}" + (f": {note}" if note else "")
    shown = [samples[row["row_id"]] for row in group.rows]
    return Exhibit(f"rows-{group.step or 'labelled'}-{group.decision}", title, note, group.total, shown)


def _charts(found: Survey, entity_counts: pa.Table, select: dict[str, Any]) -> list[Chart]:
    def unit(edge: float) -> str:
        return f"{edge:.3g}"

    images = Histogram(2.0 ** np.arange(0, 15))
    images.add("kept", entity_counts.filter(entity_counts["kept"])["images"])
    images.add("cut", entity_counts.filter(pc.invert(entity_counts["kept"]))["images"])
    charts = [
        lay_out(
            "Score of the image against the entity", found.score.coarse(25), 10, unit, threshold=select.get("min_score")
        ),
        lay_out(
            "Margin to the runner-up", found.margin.coarse(25), 10, unit, threshold=select.get("min_margin") or None
        ),
        lay_out("Score from the text alone", found.link_score.coarse(25), 10, unit),
        lay_out("Characters in a caption", found.caption_chars, 3, formats.count),
        lay_out("Images of an entity", images, 3, formats.count, unit="entities"),
    ]
    return [chart for chart in charts if chart is not None]
