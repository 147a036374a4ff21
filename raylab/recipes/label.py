"""Labeling runs: ``i2e`` for the web, ``miniworld`` for the demo, ``oven`` for questions whose answers are known."""

from __future__ import annotations

from dataclasses import replace

from raylab.label.given import GivenConfig
from raylab.label.mentions import MentionsConfig
from raylab.label.plan import LabelConfig, Pool, Pools, StoreConfig
from raylab.label.select import SelectConfig
from raylab.models.clip import ClipConfig
from raylab.sources.base import SourceConfig

MINIWORLD_CLIP = ClipConfig(name="package://raylab.sources.miniworld/assets/clip", pretrained=None)
MINIWORLD_SPACY = "package://raylab.sources.miniworld/assets/spacy"
MINIWORLD_QUESTIONS = "oven://miniworld://?rows=2000&seed=7"


def i2e() -> LabelConfig:
    """MOFI's image-to-entities labels (paper, section 1): mentions, linking by text, CLIP picks the entity.

    As it stands for a machine without a GPU. With GPUs: ``--pools.select.num-gpus 1 --pools.select.max-actors N``.
    """
    return LabelConfig(recipe="i2e", source=SourceConfig(uri=""))


def miniworld() -> LabelConfig:
    """The embedded mini-world with the models that ship in the package: nothing is downloaded."""
    return LabelConfig(
        recipe="miniworld",
        source=SourceConfig(uri="miniworld://?rows=2000&seed=7"),
        mentions=MentionsConfig(spacy=MINIWORLD_SPACY),
        select=SelectConfig(clip=MINIWORLD_CLIP, link_weight=0.0, min_score=0.05, min_margin=0.05),
        # One pool: on a laptop's cores a second one would only load the models once more.
        pools=Pools(mentions=Pool(min_actors=2, max_actors=2, num_cpus=0.75), select=Pool(join_previous=True)),
        store=StoreConfig(min_entity_images=2),
    )


def oven() -> LabelConfig:
    """OVEN's training questions with their answers (arXiv 2302.11154), as `recipes.train.git_oven` learns them.

    Seen entities are few, and each is wanted: none is cut for being rare.
    """
    return LabelConfig(
        recipe="oven",
        source=SourceConfig(uri=""),
        given=GivenConfig(enabled=True),
        store=StoreConfig(min_entity_images=1),
    )


def oven_miniworld() -> LabelConfig:
    """The same of the embedded mini-world, whose questions have OVEN's form."""
    return replace(oven(), recipe="oven_miniworld", source=SourceConfig(uri=MINIWORLD_QUESTIONS))
