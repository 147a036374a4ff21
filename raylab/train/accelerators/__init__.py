"""What is different on each kind of device: one file each, found by name."""

from __future__ import annotations

from raylab.errors import RaylabError, nearest
from raylab.train.accelerators.base import Accelerator

NAMES = ("cpu", "cuda")


def open_accelerator(name: str, threads: int | None = None) -> Accelerator:
    """Return an accelerator for this process.

    Args:
        name: one of `NAMES`, or ``auto``: a GPU where torch sees one, else the CPU.
        threads: CPU threads of torch; null leaves torch's own setting.

    Raises:
        RaylabError: the name is not known, or its device is not there.
    """
    import torch

    if threads is not None:
        torch.set_num_threads(threads)
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cpu":
        from raylab.train.accelerators.cpu import CpuAccelerator

        return CpuAccelerator()
    if name == "cuda":
        from raylab.train.accelerators.cuda import CudaAccelerator

        return CudaAccelerator()
    raise RaylabError(f"accelerator {name!r} is not known: auto, {', '.join(NAMES)}.{nearest(name, ('auto', *NAMES))}")
