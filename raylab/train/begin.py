"""How a run begins, or goes on: only with what it was begun with."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

from raylab.config import check_same, to_dict
from raylab.errors import RaylabError
from raylab.kb.catalog import Catalog
from raylab.storage import Folder
from raylab.train.examples import POINTER, part_names
from raylab.train.plan import TrainConfig

logger = logging.getLogger(__name__)

ERROR = "error.json"
"""In a run's folder: why a worker ended it."""
FREE = ("steps", "out", "shared_disk", "checkpoint", "track", "parallel", "accelerator", "data.task_rows", "init")
"""Fields that may differ when a run goes on; all others make another run."""


def completed(config: TrainConfig) -> TrainConfig:
    """Return the config with the knowledge base that the labels were made with, where it names none."""
    if config.kb or not config.labels:
        return config
    labels = Folder(config.labels)
    kb = str(labels.read_json("config.json").get("kb") or "") if labels.exists("config.json") else ""
    if kb:
        logger.info("--kb is not given: it is %s, as of the labels", kb)
    return replace(config, kb=kb)


def begin(config: TrainConfig, out: Folder, labels: Folder, kb: Catalog) -> None:
    """Write the run's config, or refuse to go on with another one's run."""
    found = part_names(labels, config.data.rows)
    made_with = labels.read_json("run.json").get("kb")
    if made_with and made_with != kb.info.fingerprint:
        raise RaylabError(
            f"{labels.uri} was labelled with knowledge base {made_with}, {config.kb} is {kb.info.fingerprint}: "
            "give --kb the one that the labels were made with."
        )
    now = to_dict(config) | {"label_parts": found}
    if out.exists("config.json"):
        check_same(_bound(out.read_json("config.json")), _bound(now), f"{out.uri} holds a run with another config")
    _check_steps(config, out)
    out.write_json("config.json", now)
    out.remove(ERROR)


def _check_steps(config: TrainConfig, out: Folder) -> None:
    """Raise `RaylabError` where the run is further than it is to go."""
    if not out.exists(POINTER):
        return
    made = int(out.read_json(POINTER)["step"])
    if made > config.steps:
        raise RaylabError(
            f"{out.uri} has a checkpoint of step {made}, and --steps {config.steps} ends before: give --steps {made} "
            "or more, or another --out."
        )


def _bound(config: dict[str, Any]) -> dict[str, Any]:
    """Return the fields that make a run what it is."""
    kept = {name: value for name, value in config.items() if name not in FREE}
    return kept | {"data": {name: value for name, value in config["data"].items() if f"data.{name}" not in FREE}}
