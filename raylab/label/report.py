"""The report of a run: one HTML file that shows what each step did, and to which rows.

The file is self-contained and needs no script: styles, figures (SVG) and thumbnails (data URIs) lie inside, and its content
security policy forbids it to load anything. Everything that came from a caption, a key or a config is escaped.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds

from raylab.label.charts import HEIGHT, WIDTH, Chart, lay_out
from raylab.label.samples import Names, Sample, entity_ids, make_samples, words
from raylab.label.survey import Group, Histogram, Survey, survey
from raylab.sources.base import Limits, Source
from raylab.storage import Folder

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


def write_report(
    folder: Folder,
    summary: dict[str, Any],
    labels: ds.Dataset,
    rejects: ds.Dataset,
    source: Source,
    limits: Limits,
    names: Names | None = None,
) -> None:
    """Write ``report.html`` into a finished run's folder.

    Args:
        folder: the run's folder. Its ``config.json`` and ``entity_counts.parquet`` are shown where they are there.
        summary: the run's ``summary.json``.
        labels: Parquet dataset of `schema.LABEL`; read a row group at a time.
        rejects: the same of `schema.REJECT`.
        source: gives the bytes of the sampled images.
        limits: what images are accepted.
        names: looks up entity titles, usually in the knowledge base; without it, candidates that were never chosen show
            their ids.

    Raises:
        RaylabError: the folder cannot be written.
    """
    config = folder.read_json("config.json") if folder.exists("config.json") else {}
    counts = folder.read_parquet("entity_counts.parquet") if folder.exists("entity_counts.parquet") else None
    found = survey(labels, rejects, SAMPLE)
    rows = [row for group in found.groups for row in group.rows]
    samples = make_samples(rows, source, limits, _titles(rows, counts, names))
    html = render_report(summary, config, found, samples, counts)
    folder.write_bytes("report.html", html.encode("utf-8", "replace"))


def render_report(
    summary: dict[str, Any],
    config: dict[str, Any],
    found: Survey,
    samples: dict[str, Sample],
    entity_counts: pa.Table | None = None,
) -> str:
    """Return the report's HTML.

    Args:
        summary: as in ``summary.json``.
        config: the resolved config.
        found: distributions and groups of rows.
        samples: row id -> sample, for every row in `found`.
        entity_counts: ``entity_id, entity_name, images``; None leaves their histogram out.
    """
    template = _environment().get_template("report.html.j2")
    top = summary.get("entities", {}).get("top", [])[:_TOP_SHOWN]
    return template.render(
        summary=summary,
        config=json.dumps(config, indent=2, ensure_ascii=False, default=str),
        charts=[asdict(chart) for chart in _charts(found, entity_counts)],
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
    environment.filters |= {"count": _count, "share": _share, "percent": _percent}
    environment.filters |= {"words": words, "figure": _figure, "duration": _duration}
    return environment


def _titles(rows: list[dict], counts: pa.Table | None, names: Names | None) -> dict[str, str]:
    """Return id -> title for the entities that `rows` speak of: from the knowledge base, else from the labels."""
    ids = entity_ids(rows)
    titles: dict[str, str] = {}
    if counts is not None:
        wanted = counts.filter(ds.field("entity_id").isin(ids))
        titles |= dict(zip(wanted["entity_id"].to_pylist(), wanted["entity_name"].to_pylist()))
    if names is not None:
        titles |= {one: name for one, name in zip(ids, names(ids)) if name}
    return {one: name for one, name in titles.items() if name}


def _in_order(groups: list[Group], summary: dict[str, Any]) -> list[Group]:
    """Return labelled groups first, then the steps' rejects, the last step (the closest decisions) first."""
    place = {step["name"]: number for number, step in enumerate(summary["steps"])}
    return sorted(groups, key=lambda group: 0 if group.step is None else len(place) + 1 - place.get(group.step, 0))


def _exhibit(group: Group, samples: dict[str, Sample]) -> Exhibit:
    title, note = _EXPLAINED.get(group.decision, (words(group.decision).capitalize(), ""))
    if group.step is not None:
        note = f"step {group.step}" + (f": {note}" if note else "")
    shown = [samples[row["row_id"]] for row in group.rows]
    return Exhibit(f"rows-{group.step or 'labelled'}-{group.decision}", title, note, group.total, shown)


def _charts(found: Survey, entity_counts: pa.Table | None) -> list[Chart]:
    def unit(edge: float) -> str:
        return f"{edge:.3g}"

    def whole(edge: float) -> str:
        return f"{edge:,.0f}"

    images = Histogram(2.0 ** np.arange(0, 15))
    if entity_counts is not None:
        images.add("entities", entity_counts["images"])
    charts = [
        lay_out("Score of the image against the entity", found.score, 10, unit),
        lay_out("Margin to the runner-up", found.margin, 10, unit),
        lay_out("Score from the text alone", found.link_score, 10, unit),
        lay_out("Characters in a caption", found.caption_chars, 3, whole),
        lay_out("Images of an entity", images, 3, whole, "entities"),
    ]
    return [chart for chart in charts if chart is not None]


def _count(number: float) -> str:
    return f"{number:,.0f}"


def _share(part: float, whole: float) -> str:
    return f"{100 * part / whole:.1f} %" if whole else "none"


def _percent(part: float, whole: float) -> str:
    """Return a CSS width's number."""
    return f"{100 * min(1.0, part / whole):.2f}".rstrip("0").rstrip(".") if whole else "0"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if minutes else f"{seconds:.1f} s"
    return f"{minutes // 60} h {minutes % 60} min"


def _figure(number: float | None) -> str:
    return "" if number is None else f"{number:.3f}"
