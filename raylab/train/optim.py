"""The optimiser: AdamW for the network, Adam on touched rows alone for a class table; rates follow from the step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from raylab.models.class_table import ClassTable
from raylab.tasks.base import Group


@dataclass(frozen=True)
class OptimConfig:
    """AdamW with a warm-up and a cosine to zero."""

    rate: float = 8e-4
    """The highest learning rate; a task's groups may have a share of it."""
    table_rate: float = 1e-3
    """That of a class table (Adam)."""
    weight_decay: float = 0.05
    """Of matrices; biases, norms and temperatures are left alone."""
    betas: tuple[float, float] = (0.9, 0.98)
    """Of both moments."""
    epsilon: float = 1e-6
    """Added to the root of the second moment."""
    warmup_steps: int = 2000
    """Steps in which the rate rises from zero."""
    clip_norm: float = 1.0
    """Gradients of the network are scaled down to this norm; 0 leaves them."""


def make_optimizer(groups: Sequence[Group], config: OptimConfig) -> torch.optim.AdamW:
    """Return AdamW over a task's groups; each remembers its own highest rate."""
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
    return torch.optim.AdamW(settings, lr=config.rate, betas=config.betas, eps=config.epsilon)


def make_table_optimizer(table: ClassTable, config: OptimConfig) -> torch.optim.SparseAdam:
    """Return Adam that moves, and keeps moments up to date of, the rows alone that a step looked at."""
    found = torch.optim.SparseAdam([table.weight], lr=config.table_rate, betas=config.betas, eps=config.epsilon)
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
    """Set each group's rate to a share of its highest."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["highest"] * share


def clip(module: nn.Module, most: float) -> torch.Tensor:
    """Scale gradients down to a norm, and return the norm before."""
    found = [one.grad for one in module.parameters() if one.grad is not None]
    norm = torch.nn.utils.get_total_norm(found)
    if most:
        torch.nn.utils.clip_grads_with_norm_(module.parameters(), most, norm)
    return norm
