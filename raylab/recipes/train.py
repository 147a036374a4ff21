"""Training runs. Each has a class of its own, so that the command line knows the task's flags."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

from raylab.errors import RaylabError
from raylab.models.augment import ViewConfig
from raylab.models.captioner import CaptionShape
from raylab.models.dual_encoder import DualEncoderConfig
from raylab.models.git_module import GitShape
from raylab.models.mae import PixelShape
from raylab.models.text import TokenizerConfig
from raylab.recipes.devise import DEVISE
from raylab.recipes.label import MINIWORLD_CLIP, MINIWORLD_QUESTIONS
from raylab.recipes.miniworld import MINIWORLD_VIT, small
from raylab.recipes.transfer import TRANSFER
from raylab.sources.base import SourceConfig
from raylab.tasks.clip import ClipTask
from raylab.tasks.git import GitTask, TargetsConfig
from raylab.tasks.mofi import MofiTask
from raylab.tasks.mug import MugTask, WeightsConfig
from raylab.tasks.simclr import SimClrTask
from raylab.train.optim import OptimConfig
from raylab.train.plan import DataConfig, ParallelConfig, TrainConfig

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


@dataclass(frozen=True)
class MugRun(TrainConfig):
    """MUG, or one of its two parts, on raw alt-texts."""

    task: MugTask = field(default_factory=MugTask)


@dataclass(frozen=True)
class SimClrRun(TrainConfig):
    """SimCLR on pictures alone."""

    task: SimClrTask = field(default_factory=SimClrTask)


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


def mug_b16() -> MugRun:
    """MUG at ViT-B/16 (arXiv 2301.07088): masked pixels and caption, on all pairs as they came.

    Optimiser, batch and crop are MAE's (arXiv 2111.06377, appendix A.1: a rate of 1.5e-4 a batch of 256, no clipping).
    Steps are 400 epochs of CC3M's three million pairs, of which 5 in a hundred warm up, as in MAE's 800 epochs: our
    choice, as the paper's are not known to us.
    """
    return MugRun(
        recipe="mug_b16",
        task=MugTask(),
        steps=280_000,
        batch=4096,
        data=DataConfig(rows="all"),
        optim=OptimConfig(rate=2.4e-3, betas=(0.9, 0.95), epsilon=1e-8, warmup_steps=14_000, clip_norm=0.0),
        parallel=ParallelConfig(precision="bf16"),
    )


PIXELS_ALONE, CAPTIONS_ALONE = WeightsConfig(caption=0), WeightsConfig(reconstruction=0, caption=1)


def mae_b16() -> MugRun:
    """MAE at ViT-B/16 (arXiv 2111.06377): `mug_b16` without captions."""
    return replace(mug_b16(), recipe="mae_b16", task=MugTask(weights=PIXELS_ALONE))


def masked_caption_b16() -> MugRun:
    """Masked captioning at ViT-B/16: `mug_b16` without pixels."""
    return replace(mug_b16(), recipe="masked_caption_b16", task=MugTask(weights=CAPTIONS_ALONE))


def simclr_b16() -> SimClrRun:
    """SimCLR at ViT-B/16 (arXiv 2002.05709) on the pictures of the same pairs.

    Optimiser, batch and steps are those of `mug_b16`, which for ViTs are MoCo v3's too (arXiv 2104.02057: AdamW, 1.5e-4
    a batch of 256).
    """
    before = mug_b16()
    return SimClrRun(
        recipe="simclr_b16",
        task=SimClrTask(),
        steps=before.steps,
        batch=before.batch,
        data=before.data,
        optim=before.optim,
        parallel=before.parallel,
    )


def clip_miniworld() -> ClipRun:
    """The baseline on a laptop: minutes on two cores."""
    return ClipRun(recipe="clip_miniworld", task=ClipTask(MINIWORLD_ENCODER, "shift"), **small("all"))


def mofi_miniworld() -> MofiRun:
    """MOFI on a laptop: minutes on two cores."""
    return MofiRun(recipe="mofi_miniworld", task=MofiTask(MINIWORLD_ENCODER, "shift"), **small("labelled"))


def git_miniworld() -> GitRun:
    """The generative recogniser on a laptop: minutes on two cores."""
    task = GitTask(
        MINIWORLD_ENCODER,
        TokenizerConfig(MINIWORLD_CLIP.name),
        GitShape(width=128, layers=3, heads=4, dropout=0.0, context=16, target=24),
        crop="shift",
        encoder_rate=1.0,
    )
    return GitRun(recipe="git_miniworld", task=task, **small("labelled"))


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


def mug_miniworld() -> MugRun:
    """MUG on a laptop: minutes on two cores."""
    task = MugTask(
        MINIWORLD_VIT,
        TokenizerConfig(MINIWORLD_CLIP.name),
        PixelShape(width=64, layers=2, heads=4),
        CaptionShape(width=96, layers=2, heads=4, length=24),
        crop="shift",
    )
    return MugRun(recipe="mug_miniworld", task=task, **small("all"))


def mae_miniworld() -> MugRun:
    """MAE on a laptop: minutes on two cores."""
    made = mug_miniworld()
    return replace(made, recipe="mae_miniworld", task=replace(made.task, weights=PIXELS_ALONE))


def masked_caption_miniworld() -> MugRun:
    """Masked captioning on a laptop: minutes on two cores."""
    made = mug_miniworld()
    return replace(made, recipe="masked_caption_miniworld", task=replace(made.task, weights=CAPTIONS_ALONE))


def simclr_miniworld() -> SimClrRun:
    """SimCLR on a laptop: minutes on two cores. What a flag is lies in its colours, so they change little."""
    task = SimClrTask(MINIWORLD_VIT, ViewConfig(least_area=0.3, jitter=0.3, grey=0.0), hidden=192, dim=64)
    return SimClrRun(recipe="simclr_miniworld", task=task, **small("all"))


TRAIN = {
    "clip_b16": clip_b16,
    "mofi_b16": mofi_b16,
    "git_large": git_large,
    "git_oven": git_oven,
    "ger_ald": ger_ald,
    "mug_b16": mug_b16,
    "mae_b16": mae_b16,
    "masked_caption_b16": masked_caption_b16,
    "simclr_b16": simclr_b16,
    "clip_miniworld": clip_miniworld,
    "mofi_miniworld": mofi_miniworld,
    "git_miniworld": git_miniworld,
    "git_oven_miniworld": git_oven_miniworld,
    "mug_miniworld": mug_miniworld,
    "mae_miniworld": mae_miniworld,
    "masked_caption_miniworld": masked_caption_miniworld,
    "simclr_miniworld": simclr_miniworld,
    **TRANSFER,
    **DEVISE,
}
"""What ``jobs/train.py --recipe`` knows."""
