"""All checks, in the table's order."""

from __future__ import annotations

from raylab.preflight.base import Check
from raylab.preflight.cluster import Cpus, Token, Upload, WandB
from raylab.preflight.data import Inputs, KnowledgeBase, LocalPaths, SourceReads, Storage
from raylab.preflight.hosts import Accelerators, Clock, Disk, SharedMemory, Versions
from raylab.preflight.models import Models

CHECKS: tuple[type[Check], ...] = (
    Cpus,
    Accelerators,
    Versions,
    Clock,
    Disk,
    SharedMemory,
    Token,
    Upload,
    LocalPaths,
    Storage,
    KnowledgeBase,
    SourceReads,
    Inputs,
    Models,
    WandB,
)
