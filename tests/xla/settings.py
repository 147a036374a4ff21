"""What XLA is told before it is imported."""

from __future__ import annotations


def settings(devices: int) -> dict[str, str]:
    """Return the environment of a process with so many devices; they compute alike at any level, and compile sooner."""
    flags = "--xla_backend_optimization_level=0"
    return {"PJRT_DEVICE": "CPU", "CPU_NUM_DEVICES": str(devices), "XLA_FLAGS": flags, "TF_CPP_MIN_LOG_LEVEL": "2"}
