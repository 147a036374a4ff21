"""The report of a run: one HTML file that shows what each step did, and to which rows.

The file is self-contained and needs no script: styles, figures (SVG) and thumbnails (data URIs) lie inside, and its
content security policy forbids it to load anything. Everything that came from a caption, a key or a config is escaped.
"""

from __future__ import annotations

import json
import logging
from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from raylab.errors import RaylabError
from raylab.kb.catalog import Catalog
from raylab.label import formats
from raylab.label.calibration import Scored, calibration
from raylab.label.charts import HEIGHT, WIDTH, Chart, lay_out, lowest_precision, precision_curve, reliability
from raylab.label.exhibits import Exhibit, in_order, make_exhibit, of_annotator
from raylab.label.judging import AUDIT
from raylab.label.samples import Named, Sample, entity_ids, make_samples
from raylab.label.survey import Histogram, Survey, survey
from raylab.sources.base import Limits, Source
from raylab.storage import Folder

logger = logging.getLogger(__name__)

SAMPLE = 8
"""Rows shown for each decision."""
_TOP_SHOWN = 20
_JUDGES = {"review": "people", "truth": "the known truth"}


def write_report(  # noqa: PLR0917 - the parts of a run, in the order in which they came to be
    folder: Folder,
    summary: dict[str, Any],
    labels: ds.Dataset,
    rejects: ds.Dataset,
    source: Source,
    limits: Limits,
) -> list[Exhibit]:
    """Write ``report.html`` into a finished run's folder.

    Args:
        folder: the run's folder. Its ``config.json`` is shown, and names the knowledge base in which entity titles are
            looked up; its ``entity_counts.parquet`` gives the images of each entity; its ``audit.json``, where there is
            one, what judges said.
        summary: the run's ``summary.json``.
        labels: Parquet dataset of `schema.LABEL`; read a row group at a time.
        rejects: the same of `schema.REJECT`.
        source: gives the bytes of the sampled images.
        limits: what images are accepted.

    Returns:
        The rows that are shown.

    Raises:
        RaylabError: the folder cannot be written.
    """
    config = folder.read_json("config.json")
    counts = folder.read_parquet("entity_counts.parquet")
    found = survey(labels, rejects, SAMPLE)
    rows = [row for group in found.groups for row in group.rows]
    samples = make_samples(rows, source, limits, name_entities(entity_ids(rows), config["kb"]))
    audit = folder.read_json(AUDIT) if folder.exists(AUDIT) else None
    html = render_report(summary, config, found, samples, counts, audit)
    folder.write_bytes("report.html", html.encode("utf-8", "replace"))
    return [make_exhibit(group, samples) for group in in_order(found.groups, summary)]


def render_report(  # noqa: PLR0917 - the parts of a page
    summary: dict[str, Any],
    config: dict[str, Any],
    found: Survey,
    samples: dict[str, Sample],
    entity_counts: pa.Table,
    audit: dict[str, Any] | None = None,
) -> str:
    """Return the report's HTML.

    Args:
        summary: as in ``summary.json``.
        config: the resolved config.
        found: distributions and groups of rows.
        samples: row id -> sample, for every row in `found`.
        entity_counts: ``images`` int64 and ``kept`` bool, a row an entity.
        audit: as in ``audit.json``, where decisions were judged.
    """
    template = _environment().get_template("report.html.j2")
    top = summary.get("entities", {}).get("top", [])[:_TOP_SHOWN]
    groups = in_order(found.groups, summary)
    return template.render(
        summary=summary,
        config=json.dumps(config, indent=2, ensure_ascii=False, default=str),
        charts=[asdict(chart) for chart in _charts(found, entity_counts, config.get("select", {}))],
        curve=None if "annotation" in summary else precision_curve("Precision of the surest labels", found.score),
        exhibits=[make_exhibit(group, samples) for group in groups if not of_annotator(group)],
        audit=audit,
        annotator=_annotator(
            summary, found, audit, [make_exhibit(one, samples) for one in groups if of_annotator(one)]
        ),
        top=top,
        most=max((images for _, _, images in top), default=1),
        part=(found.looked_at, found.rows) if found.looked_at < found.rows else None,
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


def _annotator(
    summary: dict[str, Any], found: Survey, audit: dict[str, Any] | None, exhibits: list[Exhibit]
) -> dict[str, Any] | None:
    """Return what the annotator's section shows; None for a run without one."""
    if "annotation" not in summary:
        return None
    floor = min(lowest_precision(found.confidence), lowest_precision(found.score))
    figures: list[Any] = [
        precision_curve("Precision, the surest by confidence first", found.confidence, floor),
        precision_curve("The same, by the selection's score", found.score, floor),
    ]
    titles = {"confidence": "Is confidence the probability of being right?", "score": "Is the selection's score?"}
    diagrams = []
    for name, histogram in (("confidence", found.confidence), ("score", found.score)):
        right, wrong = (histogram.series.get(one, np.zeros(len(histogram.edges) - 1)) for one in ("right", "wrong"))
        known = calibration(Scored.of_histogram(histogram.edges, right, wrong), whole=True)
        judged_by = "the known truth"
        if not known["bins"] and audit and name in audit["calibration"]:
            known, judged_by = audit["calibration"][name], _JUDGES[audit["measured_by"]]
        diagrams.append(reliability(titles[name], known, judged_by))
    chart = lay_out("Confidence of the annotator", found.confidence.coarse(25), 10, lambda edge: f"{edge:.3g}")
    return {
        "exhibits": exhibits,
        "histogram": None if chart is None else asdict(chart),
        "curves": [one for one in figures if one is not None],
        "diagrams": [one for one in diagrams if one is not None],
    }
