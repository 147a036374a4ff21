"""Searches for dense-prediction cells."""

from __future__ import annotations

from dataclasses import replace

from raylab.dense.search_plan import ProxyConfig, SearchConfig
from raylab.recipes.segmentation import dpc_cityscapes, dpc_miniworld
from raylab.train.optim import OptimConfig


def dpc_search() -> SearchConfig:
    """The paper's search on Cityscapes (arXiv 1809.04184): 28K cells of 30K steps, the top 50 trained in full.

    The encoder is MobileNet-v2 with timm's ImageNet weights; the paper's saw COCO, too.
    """
    optim = OptimConfig(rate=5e-4, weight_decay=0.01)
    return SearchConfig(recipe="dpc_search", full=dpc_cityscapes(), proxy=ProxyConfig(optim=optim), gpus=0.25)


def dpc_search_miniworld() -> SearchConfig:
    """A search on a laptop: a small backbone of its own, 200 cells, some 25 minutes on two cores."""
    full = dpc_miniworld()
    return SearchConfig(
        recipe="dpc_search_miniworld",
        full=replace(full, steps=450),
        cells=200,
        top=5,
        backbone_steps=300,
        backbone_train="miniworld://?rows=2000&seed=8",
        proxy=ProxyConfig(steps=90, batch=8, optim=OptimConfig(rate=5e-3, warmup_steps=5, weight_decay=0.01)),
    )


def dpc_search_smoke() -> SearchConfig:
    """The same in seconds: four cells of three branches, one of them trained in full."""
    made = dpc_search_miniworld()
    full = replace(
        made.full,
        train="miniworld://?rows=16&seed=7",
        val="miniworld://?rows=8&seed=901",
        steps=2,
        batch=4,
        pixels=replace(made.full.pixels, crop=64, side=64),
        track=replace(made.full.track, project=""),
    )
    return replace(
        made,
        recipe="dpc_search_smoke",
        full=full,
        cells=4,
        branches=3,
        top=1,
        compare=(),
        backbone_steps=2,
        backbone_train="",
        proxy=replace(made.proxy, steps=4, looks=2, batch=4),
    )


SEARCH = {"dpc_search": dpc_search, "dpc_search_miniworld": dpc_search_miniworld, "dpc_search_smoke": dpc_search_smoke}
"""What ``jobs/search.py --recipe`` knows."""
