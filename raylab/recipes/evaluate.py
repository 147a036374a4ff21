"""Evaluation runs: ``standard`` for any model, ``miniworld`` for the demo, ``smoke`` for a test of seconds."""

from __future__ import annotations

from raylab.evaluate.embedding import EmbeddingConfig
from raylab.evaluate.matching import MatchingConfig
from raylab.evaluate.oven import OvenConfig
from raylab.evaluate.plan import EvaluateConfig
from raylab.evaluate.probe import ProbeConfig
from raylab.evaluate.zero_shot import ZeroShotConfig
from raylab.recipes.label import MINIWORLD_CLIP


def standard() -> EvaluateConfig:
    """Leave-one-out retrieval; other benchmarks by ``--suite``, each with its data."""
    return EvaluateConfig()


def miniworld() -> EvaluateConfig:
    """All that the embedded mini-world has data for, with the CLIP that ships in the package: nothing is downloaded.

    Seeds that no recipe trains or labels on. OVEN's questions need ``--kb``, label quality a label store: they join by
    ``--suite``.
    """
    return EvaluateConfig(
        recipe="miniworld",
        model=MINIWORLD_CLIP.name,
        suite="retrieval,zero_shot,probe,matching",
        data="miniworld://?rows=600&seed=901",
        oven=OvenConfig(questions="miniworld://?rows=1500&seed=903"),
        zero_shot=ZeroShotConfig(prompts="cifar100"),  # as many texts as two cores embed in a moment
        embedding=EmbeddingConfig(edges="miniworld://"),
        probe=ProbeConfig(train="miniworld://?rows=1200&seed=902"),
        matching=MatchingConfig(memory="miniworld://?rows=1200&seed=902"),
    )


def smoke() -> EvaluateConfig:
    """The same in seconds: a small world, no plots."""
    from dataclasses import replace

    small = "miniworld://?rows=200&seed=902"
    return replace(
        miniworld(),
        recipe="smoke",
        data="miniworld://?rows=120&seed=901",
        oven=OvenConfig(questions="miniworld://?rows=150&seed=903"),
        probe=ProbeConfig(train=small, strengths=(1.0, 100.0)),
        matching=MatchingConfig(memory=small),
        plots=False,
    )


EVALUATE = {"standard": standard, "miniworld": miniworld, "smoke": smoke}
"""What ``jobs/evaluate.py --recipe`` knows."""
