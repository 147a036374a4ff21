"""Checkpoints that are whole or not there: written by all workers, named by a pointer last.

    checkpoints/step-0000001000/   torch.distributed.checkpoint: any number of workers reads what any number wrote
    checkpoints/LAST.json          {"step": 1000}: written when the step's folder is complete

What is random in a run follows from its seed and the step (see `loop`), and so does the data's position: the step is
all that need be remembered of either.
"""

from __future__ import annotations

import contextlib
import pickle
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    get_model_state_dict,
    get_state_dict,
    set_model_state_dict,
    set_state_dict,
)

from raylab.errors import RaylabError
from raylab.models.class_table import ClassTable
from raylab.models.distributed import rank, world
from raylab.storage import Folder
from raylab.tasks.base import Learner
from raylab.train.accelerators.base import Accelerator
from raylab.train.examples import POINTER, checkpoint_name, same_classes

_STEP = re.compile(r"checkpoints/step-(\d{10})")


class Checkpoints:
    """A run's checkpoints.

    Args:
        out: the run's folder.
        keep: the latest so many are kept.
        keep_every: besides, those of every so many steps; 0: none.
        check_ours: raises where others write the run's checkpoints now: nothing is named or removed then.
    """

    def __init__(
        self, out: Folder, keep: int = 2, keep_every: int = 0, check_ours: Callable[[], None] = lambda: None
    ) -> None:
        self.out, self.keep, self.keep_every = out, max(1, keep), keep_every
        self._check_ours = check_ours

    def latest(self) -> int | None:
        """Return the step of the last whole checkpoint, None before the first."""
        return int(self.out.read_json(POINTER)["step"]) if self.out.exists(POINTER) else None

    def save(self, step: int, state: dict[str, Any]) -> None:
        """Write a checkpoint; all workers call it. Returns when it is whole and the pointer names it."""
        name = checkpoint_name(step)
        with _alone():
            dcp.save(state, storage_writer=self._writer(name), no_dist=not dist.is_initialized())
        if rank() == 0:
            self._check_ours()
            self.out.write_json(POINTER, {"step": step})
            self._tidy(step)

    def load(self, step: int, state: dict[str, Any]) -> None:
        """Read a checkpoint into the tensors of `state`; all workers call it.

        Raises:
            RaylabError: it does not fit: another model, or damaged.
        """
        try:
            with _alone():
                dcp.load(state, storage_reader=self._reader(checkpoint_name(step)), no_dist=not dist.is_initialized())
        except (ValueError, KeyError, OSError, dcp.api.CheckpointException) as error:
            # a RuntimeError of torch.distributed itself says that another worker died: this one is then begun again
            raise self._unreadable(step, _first(error)) from error

    def holds(self, step: int, name: str) -> bool:
        """Tell whether a checkpoint has a tensor of that name.

        Raises:
            RaylabError: it cannot be read.
        """
        try:
            return name in self._reader(checkpoint_name(step)).read_metadata().state_dict_metadata
        except (OSError, ValueError, pickle.UnpicklingError, EOFError) as error:
            raise self._unreadable(step, error) from error

    def _unreadable(self, step: int, error: BaseException) -> RaylabError:
        return RaylabError(
            f"{self.out.uri}/{checkpoint_name(step)} cannot be read ({type(error).__name__}: {str(error)[:300]}): "
            "it is damaged, or of another model."
        )

    def _tidy(self, last: int) -> None:
        found = sorted(int(match[1]) for name in self.out.names("checkpoints") if (match := _STEP.fullmatch(name)))
        latest = [step for step in found if step <= last][-self.keep :]
        for step in found:
            if step not in latest and not (self.keep_every and step % self.keep_every == 0):
                self.out.remove(checkpoint_name(step))

    def _writer(self, name: str) -> dcp.StorageWriter:
        if self.out.is_local:
            return dcp.FileSystemWriter(self.out.path(name))
        from torch.distributed.checkpoint._fsspec_filesystem import FsspecWriter

        return FsspecWriter(f"{self.out.uri}/{name}", sync_files=False)  # a put is whole; it would sync all local disks

    def _reader(self, name: str) -> dcp.StorageReader:
        if self.out.is_local:
            return dcp.FileSystemReader(self.out.path(name))
        from torch.distributed.checkpoint._fsspec_filesystem import FsspecReader

        return FsspecReader(f"{self.out.uri}/{name}")


def _first(error: BaseException) -> BaseException:
    """Return what the first worker that failed says, without the traces that torch tells it in."""
    return next(iter(error.failures.values()))[0] if isinstance(error, dcp.api.CheckpointException) else error


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """Silence torch's warning that one process saves and loads alone: it does, where there is one worker."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled")
        yield


class RunState:
    """What a run goes on from, as `Checkpoints` takes it: network, table, optimisers, and what they belong to.

    Args:
        learner: the network and its table.
        module: the learner's module as it was wrapped.
        optimizers: that of the network, then that of the table if there is one.
        about: what a checkpoint belongs to (step, seed, fingerprints); plain values.
        accelerator: where all of it lies.
    """

    def __init__(
        self,
        learner: Learner,
        module: nn.Module,
        optimizers: list[torch.optim.Optimizer],
        about: Mapping[str, int | str],
        accelerator: Accelerator,
    ) -> None:
        self.learner, self.module, self.optimizers, self.about = learner, module, optimizers, dict(about)
        self.accelerator = accelerator

    def save(self, checkpoints: Checkpoints, step: int) -> None:
        """Write the checkpoint of a step."""
        state = self._state()
        if self.accelerator.writes:
            checkpoints.save(step, state | {"about": self.about | {"step": step}})

    def load(self, checkpoints: Checkpoints, step: int) -> None:
        """Go on from the checkpoint of a step.

        Raises:
            RaylabError: it does not fit, or belongs to another knowledge base or seed.
        """
        state = self._state() | {"about": self.about | {"step": step}}
        checkpoints.load(step, state)
        if differing := [key for key, value in self.about.items() if state["about"][key] != value]:
            key = differing[0]
            raise RaylabError(
                f"{checkpoints.out.uri}: the checkpoint was made with {key} {state['about'][key]!r}, this run has "
                f"{self.about[key]!r}: start in another --out."
            )
        settings = [_settings(group) for group in self.optimizers[0].param_groups]
        set_state_dict(
            self.module, self.optimizers[0], model_state_dict=state["model"], optim_state_dict=state["optimizer"]
        )
        for group, ours in zip(self.optimizers[0].param_groups, settings):
            group.update(ours)  # rates are the config's: a run may go on from another one's checkpoint
        if self.learner.table is not None:
            _set_table(self.learner.table, self.optimizers[1], state["table"])
        self.accelerator.settle(self.learner, self.optimizers)

    def load_weights(self, checkpoints: Checkpoints, out: Folder) -> str:
        """Begin with the network of another run's last checkpoint, and its class table where that has the same classes.

        Args:
            checkpoints: the other run's.
            out: this run's folder.

        Returns:
            What was taken, for people.

        Raises:
            RaylabError: it has none, or one of another model.
        """
        step = checkpoints.latest()
        if step is None:
            raise RaylabError(f"--init {checkpoints.out.uri}: no checkpoint there.")
        state: dict[str, Any] = {"model": get_model_state_dict(self.module)}
        table = self.learner.table
        takes = table is not None and checkpoints.holds(step, "table.weight") and same_classes(out, checkpoints.out)
        if table is not None and takes:
            state["table"] = {"weight": _sharded(table.weight.detach(), table.classes)}
        state = self.accelerator.to_host(state)
        checkpoints.load(step, state)
        set_model_state_dict(self.module, state["model"])
        if table is not None and takes:
            _put(table.weight.detach(), state["table"]["weight"])
        self.accelerator.settle(self.learner, self.optimizers)
        return f"begins with the weights of {checkpoints.out.uri}, step {step}" + _of_table(table, takes)

    def _state(self) -> dict[str, Any]:
        found: tuple[dict[str, Any], dict[str, Any]] = get_state_dict(self.module, self.optimizers[0])
        model, optimizer = found
        for group in optimizer["param_groups"]:
            group["lr"] = float(group["lr"])  # whatever accelerator goes on from it
        state: dict[str, Any] = {"model": model, "optimizer": optimizer}
        if self.learner.table is not None:
            state["table"] = _table_state(self.learner.table, self.optimizers[1])
        return self.accelerator.to_host(state)


def _settings(group: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in group.items() if name != "params"}


def _table_state(table: ClassTable, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Return the table and its moments, each as one tensor of which every worker has its rows."""
    parts = {name: _sharded(value, table.classes) for name, value in _table_parts(table, optimizer).items()}
    return parts | {"step": int(optimizer.state[table.weight]["step"])}


def _table_parts(table: ClassTable, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    moments = optimizer.state[table.weight]
    return {"weight": table.weight.detach(), "exp_avg": moments["exp_avg"], "exp_avg_sq": moments["exp_avg_sq"]}


def _sharded(rows_SD: Tensor, classes: int) -> Tensor:
    if world() == 1:
        return rows_SD
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import DTensor, Shard

    mesh = init_device_mesh(rows_SD.device.type, (world(),))
    shape = torch.Size((classes, rows_SD.shape[1]))
    return DTensor.from_local(rows_SD, mesh, [Shard(0)], run_check=False, shape=shape, stride=(shape[1], 1))


def _set_table(table: ClassTable, optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    """The tensors were read in place, unless `to_host` made copies; the count of steps is a number."""
    optimizer.state[table.weight]["step"] = state["step"]
    for name, part in _table_parts(table, optimizer).items():
        _put(part, state[name])


def _put(part: Tensor, read: Tensor) -> None:
    """Copy what was read into a copy; what was read in place is there already."""
    if part.device != read.device:
        part.copy_(read)


def _of_table(table: ClassTable | None, taken: bool) -> str:
    if table is None:
        return ""
    return ", class vectors as well" if taken else "; class vectors begin anew: it has none, or of other entities"
