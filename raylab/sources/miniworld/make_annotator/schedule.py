"""What both trainings share: the optimizer, how its learning rate runs, checkpoints, memory."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any


def make_optimizer(module: Any, rate: float, weight_decay: float) -> Any:
    """AdamW that leaves biases and norms undecayed."""
    import torch

    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    decayed = [parameter for parameter in parameters if parameter.ndim > 1]
    others = [parameter for parameter in parameters if parameter.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.98))


def share_of_rate(step: int, steps: int, warmup: float) -> float:
    """The share of the learning rate at `step`: up in a line, down along a cosine."""
    rising = max(1, round(steps * warmup))
    if step < rising:
        return (step + 1) / rising
    return 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, steps - rising)))


def keep_memory() -> None:
    """Tell glibc to keep freed memory: handing big tensors back to the system costs a third of the time."""
    import ctypes

    trim_threshold, mmap_max = -1, -4
    try:
        libc = ctypes.CDLL("libc.so.6")
    except OSError:  # another C library
        return
    libc.mallopt(mmap_max, 0)
    libc.mallopt(trim_threshold, 2**31 - 1)


def keep(path: Path, step: int, parts: Any, optimizer: Any) -> None:
    """Write a checkpoint: whole or not at all."""
    import torch

    unfinished = path.with_suffix(".part")
    torch.save({"step": step, "parts": parts.state_dict(), "optimizer": optimizer.state_dict()}, unfinished)
    unfinished.rename(path)


def restore(path: Path, parts: Any, optimizer: Any) -> int:
    """Read a checkpoint, if there is one, and return the step to go on with."""
    import torch

    if not path.exists():
        return 0
    state = torch.load(path, weights_only=True)
    parts.load_state_dict(state["parts"])
    optimizer.load_state_dict(state["optimizer"])
    return int(state["step"])
