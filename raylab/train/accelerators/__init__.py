"""What is different on each kind of device: one file each, found by name."""

from __future__ import annotations

from importlib.util import find_spec

from raylab.errors import RaylabError, nearest
from raylab.train.accelerators.base import Accelerator

NAMES = ("cpu", "cuda", "xla")


def open_accelerator(name: str, threads: int | None = None, cache: str = "") -> Accelerator:
    """Return an accelerator for this process.

    Args:
        name: one of `NAMES`, or ``auto``: a GPU where torch sees one, a TPU where torch-xla does, else the CPU.
        threads: CPU threads of torch; null leaves torch's own setting.
        cache: folder where programs that were compiled are kept, for devices that run such; empty: none.

    Raises:
        RaylabError: the name is not known, or its device is not there.
    """
    import torch

    if threads is not None:
        torch.set_num_threads(threads)
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "xla" if _has_tpu() else "cpu"
    if name == "cpu":
        from raylab.train.accelerators.cpu import CpuAccelerator

        return CpuAccelerator()
    if name == "cuda":
        from raylab.train.accelerators.cuda import CudaAccelerator

        return CudaAccelerator()
    if name == "xla":
        if find_spec("torch_xla") is None:
            raise RaylabError("--accelerator xla: torch-xla is not installed here: make setup-xla, or raylab[tpu].")
        from raylab.train.accelerators.xla import XlaAccelerator

        return XlaAccelerator(cache)
    raise RaylabError(f"accelerator {name!r} is not known: auto, {', '.join(NAMES)}.{nearest(name, ('auto', *NAMES))}")


def _has_tpu() -> bool:
    """Return whether torch-xla, where it is installed, chooses a TPU."""
    if find_spec("torch_xla") is None:
        return False
    from torch_xla import runtime

    return runtime.device_type() == "TPU"
