"""What W&B is told of a finished labeling or annotation run: its steps, its entities, its samples, its files."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from raylab.config import to_dict
from raylab.label.exhibits import Exhibit
from raylab.label.plan import LabelConfig
from raylab.label.samples import Sample
from raylab.storage import Folder
from raylab.tracking import WANDB, open_run

ATTACHED = ("config.json", "summary.json", "README.md", "report.html")
"""Files of the run that W&B keeps, too."""
STEP_COLUMNS = ("name", "rows_in", "rows_out", "failed", "worker_seconds", "rows_per_s")
FIGURES = ("rows_in", "labelled", "rejected", "failed", "seconds", "truth", "annotation")
"""Of the run's summary, those that W&B compares runs by."""
CAPTION_SHOWN = 200
"""Characters of a row's caption under its picture."""


def track(config: LabelConfig, folder: Folder, summary: Mapping[str, Any], exhibits: Sequence[Exhibit]) -> None:
    """Tell W&B of a finished run, once: the same line again has nothing new to tell."""
    if not config.track.project or folder.exists(WANDB):
        return
    job_type = "annotate" if "annotation" in summary else "label"
    with open_run(folder, config.track, to_dict(config), job_type) as run:
        run.add_table("steps", STEP_COLUMNS, ([step[name] for name in STEP_COLUMNS] for step in summary["steps"]))
        run.add_table("rejected", ("step", "reason", "rows"), _rejected(summary["steps"]))
        run.add_table("entities", ("entity_id", "entity_name", "images"), summary["entities"]["top"])
        for exhibit in exhibits:
            if pictures := list(_pictures(exhibit.samples)):
                run.add_images(f"samples/{exhibit.title}", pictures, "jpg")
        run.summarise({name: summary[name] for name in FIGURES if name in summary})
        run.attach(ATTACHED)


def _rejected(steps: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, str, int]]:
    for step in steps:
        for reason, rows in step["rejected"].items():
            yield step["name"], reason, rows


def _pictures(samples: Sequence[Sample]) -> Iterator[tuple[Any, str]]:
    """Yield the report's thumbnails, which this run has encoded itself, with what was decided of each."""
    from PIL import Image

    for sample in samples:
        if sample.thumbnail.uri is not None:
            data = base64.b64decode(sample.thumbnail.uri.partition(",")[2])
            yield Image.open(io.BytesIO(data)).convert("RGB"), _caption(sample)


def _caption(sample: Sample) -> str:
    row = sample.row
    lines = [sample.entity.title if sample.entity else "no entity"]
    if row["score"] is not None:
        lines[0] += f" ({row['score']:.3f})"
    if sample.note is not None and sample.note.decision:
        lines.append(f"{sample.note.decision}, was {sample.note.before or 'none'}")
    if sample.truth is not None:
        lines.append(f"truth: {', '.join(sample.truth) or 'none'}")
    return "\n".join([*lines, (row["caption"] or "")[:CAPTION_SHOWN]])
