"""Training runs. Each has a class of its own, so that the command line knows the task's flags."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

from raylab.errors import RaylabError
from raylab.models.dual_encoder import DualEncoderConfig
from raylab.models.git_module import GitShape
from raylab.models.text import TokenizerConfig
from raylab.recipes.label import MINIWORLD_CLIP, MINIWORLD_QUESTIONS
from raylab.sources.base import SourceConfig
from raylab.tasks.clip import ClipTask
from raylab.tasks.git import GitTask, TargetsConfig
from raylab.tasks.mofi import MofiTask
from raylab.train.optim import OptimConfig
from raylab.train.plan import CheckpointConfig, DataConfig, ParallelConfig, TrackConfig, TrainConfig

MINIWORLD_ENCODER = DualEncoderConfig(name=MINIWORLD_CLIP.name, from_scratch=True)
"""The shipped CLIP's architecture and tokenizer, random weights."""


OVEN_MIX = ("*entity_*", "*query_*")
"""Shards of OVEN's two splits (`sources.oven`): half of each batch is of either."""
QUESTIONS_ALONE = TargetsConfig(entity=0, rationale=0)


@dataclass(frozen=True)
class ClipRun(TrainConfig):
    """CLIP on raw alt-texts."""

    task: ClipTask = field(default_factory=ClipTask)


@dataclass(frozen=True)
class MofiRun(TrainConfig):
    """MOFI on entity labels."""

    task: MofiTask = field(default_factory=MofiTask)


@dataclass(frozen=True)
class GitRun(TrainConfig):
    """The generative recogniser on annotated labels."""

    task: GitTask = field(default_factory=GitTask)

    def __post_init__(self) -> None:
        """Refuse a tower of random weights at a rate for one that has learnt: it would stay as good as random."""
        task = self.task
        if task.encoder_rate < 1 and not self.init and not task.pretrained and _is_random(task.encoder):
            raise RaylabError(
                f"{task.encoder.name} would start from random weights at {task.encoder_rate:g} times the decoder's "
                "rate: give --task.encoder.pretrained a tag or a checkpoint's path, begin with another run (--init), "
                "or let it learn as fast (--task.encoder-rate 1)."
            )


def _is_random(encoder: DualEncoderConfig) -> bool:
    """Tell whether nothing brings weights: an architecture's name alone does not, a folder and the hub do."""
    brings = "://" in encoder.name or encoder.name.startswith("hf-hub:") or Path(encoder.name).is_dir()
    return not encoder.pretrained and (encoder.from_scratch or not brings)


def clip_b16() -> ClipRun:
    """The alt-text baseline at ViT-B/16: the pairs of the label store as they came, labelled or not."""
    return ClipRun(
        recipe="clip_b16",
        task=ClipTask(),
        steps=100_000,
        batch=4096,
        data=DataConfig(rows="all"),
        parallel=ParallelConfig(precision="bf16"),
    )


def mofi_b16() -> MofiRun:
    """MOFI's multi-task model at ViT-B/16; batch and steps for eight GPUs, the paper's are 32K and 500K.

    As in the paper a picture may show several entities, one of which is drawn each time. Here a further one has to be
    likelier than all distractors of the labeling run together.
    """
    task = MofiTask(more_entities=0.5)
    return MofiRun(recipe="mofi_b16", task=task, steps=100_000, batch=4096, parallel=ParallelConfig(precision="bf16"))


PRETRAINED_TOWER = DualEncoderConfig(name="ViT-L-14", pretrained="laion2b_s32b_b82k")
"""The paper's tower learns on WebLI and CC12M first, which nobody else has; this one did on LAION-2B (MIT licence)."""


def git_large() -> GitRun:
    """The generative recogniser, 0.4 B parameters, on annotated labels (arXiv 2410.23676: 200K steps of 4096)."""
    return GitRun(
        recipe="git_large",
        task=GitTask(PRETRAINED_TOWER),
        steps=200_000,
        batch=4096,
        optim=OptimConfig(rate=1e-4, weight_decay=0.0, betas=(0.9, 0.999), warmup_steps=250),
        parallel=ParallelConfig(precision="bf16", checkpoint_activations=True),
    )


def ger_ald() -> GitRun:
    """GER: an entity's ALD code for a picture (arXiv 2403.02041); a code and its start are five tokens."""
    task = GitTask(
        PRETRAINED_TOWER,
        shape=GitShape(context=20, target=5),
        targets=TargetsConfig(rationale=0, questions=0),
        codes=True,
        smoothing=0.3,
    )
    return replace(git_large(), recipe="ger_ald", task=task, steps=600_000)


def git_oven() -> GitRun:
    """OVEN's questions, after `git_large`: ``--init`` its run (arXiv 2410.23676: 10K steps of 256, smoothing 0.1).

    Longer training forgets unseen entities. The paper takes the best of the rates 1e-7, 3e-7 and 1e-6 by validation;
    here they are the encoder's, and the decoder's ten times that, as in GER's code (arXiv 2403.02041), whose rate and
    warm-up these are.
    """
    return replace(
        git_large(),
        recipe="git_oven",
        task=replace(git_large().task, targets=QUESTIONS_ALONE, smoothing=0.1),
        steps=10_000,
        batch=256,
        data=DataConfig(mix=OVEN_MIX),
        optim=replace(git_large().optim, rate=3e-6),
    )


def clip_miniworld() -> ClipRun:
    """The baseline on a laptop: minutes on two cores."""
    return ClipRun(recipe="clip_miniworld", task=ClipTask(MINIWORLD_ENCODER, "shift"), **_small("all"))


def mofi_miniworld() -> MofiRun:
    """MOFI on a laptop: minutes on two cores."""
    return MofiRun(recipe="mofi_miniworld", task=MofiTask(MINIWORLD_ENCODER, "shift"), **_small("labelled"))


def git_miniworld() -> GitRun:
    """The generative recogniser on a laptop: minutes on two cores."""
    task = GitTask(
        MINIWORLD_ENCODER,
        TokenizerConfig(MINIWORLD_CLIP.name),
        GitShape(width=128, layers=3, heads=4, dropout=0.0, context=16, target=24),
        crop="shift",
        encoder_rate=1.0,
    )
    return GitRun(recipe="git_miniworld", task=task, **_small("labelled"))


def git_oven_miniworld() -> GitRun:
    """The mini-world's questions, after `git_miniworld`: a higher rate, or longer, forgets unseen entities."""
    before = git_miniworld()
    return replace(
        before,
        recipe="git_oven_miniworld",
        steps=100,
        batch=32,
        task=replace(before.task, targets=QUESTIONS_ALONE, smoothing=0.1),
        source=SourceConfig(uri=MINIWORLD_QUESTIONS),
        data=replace(before.data, mix=OVEN_MIX),
        optim=replace(before.optim, rate=5e-5),
    )


def _small(rows: str) -> dict:
    return {
        "source": SourceConfig(uri="miniworld://?rows=2000&seed=7"),
        "steps": 300,
        "batch": 64,
        "accelerator": "cpu",
        "data": DataConfig(rows=rows, window_rows=5_000, task_rows=256),
        "optim": OptimConfig(rate=2e-3, table_rate=1e-2, warmup_steps=20),
        "parallel": ParallelConfig(threads=1),
        "checkpoint": CheckpointConfig(every=100),
        "track": TrackConfig(every=10),
    }


TRAIN = {
    "clip_b16": clip_b16,
    "mofi_b16": mofi_b16,
    "git_large": git_large,
    "git_oven": git_oven,
    "ger_ald": ger_ald,
    "clip_miniworld": clip_miniworld,
    "mofi_miniworld": mofi_miniworld,
    "git_miniworld": git_miniworld,
    "git_oven_miniworld": git_oven_miniworld,
}
"""What ``jobs/train.py --recipe`` knows."""
