"""The optimiser: AdamW or LARS for the network, Adam on touched rows for a class table; rates follow from the step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from raylab.errors import RaylabError, nearest
from raylab.models.class_table import ClassTable
from raylab.tasks.base import Group

KINDS = ("adamw", "lars")


@dataclass(frozen=True)
class OptimConfig:
    """The optimiser, with a warm-up and a cosine to zero."""

    rate: float = 8e-4
    """The highest learning rate; a task's groups may have a share of it."""
    table_rate: float = 1e-3
    """That of a class table (Adam)."""
    weight_decay: float = 0.05
    """Of matrices; biases, norms and temperatures are left alone."""
    betas: tuple[float, float] = (0.9, 0.98)
    """Of both moments; LARS has the first, its momentum."""
    epsilon: float = 1e-6
    """Added to the root of the second moment."""
    warmup_steps: int = 2000
    """Steps in which the rate rises from zero."""
    clip_norm: float = 1.0
    """Gradients of the network are scaled down to this norm; 0 leaves them."""
    kind: str = "adamw"
    """``adamw``, or ``lars`` (arXiv 1708.03888): SGD whose steps of a matrix follow its norm."""

    def __post_init__(self) -> None:
        for name in ("rate", "table_rate", "epsilon"):
            if not getattr(self, name) > 0:
                raise RaylabError(f"optim.{name}={getattr(self, name)}: give a number above 0.")
        if self.kind not in KINDS:
            raise RaylabError(f"optim.kind {self.kind!r} is not known: {', '.join(KINDS)}.{nearest(self.kind, KINDS)}")


def make_optimizer(groups: Sequence[Group], config: OptimConfig) -> torch.optim.Optimizer:
    """Return the optimiser over a task's groups; each remembers its own highest rate.

    Moments are made here, as the optimiser itself would at its first step, which is then like all others to a compiler.
    """
    settings = [
        {
            "params": group.parameters,
            "name": group.name,
            "highest": config.rate * group.rate,
            "weight_decay": config.weight_decay if group.decays else 0.0,
        }
        for group in groups
        if group.parameters
    ]
    parameters = [parameter for group in groups for parameter in group.parameters]
    if config.kind == "lars":
        return _lars(groups, settings, config)
    found = torch.optim.AdamW(settings, lr=config.rate, betas=config.betas, eps=config.epsilon)
    for parameter in parameters:
        zeros = {name: torch.zeros_like(parameter) for name in ("exp_avg", "exp_avg_sq")}
        found.state[parameter] = {"step": torch.tensor(0.0), **zeros}
    return found


def _lars(groups: Sequence[Group], settings: list[dict[str, Any]], config: OptimConfig) -> torch.optim.Optimizer:
    """Return LARS; steps of what is no matrix do not follow its norm (facebookresearch/mae: util/lars.py)."""
    from timm.optim import Lars

    for group, one in zip((group for group in groups if group.parameters), settings):
        one["always_adapt"] = group.decays
    found = Lars(settings, lr=config.rate, momentum=config.betas[0])
    for one in settings:
        for parameter in one["params"]:
            found.state[parameter] = {"momentum_buffer": torch.zeros_like(parameter)}
    return found


class RowAdam(torch.optim.Optimizer):
    """torch.optim.SparseAdam for a gradient that is not sparse: rows whose gradient is all zeros are left alone.

    Args:
        parameters: matrices.
        lr, betas, eps: as SparseAdam's.
    """

    def __init__(self, parameters: list[nn.Parameter], lr: float, betas: tuple[float, float], eps: float) -> None:
        super().__init__(parameters, {"lr": lr, "betas": betas, "eps": eps})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Move the rows that have a gradient."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._move(parameter, parameter.grad, group)

    def _move(self, weight_RD: Tensor, gradient_RD: Tensor, group: dict[str, Any]) -> None:
        state, (first, second) = self.state[weight_RD], group["betas"]
        state["step"] += 1
        touched_R1 = (gradient_RD != 0).any(1, keepdim=True)
        mean_RD, square_RD = state["exp_avg"], state["exp_avg_sq"]
        mean_RD.copy_(torch.where(touched_R1, mean_RD.lerp(gradient_RD, 1 - first), mean_RD))
        square_RD.copy_(torch.where(touched_R1, square_RD.lerp(gradient_RD.square(), 1 - second), square_RD))
        rate = group["lr"] * math.sqrt(1 - second ** state["step"]) / (1 - first ** state["step"])
        moved_RD = weight_RD - rate * mean_RD / (square_RD.sqrt() + group["eps"])
        weight_RD.copy_(torch.where(touched_R1, moved_RD, weight_RD))


def make_table_optimizer(table: ClassTable, config: OptimConfig) -> torch.optim.Optimizer:
    """Return Adam that moves, and keeps moments up to date of, the rows alone that a step looked at."""
    kind: Any = torch.optim.SparseAdam if table.sparse else RowAdam
    found = kind([table.weight], lr=config.table_rate, betas=config.betas, eps=config.epsilon)
    found.param_groups[0]["highest"] = config.table_rate
    zeros = {name: torch.zeros_like(table.weight) for name in ("exp_avg", "exp_avg_sq")}
    found.state[table.weight] = {"step": 0, **zeros}  # as SparseAdam itself would at its first step
    return found


def share_of_rate(step: int, steps: int, warmup: int) -> float:
    """Return the share of the highest rate at a step: up along a line, down along a cosine to zero."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def set_rates(optimizers: Sequence[torch.optim.Optimizer], share: float) -> None:
    """Set each group's rate to a share of its highest, on the device if the accelerator wants rates there."""
    for optimizer in optimizers:
        groups = optimizer.param_groups
        rates: Sequence[float | Tensor] = [group["highest"] * share for group in groups]
        before = groups[0]["lr"]
        if isinstance(before, Tensor):
            rates = torch.tensor(rates).to(before.device).unbind()
        for group, rate in zip(groups, rates):
            group["lr"] = rate


def clip(module: nn.Module, most: float) -> torch.Tensor:
    """Scale gradients down to a norm, and return the norm before."""
    found = [one.grad for one in module.parameters() if one.grad is not None]
    norm = torch.nn.utils.get_total_norm(found)
    if most:
        torch.nn.utils.clip_grads_with_norm_(module.parameters(), most, norm)
    return norm
