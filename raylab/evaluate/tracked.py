"""What W&B is told of a finished evaluation: its scores, its plots, its files."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

from raylab.evaluate.plan import EvaluateConfig
from raylab.storage import Folder
from raylab.tracking import open_run

ATTACHED = ("config.json", "scores.json", "report.html")
"""Files of the run that W&B keeps, too."""
NAMES = ("benchmark", "protocol", "part", "metric")
"""Of a score."""


def track(
    config: EvaluateConfig, folder: Folder, summary: Mapping[str, Any], plots: Mapping[str, tuple[str, bytes]]
) -> None:
    """Tell W&B of a finished evaluation.

    Args:
        config: the run's.
        folder: the run's folder.
        summary: as in scores.json.
        plots: file -> title and PNG.
    """
    if not config.track.project:
        return
    from PIL import Image

    scores = summary["scores"]
    with open_run(folder, config.track, summary["config"], "evaluate") as run:
        columns = (*NAMES, "value", "count")
        run.add_table("scores", columns, ([score[name] for name in columns] for score in scores))
        run.summarise({"/".join(score[name] for name in NAMES): score["value"] for score in scores})
        run.summarise({"seconds": summary["seconds"], "refused": sum(summary["refused"].values())})
        for file, (title, data) in plots.items():
            run.add_images(file.removesuffix(".png"), [(Image.open(io.BytesIO(data)), title)])
        run.attach(ATTACHED)
