"""A small search, and maps that need no encoder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from raylab.dense.features import ABOUT, FeatureMaps
from raylab.dense.plan import absolute
from raylab.dense.proxy import feature_plans
from raylab.dense.search_plan import SearchConfig
from raylab.recipes.search import dpc_search_smoke
from raylab.storage import Folder


def small_search(out: Path, **changes: Any) -> SearchConfig:
    """Return a search of seconds in a folder."""
    return replace(dpc_search_smoke(), out=str(out), **changes)


def search_on_maps(out: Path, **changes: Any) -> SearchConfig:
    """Return a search whose maps are there, and whose encoder nobody opens: nothing is trained in full."""
    made = small_search(out, top=0, **changes)
    encoder = replace(made.full.task.encoder, weights=str(out / "nowhere"))
    made = replace(made, full=absolute(replace(made.full, task=replace(made.full.task, encoder=encoder))))
    for plan, seed in zip(feature_plans(made), (0, 1)):
        small_maps(Path(plan.folder), len(plan.images), seed, plan.fingerprint)
    return made


def small_maps(folder: Path, rows: int = 70, seed: int = 0, fingerprint: str = "") -> FeatureMaps:
    """Write maps whose first channel tells the class, two parts of them."""
    draw = np.random.default_rng(seed)
    mask = draw.integers(0, 3, (rows, 4, 4)).astype(np.uint8)
    maps = draw.normal(0, 0.3, (rows, 5, 4, 4)) + mask[:, None]
    folder.mkdir(parents=True)
    for part in range(-(-rows // 64)):
        some = slice(64 * part, 64 * (part + 1))
        np.save(folder / f"{part:05d}.maps.npy", maps[some].astype(np.float16))
        np.save(folder / f"{part:05d}.masks.npy", mask[some].repeat(8, 1).repeat(8, 2))
    about = {"fingerprint": fingerprint, "rows": rows, "classes": ["a", "b", "c"], "map": [5, 4, 4], "stride": 8}
    Folder(str(folder)).write_json(ABOUT, about)
    return FeatureMaps(str(folder))
