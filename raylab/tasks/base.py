"""What a task is: which columns it reads, what it makes of them, and what it wants the network to do with that.

A task has two halves, because they live in different processes. The *collator* makes arrays of rows, in the processes
that read and decode; it is small and pickles. The *learner* holds the network and its losses, in the training process.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np
import pyarrow as pa

if TYPE_CHECKING:
    from torch import Tensor, nn

    from raylab.models.class_table import ClassTable

Arrays = dict[str, np.ndarray]
"""A batch before it is on a device: name -> array whose first axis is the row."""


@dataclass(frozen=True)
class TaskContext:
    """What a task is built with, beside its config."""

    kb: str
    """Folder of the knowledge base; each worker maps it."""
    run: str
    """URI of the run's folder, where `tasks.classes.CLASSES` lies."""
    class_count: int
    """Rows of that table."""
    seed: int
    """Of the run."""


@dataclass(frozen=True)
class ImageInput:
    """Pictures as the network takes them."""

    size: int
    """Pixels a side."""
    crop: str
    """``inception``: a random part of the picture (area 8 % or more); ``mae``: one of 20 % or more, every second one
    mirrored; ``shift``: the centre, moved a little and with a little other light; ``centre``: as in evaluation."""


class Collator(Protocol):
    """Makes a task's arrays of rows. Is pickled to the readers; what is large is loaded there, when it is needed."""

    columns: Sequence[str]
    """Columns of `schema.LABEL` that it reads, beside ``row_id`` and ``image``."""
    image: ImageInput

    def usable(self, rows: pa.Table) -> np.ndarray:
        """Return bool [n]: rows that this task can learn from. Depends on nothing but the row."""
        ...

    def __call__(self, rows: pa.Table, draws: Sequence[np.random.Generator]) -> Arrays:
        """Return the arrays of usable rows, without the pictures; `draws` has a generator for each row."""
        ...


@runtime_checkable
class Parted(Protocol):
    """A `Collator` of a task that learns several parts of a row, of which a row may lack some."""

    def has(self, rows: pa.Table) -> dict[str, np.ndarray]:
        """Return for each part bool [n]: the rows that have it. A part that no row has is refused before the run."""
        ...


@dataclass
class Group:
    """Parameters that share settings of the optimiser."""

    name: str
    parameters: list[nn.Parameter]
    rate: float
    """Times the run's learning rate."""
    decays: bool
    """Whether weight decay applies."""


class Learner(Protocol):
    """A network and how it learns.

    Attributes:
        module: takes `inputs` and returns outputs (name -> tensor): what is wrapped for many workers. Where they have
            ``image_BD`` (rows of length 1), held-out rows are also measured by what is nearest (`train.measures`).
        table: class vectors sharded over the workers, None where the task has none. Never wrapped.
    """

    @property
    def module(self) -> nn.Module:
        """See above."""
        ...

    @property
    def table(self) -> ClassTable | None:
        """See above."""
        ...

    def inputs(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        """Return what `module` is called with."""
        ...

    def losses(self, outputs: Mapping[str, Tensor], batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return scalars: ``loss`` is what is minimised, the others are its parts and measures for the curves."""
        ...

    def groups(self) -> list[Group]:
        """Return all parameters of `module`, each in one group."""
        ...

    def shard_units(self) -> list[nn.Module]:
        """Return the parts that FSDP shards one by one."""
        ...

    def checkpoint_activations(self) -> None:
        """Trade computation for memory in the backward pass."""
        ...

    def make_static(self, submit: Callable[[], None]) -> None:
        """From now on let no data decide a size: for devices that note operations down and compile them.

        Args:
            submit: has the device do what was noted; to be called between what would be alike, such as a text's tokens.
        """
        ...

    def describe(self, batch: Mapping[str, Tensor]) -> list[str]:
        """Return what the network says of each picture of a batch, and what would be right, for people."""
        ...

    def after_step(self) -> None:
        """Put parameters back where they may be (a temperature's limit)."""
        ...

    def save(self, folder: Path) -> None:
        """Write the trained model, for evaluation and prediction."""
        ...


@runtime_checkable
class Measured(Protocol):
    """A `Learner` whose answers to rows that are held out are compared with the right ones, beside its losses."""

    def measures(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return float32 [rows] for each measure: 1 where an answer is right, 0 where it is wrong, nan: does not count.

        Called in evaluation, without gradients, by all workers, each with `TrackConfig.answered` rows of its own.
        """
        ...


@runtime_checkable
class Located(Protocol):
    """A `TaskConfig` that names files: each worker opens them, in a working directory of its own."""

    def located(self, whole: Callable[[str], str]) -> TaskConfig:
        """Return it with paths that `whole` made of its own."""
        ...

    def places(self) -> dict[str, str]:
        """Return what it names, by its flag; a name may be that of a model and no path."""
        ...


@runtime_checkable
class Pictured(Protocol):
    """A `Learner` that shows more of a picture than the picture: what it painted."""

    def pictures(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Return uint8 [rows, height, width, 3]: what is shown beside what `describe` says of the same rows."""
        ...


class TaskConfig(Protocol):
    """A frozen dataclass that makes both halves."""

    def collator(self, context: TaskContext) -> Collator:
        """Return the readers' half."""
        ...

    def learner(self, context: TaskContext) -> Learner:
        """Return the network, its random weights by torch's present seed, with the losses."""
        ...


def decay_groups(module: nn.Module, prefix: str = "", rate: float = 1.0) -> list[Group]:
    """Return the parameters that weight decay is for (matrices), and the others (biases, norms, temperatures).

    Args:
        module: those of its parameters that learn.
        prefix: of the groups' names.
        rate: see `Group`.
    """
    found = [one for one in module.parameters() if one.requires_grad]
    matrices, others = [one for one in found if one.ndim > 1], [one for one in found if one.ndim <= 1]
    return [
        Group(f"{prefix}matrices", matrices, rate, decays=True),
        Group(f"{prefix}others", others, rate, decays=False),
    ]
