"""The training loop: knows no task, no Ray and no device. Reads from top to bottom.

What is random in a step (dropout, sampled classes) follows from the run's seed, the step and the worker: so a run that
was killed and goes on makes the very steps that it would have made.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from raylab.errors import RaylabError
from raylab.models.distributed import mean, rank, world
from raylab.tasks.base import Arrays, Learner
from raylab.train.accelerators.base import Accelerator
from raylab.train.optim import OptimConfig, clip, set_rates, share_of_rate
from raylab.train.reader import REPLACED

Curve = dict[str, float]
"""One point of the curves: name -> value."""


@dataclass
class Loop:
    """What a run consists of.

    Args:
        learner: the network and its losses.
        module: the learner's module as the accelerator wrapped it.
        optimizers: that of the network, then that of the table if there is one.
        accelerator: the device.
        optim: rates and norms.
        steps: in all.
        accumulate: passes a step.
        precision: of the forward pass.
        seed: of the run.
        log_every: steps between two points of the curves.
        on_point: takes a step and its point; True: save now, this process may soon be gone.
        save_every: steps between two checkpoints.
        on_save: writes the checkpoint of a step.
        evaluate_every: steps between two looks at rows that are held out.
        evaluate: looks at them.
    """

    learner: Learner
    module: nn.Module
    optimizers: list[torch.optim.Optimizer]
    accelerator: Accelerator
    optim: OptimConfig
    steps: int
    accumulate: int
    precision: str
    seed: int
    log_every: int
    on_point: Callable[[int, Curve], bool]
    save_every: int
    on_save: Callable[[int], None]
    evaluate_every: int
    evaluate: Callable[[], Curve]

    def __post_init__(self) -> None:
        """Begin to measure."""
        self._meter = Meter()

    def run(self, batches: Iterable[Arrays], start: int = 0) -> None:
        """Make the steps `start` to `steps`.

        Args:
            batches: this worker's rows of a pass each, `accumulate` of them a step.
            start: steps that were made before.

        Raises:
            RaylabError: loss or gradients are no longer numbers, or the batches end early.
        """
        stream = self._ahead(iter(batches))
        for step in range(start, self.steps):
            set_rates(self.optimizers, share_of_rate(step, self.steps, self.optim.warmup_steps))
            parts = [self._pass(step, number, next(stream)) for number in range(self.accumulate)]
            self._meter.add(parts, self._move())
            self.accelerator.submit()
            done = step + 1
            saves = done % self.save_every == 0 or done == self.steps
            evaluates = done % self.evaluate_every == 0 or done == self.steps
            if saves or evaluates or done % self.log_every == 0:
                point = self._point(done)  # looks at losses and gradients: what is saved is sound
                if evaluates:
                    point |= self._look()
                if self.on_point(done, point) or saves:
                    self.on_save(done)
                self._meter.reset()  # the time of all this is not the steps'

    def _ahead(self, batches: Iterator[Arrays]) -> Iterator[dict[str, Tensor]]:
        """Yield batches on the device, the next one on its way while this one is computed with."""
        waiting: dict[str, Tensor] | None = None
        for arrays in batches:
            placed = self.accelerator.to_device(arrays)
            if waiting is not None:
                yield waiting
            waiting = placed
        if waiting is not None:
            yield waiting
        raise RaylabError(f"The rows ended before step {self.steps}: the label store changed while it was read.")

    def _pass(self, step: int, number: int, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Add one pass's gradients; return its losses and measures."""
        if number:
            self.accelerator.submit()
        self.accelerator.seed(self.seed, step, number, rank())
        with _summing(self.module, last=number == self.accumulate - 1):
            with self.accelerator.autocast(self.precision):
                outputs = self.module(*self.learner.inputs(batch))
            losses = self.learner.losses(outputs, batch)
            (losses["loss"] / self.accumulate).backward()
        return {name: value.detach() for name, value in losses.items()} | {REPLACED: batch[REPLACED].sum()}

    def _move(self) -> Tensor:
        """Step along the gradients; return their norm."""
        if self.learner.table is not None:
            self.learner.table.rescale()
        norm = clip(self.learner.module, self.optim.clip_norm)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.learner.after_step()
        return norm

    def _look(self) -> Curve:
        """Look at held-out rows; ``evaluate_s`` is how many seconds the steps waited for it."""
        since = time.perf_counter()
        found = self.evaluate()
        return found | {"evaluate_s": time.perf_counter() - since}

    def _point(self, step: int) -> Curve:
        self.accelerator.synchronise()
        found = self._meter.point(self.accelerator)
        for name, said in (("loss", "loss"), ("gradient_norm", "gradients' norm")):
            if not math.isfinite(found[name]):
                raise RaylabError(
                    f"The {said} is {found[name]} after step {step}. The last checkpoint is from before: begin with "
                    "its weights (--init) in another --out, with a lower --optim.rate or more --optim.warmup-steps."
                )
        groups = [group for one in self.optimizers for group in one.param_groups]
        return found | {f"rate/{group.get('name', 'table')}": float(group["lr"]) for group in groups}


class Meter:
    """Means of what the steps reported since the last point."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Begin anew."""
        self._steps: list[Tensor] = []
        self._since = time.perf_counter()

    def add(self, parts: list[dict[str, Tensor]], norm: Tensor) -> None:
        """Take one step's passes; nothing is copied from the device before a point is asked for."""
        self._names = [name for name in parts[0] if name != REPLACED]
        means = [torch.stack([part[name].float() for part in parts]).mean() for name in self._names]
        replaced = torch.stack([part[REPLACED].float() for part in parts]).sum()
        self._steps.append(torch.stack([*means, _full(norm), replaced]))

    def point(self, accelerator: Accelerator) -> Curve:
        """Return the means over steps and workers, and begin anew; all workers call it."""
        steps = len(self._steps)
        joined = mean(accelerator.stack(self._steps).mean(0))
        found = dict(zip([*self._names, "gradient_norm", REPLACED], joined.tolist()))
        found[REPLACED] = round(found[REPLACED] * steps * world())
        found["step_s"] = (time.perf_counter() - self._since) / steps
        self.reset()
        return found | accelerator.measures()


def _full(norm: Tensor) -> Tensor:
    """Return a norm of sharded gradients as a plain tensor."""
    return norm.full_tensor() if isinstance(norm, DTensor) else norm


def _summing(module: nn.Module, last: bool) -> AbstractContextManager[None]:
    """Return the context of a pass: workers talk about the gradients at a step's last pass alone."""
    if isinstance(module, FSDPModule):
        module.set_requires_gradient_sync(last)
    if isinstance(module, nn.parallel.DistributedDataParallel) and not last:
        return module.no_sync()
    return nullcontext()


def images_per_second(point: Mapping[str, float], batch: int) -> float:
    """Return the pictures that all workers saw a second."""
    return batch / point["step_s"]
