"""DeViSE (Frome et al., NeurIPS 2013): pictures to the word vectors of their entities' names, by a hinge rank loss.

`SoftmaxTask` is the baseline, and what the paper's encoder learns first: the same network with a softmax over the same
entities. Both leave out the entities that are to stay unseen.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from raylab.errors import RaylabError
from raylab.kb.catalog import Catalog
from raylab.kb.words import NameVectors, open_words
from raylab.models.devise import Devise, rank_losses
from raylab.models.mae import VitConfig
from raylab.tasks.base import Arrays, Group, ImageInput, TaskContext, decay_groups
from raylab.tasks.classes import Classes
from raylab.tasks.encoder import EncoderTask
from raylab.tasks.finetune import ClassifierLearner, EntityCollator

if TYPE_CHECKING:
    from torch import Tensor

MINIWORLD = "miniworld://"


class _NamedTask(EncoderTask):
    """What both have in common: entities that no picture of may be learnt from."""

    unseen: str

    def located(self, whole: Callable[[str], str]) -> Self:
        """See `tasks.base.Located`."""
        return replace(super().located(whole), unseen=whole(self.unseen))  # type: ignore[type-var]

    def places(self) -> dict[str, str]:
        """See `tasks.base.Located`."""
        return super().places() | {"--task.unseen": self.unseen}


@dataclass(frozen=True)
class DeviseTask(_NamedTask):
    """A linear map from a trained encoder into a word space; in a second stage the encoder learns too."""

    encoder: VitConfig = field(default_factory=VitConfig)
    """`VitConfig.weights`: the softmax run's folder, or another encoder's."""
    words: str = ""
    """A folder of jobs/words.py, or ``random://?dim=500&seed=0``: vectors that mean nothing."""
    unseen: str = ""
    """A file of entity ids, a line each, whose pictures are left out; ``miniworld://``: those that the mini-world sets
    apart. Empty: none."""
    margin: float = 0.1
    """By which the true name's cosine is to be above any other's (the paper's)."""
    tunes: bool = False
    """The second stage: the encoder learns too; begin with the first one's run (--init)."""
    encoder_rate: float = 0.1
    """The encoder's rate, as a share of the map's: the paper's steps are small, how small is our choice."""
    crop: str = "inception"
    """See `tasks.base.ImageInput`."""

    def __post_init__(self) -> None:
        """Refuse a margin that asks for nothing."""
        if not self.margin > 0:
            raise RaylabError(f"task.margin={self.margin}: give a number above 0.")

    def located(self, whole: Callable[[str], str]) -> Self:
        """See `tasks.base.Located`."""
        return replace(super().located(whole), words=whole(self.words))

    def places(self) -> dict[str, str]:
        """See `tasks.base.Located`."""
        return super().places() | {"--task.words": self.words}

    def collator(self, context: TaskContext) -> RankCollator:
        """See `tasks.base.TaskConfig`."""
        return RankCollator(ImageInput(self.encoder.side, self.crop), context, Left(self.unseen), self.words)

    def learner(self, context: TaskContext) -> DeviseLearner:
        """See `tasks.base.TaskConfig`."""
        return DeviseLearner(self, context)


@dataclass(frozen=True)
class SoftmaxTask(_NamedTask):
    """The baseline: the same network, a softmax over the entities; all of it learns."""

    encoder: VitConfig = field(default_factory=VitConfig)
    unseen: str = ""
    """See `DeviseTask.unseen`."""
    crop: str = "inception"
    """See `tasks.base.ImageInput`."""

    def collator(self, context: TaskContext) -> SeenCollator:
        """See `tasks.base.TaskConfig`."""
        return SeenCollator(ImageInput(self.encoder.side, self.crop), context, Left(self.unseen))

    def learner(self, context: TaskContext) -> SoftmaxLearner:
        """See `tasks.base.TaskConfig`."""
        return SoftmaxLearner(self, context)


class Left:
    """Entities that are left out; pickles as an address.

    Args:
        address: see `DeviseTask.unseen`.
    """

    def __init__(self, address: str) -> None:
        self.address = address

    def __getstate__(self) -> dict[str, str]:
        return {"address": self.address}

    @cached_property
    def ids(self) -> pa.Array:
        """Their ids.

        Raises:
            RaylabError: there is no such file.
        """
        if self.address == MINIWORLD:
            from raylab.sources.miniworld.entities import PICTURED

            return pa.array([one.id for one in PICTURED if one.unseen], pa.string())
        try:
            lines = Path(self.address).read_text("utf-8").splitlines() if self.address else []
        except OSError as error:
            raise RaylabError(f"--task.unseen {self.address}: cannot be read ({error}).") from error
        return pa.array([line.strip() for line in lines if line.strip()], pa.string())


class SeenCollator(EntityCollator):
    """``class_B`` int64: the entity's number.

    Args:
        image, context: as of `EntityCollator`.
        left: whose pictures are left out.
    """

    def __init__(self, image: ImageInput, context: TaskContext, left: Left) -> None:
        super().__init__(image, context)
        self.left = left

    def usable(self, rows: pa.Table) -> np.ndarray:
        """Rows with an entity that is not to stay unseen."""
        return super().usable(rows) & ~pc.is_in(rows["entity_id"], value_set=self.left.ids).to_numpy()


class RankCollator(SeenCollator):
    """``class_B`` int64: the entity's number; ``chance_B`` float32 in [0, 1): which false name comes first.

    Args:
        image, context, left: as of `SeenCollator`.
        words: see `DeviseTask.words`.
    """

    def __init__(self, image: ImageInput, context: TaskContext, left: Left, words: str) -> None:
        super().__init__(image, context, left)
        self.names = Names(context.kb, words)

    def usable(self, rows: pa.Table) -> np.ndarray:
        """Rows with an entity that is not to stay unseen, and whose name has a vector."""
        return super().usable(rows) & self.names.known(rows["entity_id"])

    def __call__(self, rows: pa.Table, draws: Sequence[np.random.Generator]) -> Arrays:
        """See `tasks.base.Collator`."""
        return super().__call__(rows, draws) | {"chance_B": np.array([draw.random() for draw in draws], np.float32)}


class Names:
    """Where a knowledge base's entities lie in a word space: where their titles do. Pickles as an address.

    Args:
        kb: the knowledge base's folder.
        words: see `DeviseTask.words`.
    """

    def __init__(self, kb: str, words: str) -> None:
        self.kb, self.address = kb, words

    def __getstate__(self) -> dict[str, str]:
        return {"kb": self.kb, "address": self.address}

    @cached_property
    def words(self) -> NameVectors:
        """The word space."""
        return open_words(self.address)

    @cached_property
    def _catalog(self) -> Catalog:
        return Catalog.open(self.kb)

    def vectors(self, kb_rows: np.ndarray) -> np.ndarray:
        """Return float32 [n, E] for rows of the knowledge base, rows of length 1; nan where a title is not known."""
        return self.words.vectors(self._catalog.take(kb_rows, ("title",))["title"].to_pylist())

    def known(self, entity_ids: pa.ChunkedArray) -> np.ndarray:
        """Return bool [n]: the entity is in the knowledge base, and its title has a vector."""
        kb_rows, place_N = np.unique(self._catalog.rows(entity_ids), return_inverse=True)
        known = np.zeros(len(kb_rows), bool)
        known[kb_rows >= 0] = ~np.isnan(self.vectors(kb_rows[kb_rows >= 0])[:, 0])
        return known[place_N]


class DeviseLearner(ClassifierLearner):
    """See `tasks.base.Learner`. Names stay where they are: pictures are brought to them."""

    module: Devise

    def __init__(self, config: DeviseTask, context: TaskContext) -> None:
        self.config, self.names = config, Names(context.kb, config.words)
        target_CE = torch.from_numpy(self.names.vectors(Classes(context.run, context.kb).kb_rows))
        super().__init__(Devise(config.encoder, target_CE, tunes=config.tunes), context)

    def groups(self) -> list[Group]:
        """The map's, and the encoder's at its own rate where it learns."""
        encoder = decay_groups(self.module.vit, "encoder ", self.config.encoder_rate) if self.config.tunes else []
        return decay_groups(self.module.map, "map ") + encoder

    def losses(self, outputs: Mapping[str, Tensor], batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The rank loss, and ``top1``: the share of pictures whose nearest name is theirs."""
        cosine_BC, class_B = outputs["logit_BC"], batch["class_B"]
        loss_B = rank_losses(cosine_BC, class_B, batch["chance_B"], self.config.margin)
        return {"loss": loss_B.mean(), "top1": (cosine_BC.argmax(1) == class_B).float().mean()}

    def save(self, folder: Path) -> None:
        """Write encoder, map, and where the word space lies; `evaluate.named` opens it."""
        words = self.names.words
        space = {"words": self.config.words, "revision": words.revision, "dim": words.dim}
        self.module.save(folder, space | {"classes": self._names()})


class SoftmaxLearner(ClassifierLearner):
    """See `tasks.base.Learner`."""

    module: Devise

    def __init__(self, config: SoftmaxTask, context: TaskContext) -> None:
        super().__init__(Devise(config.encoder, len(Classes(context.run, context.kb)), tunes=True), context)

    def save(self, folder: Path) -> None:
        """Write encoder, map and classes; `evaluate.named` opens it, and `DeviseTask` begins with the encoder."""
        self.module.save(folder, {"classes": self._names()})
