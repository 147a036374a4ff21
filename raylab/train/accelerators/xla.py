"""Training by torch-xla: all devices of a TPU slice, or XLA's own on a CPU, as one device.

One process a host. Each notes down the same step for the whole batch; XLA's partitioner (GSPMD, arXiv 2105.04663) cuts
it by how the inputs lie: rows of a batch over all devices, parameters whole on each (``ddp``) or cut over a slice's
devices (``fsdp``), a class table's rows cut in either case. So sums over workers are the compiler's work, and for
`models.distributed` there is one worker.

Operations are noted down and run when `submit` is called. The same notes run the same program; other notes (another
shape, another number of operations) are compiled first, which takes seconds to minutes. `measures` counts that.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch_xla
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only
from torch_xla import backends, runtime
from torch_xla.core import xla_model
from torch_xla.debug import metrics
from torch_xla.distributed import spmd
from torch_xla.utils.checkpoint import checkpoint

from raylab.errors import RaylabError
from raylab.train.accelerators import separable
from raylab.train.accelerators.cpu import resident_bytes
from raylab.train.order import generator

if TYPE_CHECKING:
    from raylab.tasks.base import Learner
    from raylab.train.plan import ParallelConfig

SLICE, DEVICE = "slice", "device"
"""Axes of the mesh: slices, which are far from each other, and a slice's devices."""
SLICES = "MEGASCALE_NUM_SLICES"
"""Environment variable by which libtpu knows that there are several; `accelerators.run` sets it."""


class XlaAccelerator:
    """See `base.Accelerator`.

    Args:
        cache: folder of this host where compiled programs are kept for the next run; empty: none.

    Raises:
        RaylabError: the folder cannot be made.
    """

    name = "xla"
    static = True

    def __init__(self, cache: str = "") -> None:
        # Else 0 and 1 are written into programs: a factor that becomes 1 (Adam's, after 1,800 steps) makes another
        os.environ.setdefault("XLA_NO_SPECIAL_SCALARS", "1")
        if cache and runtime.device_type() == "TPU":  # XLA's CPU device cannot read what it wrote
            _keep_programs(Path(cache).expanduser())
        if not runtime.is_spmd():
            runtime.use_spmd()
        if backends.get_mat_mul_precision() == "default":
            backends.set_mat_mul_precision("high")  # of float32, on TPUs: three passes of bfloat16
        separable.register()
        self.device = torch_xla.device()
        self.devices = runtime.addressable_runtime_device_count()
        self.rank, self.world = runtime.process_index(), runtime.process_count()
        self.writes, self.describes = self.rank == 0, self.world == 1
        self._mesh = _mesh(int(os.environ.get(SLICES, "1")))
        self._cuts = False

    def place(self, learner: Learner) -> None:
        """See `base.Accelerator`."""
        learner.make_static(self.submit)
        learner.module.to(self.device)
        if learner.table is not None:
            learner.table.to(self.device)

    def wrap(self, learner: Learner, parallel: ParallelConfig) -> nn.Module:
        """Mark how parameters lie; the module stays what it is.

        Raises:
            RaylabError: it was asked to be compiled by torch.compile.
        """
        if parallel.compile:
            raise RaylabError("--parallel.compile is not for --accelerator xla: there, all steps are compiled.")
        self._cuts = parallel.strategy == "fsdp"
        for unit in learner.shard_units():
            if parallel.checkpoint_activations:
                _compute_again(unit)
            if self._cuts:  # one unit's gradients are joined while the next ones are computed
                spmd.apply_backward_optimization_barrier(unit)
        self.settle(learner, [])
        return learner.module

    def settle(self, learner: Learner, optimizers: Sequence[torch.optim.Optimizer]) -> None:
        """Bring the optimiser's numbers to the device; mark how parameters and their moments lie."""
        for optimizer in optimizers:
            if isinstance(optimizer, torch.optim.AdamW):
                numbers_to(self.device, optimizer)
        moments = {key: state for one in optimizers for key, state in one.state.items()}
        parts = self._mesh.shape()[DEVICE]
        for tensor in learner.module.buffers():
            self._lay(tensor, None)
        for parameter in learner.module.parameters():
            axis = _longest(parameter, parts) if self._cuts else None
            for tensor in (parameter, *moments.get(parameter, {}).values()):
                self._lay(tensor, axis)
        if learner.table is not None:
            for tensor in (learner.table.weight, *moments.get(learner.table.weight, {}).values()):
                self._lay(tensor, 0)
        torch_xla.sync()

    def _lay(self, tensor: Any, axis: int | None) -> None:
        """Mark along which axis a tensor is cut; what is nowhere cut is marked too, as the first step's results are."""
        if isinstance(tensor, Tensor) and tensor.device.type == "xla":
            spmd.clear_sharding(tensor)
            spec = tuple(DEVICE if number == axis else None for number in range(tensor.ndim))
            spmd.mark_sharding(tensor, self._mesh, spec)

    def autocast(self, precision: str) -> AbstractContextManager[Any]:
        """Bfloat16 where it is asked for; torch_xla.amp.autocast is the same, and for TPUs alone."""
        return torch.autocast("xla", torch.bfloat16) if precision == "bf16" else nullcontext()

    def to_device(self, batch: Mapping[str, np.ndarray], split: bool = True) -> dict[str, Tensor]:
        """While the devices work on. With several hosts, each gives its own rows of the batch."""
        tensors = {name: torch.from_numpy(np.require(values, requirements="W")) for name, values in batch.items()}
        return {name: self._send(value, split) for name, value in tensors.items()}

    def _send(self, values: Tensor, split: bool) -> Tensor:
        rows = ((SLICE, DEVICE),) if split else (None,)
        spec = spmd.ShardingSpec(self._mesh, (*rows, *[None] * (values.ndim - 1)), minibatch=split and self.world > 1)
        return xla_model.send_cpu_data_to_device([values], self.device, spec)[0]

    def to_host(self, state: dict[str, Any]) -> dict[str, Any]:
        """Copies, whole: one at a time is made whole on each device, by all hosts."""
        return tree_map_only(Tensor, self._whole, state)

    def _whole(self, tensor: Tensor) -> Tensor:
        if tensor.device.type != "xla":
            return tensor
        if is_cut(tensor):
            tensor = self.joined(tensor)
            torch_xla.sync()
        return tensor.detach().cpu()

    def seed(self, *key: int) -> None:
        """See `base.Accelerator`; a program that draws gets the seed as an input."""
        torch_xla.manual_seed(int(generator(*key).integers(2**63)), self.device)

    def submit(self) -> None:
        """Returns while the devices work."""
        torch_xla.sync()

    def joined(self, values: Tensor) -> Tensor:
        """As part of the step: to fetch what is cut makes a program of its own each time."""
        joined = values.detach() * 1  # a clone would share the data, and how they lie
        spmd.mark_sharding(joined, self._mesh, (None,) * joined.ndim)
        return joined

    def stack(self, values: Sequence[Tensor]) -> Tensor:
        """On the host: there, their number makes no new program."""
        return torch.stack([value.cpu() for value in values])

    def synchronise(self) -> None:
        """See `base.Accelerator`."""
        xla_model.wait_device_ops()

    def measures(self) -> dict[str, float]:
        """The host's memory (torch-xla does not tell the devices'), and how many programs were compiled so far."""
        return {"memory_gb": resident_bytes() / 1e9, "programs": compiled()}


def _keep_programs(folder: Path) -> None:
    """Have compiled programs kept in a folder of this host; torch-xla takes the first one that a process names."""
    if torch_xla._XLAC._xla_computation_cache_is_initialized():
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RaylabError(
            f"--parallel.compile-cache {folder} cannot be made on this host ({error}): name a folder that can be "
            "written on each host, or '' for none."
        ) from error
    runtime.initialize_cache(str(folder))


def compiled() -> int:
    """Return how many programs this process has compiled."""
    found = metrics.metric_data("CompileTime")
    return found[0] if found else 0


def numbers_to(device: torch.device, optimizer: torch.optim.AdamW) -> None:
    """Have Adam compute its factors on the device, from rates and numbers of steps that lie there.

    torch-xla joins numbers that are equal. Where a rate is small, ``1 - rate * decay`` of two groups is the same
    float32, and that would be another program at each such step.
    """
    for group in optimizer.param_groups:
        group["lr"], group["capturable"] = torch.as_tensor(group["lr"], device=device), True
    for state in optimizer.state.values():
        state["step"] = state["step"].to(device)


def is_cut(tensor: Tensor) -> bool:
    """Return whether no device has all of a tensor."""
    found = spmd.wrap_if_sharded(tensor)
    return isinstance(found, spmd.XLAShardedTensor) and found.sharding_type != spmd.ShardingType.REPLICATED


def _mesh(slices: int) -> Any:
    devices = runtime.global_runtime_device_count()
    if slices == 1:
        return spmd.Mesh(np.arange(devices), (1, devices), (SLICE, DEVICE))
    inner, outer = (1, devices // slices), (slices, 1)
    return spmd.HybridMesh(ici_mesh_shape=inner, dcn_mesh_shape=outer, axis_names=(SLICE, DEVICE))


def _compute_again(unit: nn.Module) -> None:
    """Have a block compute its activations again in the backward pass, as torch.utils.checkpoint cannot on XLA.

    A block with batch statistics keeps its activations: it would count each batch twice.
    """
    if any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in unit.modules()):
        return
    forward = unit.forward
    signature = inspect.signature(forward)

    def again(*arguments: Any, **named: Any) -> Any:
        bound = signature.bind(*arguments, **named)
        bound.apply_defaults()
        return checkpoint(forward, *bound.args) if torch.is_grad_enabled() else forward(*bound.args)

    unit.forward = again


def _longest(parameter: Tensor, parts: int) -> int | None:
    """Return the longest axis that can be cut evenly; a parameter without one stays whole."""
    axes = [axis for axis, size in enumerate(parameter.shape) if size % parts == 0]
    return max(axes, key=lambda axis: parameter.shape[axis]) if axes else None
