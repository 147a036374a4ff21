"""What vLLM loads in each of its processes where raylab is installed (entry point ``vllm.general_plugins``)."""

from __future__ import annotations

from typing import Any


def register() -> None:
    """Mend a fault of vLLM 0.29's CPU build: its oneDNN matrix product ends the engine where rows are not contiguous.

    A convolutional tower's features come with channels apart. Of two pictures or more they are copied on the way, those
    of a single one are not, and then the check ``a.stride(-1) == 1`` fails.
    """
    from vllm.platforms import current_platform

    if not current_platform.is_cpu():
        return
    from vllm import _custom_ops as ops

    plain = ops.onednn_mm
    if getattr(plain, "contiguous", False):
        return

    def onednn_mm(handler: Any, x: Any, bias: Any) -> Any:
        return plain(handler, x.contiguous(), bias)

    onednn_mm.contiguous = True  # type: ignore[attr-defined]
    ops.onednn_mm = onednn_mm  # type: ignore[assignment]
