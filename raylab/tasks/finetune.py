"""Transfer of a pretrained encoder: a classifier of entities on top of it (MAE, arXiv 2111.06377, appendix A.1).

`FinetuneTask` tunes all of it, `LinearProbeTask` a linear map alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from torch.nn.functional import cross_entropy

from raylab.errors import RaylabError
from raylab.kb.catalog import Catalog
from raylab.models.classifier import Classifier, LinearProbe
from raylab.models.mae import VitConfig
from raylab.models.mixing import MixConfig, targets
from raylab.tasks.base import Arrays, Group, ImageInput, TaskContext, decay_groups
from raylab.tasks.classes import Classes
from raylab.tasks.encoder import EncoderLearner, EncoderTask, layered_groups

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True)
class FinetuneTask(EncoderTask):
    """An encoder and a head over the entities of the labels; all of it learns."""

    encoder: VitConfig = field(default_factory=VitConfig)
    """`VitConfig.weights`: a pretraining run's folder; empty: what is learnt from nothing."""
    mixing: MixConfig = field(default_factory=MixConfig)
    layer_decay: float = 0.65
    """A block's rate, as a share of that of the block behind it (arXiv 2111.06377, table 9: ViT-L has 0.75)."""
    drop_path: float = 0.1
    """Share of the last block's branches that are left out in training; fewer before it (ViT-L: 0.2)."""
    crop: str = "inception"
    """See `tasks.base.ImageInput`."""

    def __post_init__(self) -> None:
        """Refuse shares that are none."""
        if not 0 < self.layer_decay <= 1:
            raise RaylabError(f"task.layer_decay={self.layer_decay}: give a number above 0, and 1 at most.")
        if not 0 <= self.drop_path < 1:
            raise RaylabError(f"task.drop_path={self.drop_path}: give a number from 0 to below 1.")

    def collator(self, context: TaskContext) -> EntityCollator:
        """See `tasks.base.TaskConfig`."""
        return EntityCollator(ImageInput(self.encoder.side, self.crop), context, self.mixing)

    def learner(self, context: TaskContext) -> FinetuneLearner:
        """See `tasks.base.TaskConfig`."""
        return FinetuneLearner(self, context)


@dataclass(frozen=True)
class LinearProbeTask(EncoderTask):
    """A linear map from a frozen encoder's vectors to the entities of the labels."""

    encoder: VitConfig = field(default_factory=VitConfig)
    """`VitConfig.weights`: a pretraining run's folder; empty: random vectors."""
    crop: str = "inception"
    """See `tasks.base.ImageInput`."""

    def collator(self, context: TaskContext) -> EntityCollator:
        """See `tasks.base.TaskConfig`."""
        return EntityCollator(ImageInput(self.encoder.side, self.crop), context)

    def learner(self, context: TaskContext) -> LinearProbeLearner:
        """See `tasks.base.TaskConfig`."""
        return LinearProbeLearner(self, context)


class EntityCollator:
    """``class_B`` int64: the entity's number; ``mix_BR`` float32, where pictures are mixed: see `MixConfig.draw`."""

    columns: Sequence[str] = ("entity_id",)

    def __init__(self, image: ImageInput, context: TaskContext, mixing: MixConfig | None = None) -> None:
        self.image: ImageInput = image
        self.mixing, self.classes = mixing, Classes(context.run, context.kb)

    def usable(self, rows: pa.Table) -> np.ndarray:
        """Rows with an entity."""
        return rows["entity_id"].is_valid().to_numpy()

    def __call__(self, rows: pa.Table, draws: Sequence[np.random.Generator]) -> Arrays:
        """See `tasks.base.Collator`."""
        found = {"class_B": self.classes.numbers(rows["entity_id"].combine_chunks())}
        if self.mixing is None:
            return found
        return found | {"mix_BR": np.stack([self.mixing.draw(self.image.size, draw) for draw in draws])}


class ClassifierLearner(EncoderLearner):
    """What both tasks share: see `tasks.base.Learner`.

    Args:
        module: takes pictures, returns ``logit_BC``; `save` takes the classes' names.
        context: of the run.
    """

    def __init__(self, module: nn.Module, context: TaskContext) -> None:
        super().__init__(module)
        self.context = context

    def inputs(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        """Pictures."""
        return (batch["image_BHWC"],)

    def losses(self, outputs: Mapping[str, Tensor], batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Cross-entropy, and ``top1``: the share of pictures whose likeliest class is theirs."""
        logit_BC, class_B = outputs["logit_BC"].float(), batch["class_B"]
        right_B = logit_BC.argmax(1) == class_B
        return {"loss": cross_entropy(logit_BC, self._wanted(batch)), "top1": right_B.float().mean()}

    def _wanted(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Return each picture's class, or the probabilities of all."""
        return batch["class_B"]

    def describe(self, batch: Mapping[str, Tensor]) -> list[str]:
        """The likeliest class and the right one."""
        likeliest_B = self.module(*self.inputs(batch))["logit_BC"].argmax(1)
        names = list(self._names().values())
        pairs = zip(likeliest_B.tolist(), batch["class_B"].tolist())
        return [f"{names[said]} (right: {names[right]})" for said, right in pairs]

    def save(self, folder: Path) -> None:
        """Write encoder and head as a folder of timm that `models.image_encoder` opens, without the head."""
        self.module.save(folder, self._names())

    def _names(self) -> dict[str, str]:
        """Return the classes in their order: entity id -> title."""
        rows = Classes(self.context.run, self.context.kb).kb_rows
        found = Catalog.open(self.context.kb).take(rows, ("id", "title"))
        return dict(zip(found["id"].to_pylist(), found["title"].to_pylist()))


class FinetuneLearner(ClassifierLearner):
    """See `tasks.base.Learner`."""

    module: Classifier

    def __init__(self, config: FinetuneTask, context: TaskContext) -> None:
        super().__init__(Classifier(config.encoder, _classes(context), config.drop_path), context)
        self.config = config

    def inputs(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        """Pictures, and how they are mixed in training."""
        return batch["image_BHWC"], batch["mix_BR"]

    def _wanted(self, batch: Mapping[str, Tensor]) -> Tensor:
        if not self.module.training:
            return batch["class_B"]
        classes: int = self.module.vit.num_classes
        return targets(batch["class_B"], batch["mix_BR"], classes, self.config.mixing.smoothing)

    def groups(self) -> list[Group]:
        """Each block's parameters, by timm's layer decay; class token and positions do not decay, as in MAE."""
        return layered_groups(self.module.vit, self.config.layer_decay)


class LinearProbeLearner(ClassifierLearner):
    """See `tasks.base.Learner`."""

    module: LinearProbe

    def __init__(self, config: LinearProbeTask, context: TaskContext) -> None:
        super().__init__(LinearProbe(config.encoder, _classes(context)), context)
        self.config = config

    def groups(self) -> list[Group]:
        """The linear map's."""
        return decay_groups(self.module)


def _classes(context: TaskContext) -> int:
    """Return how many there are; the run's own table says so also where the context does not."""
    return len(Classes(context.run, context.kb))
