"""What a run of segmentation is."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

from raylab.errors import RaylabError
from raylab.tasks.segmentation import CellTask, SegmentationTask
from raylab.train.accelerators import NAMES
from raylab.train.optim import OptimConfig
from raylab.train.plan import CheckpointConfig, TrackConfig, absolute_path

R = TypeVar("R", bound="SegmentationConfig")


@dataclass(frozen=True)
class PixelsConfig:
    """What the network sees of a picture."""

    side: int = 0
    """The short side is first brought to so many pixels; 0: pictures stay as they are."""
    crop: int = 513
    """In training: pixels a side of a random part; what lies outside of a picture is black and does not count."""
    scales: tuple[float, float] = (0.5, 2.0)
    """In training: by how much pictures are enlarged, at random (DeepLab's)."""
    flip: bool = True
    """In training: mirror every second picture."""

    def __post_init__(self) -> None:
        """Refuse what makes no picture."""
        if self.side < 0 or self.crop < 8 or not 0 < self.scales[0] <= self.scales[1]:
            raise RaylabError(f"pixels: side {self.side}, crop {self.crop}, scales {self.scales} make no pictures.")


@dataclass(frozen=True)
class SegmentationConfig:
    """A run of segmentation."""

    recipe: str
    """Which function made this config."""
    task: SegmentationTask
    """What is learnt."""
    train: str = ""
    """Pictures and masks to learn from: see `sources.segmentation`."""
    val: str = ""
    """Those to score on."""
    out: str = ""
    """The run's folder or URI."""
    steps: int = 90_000
    """Steps in all."""
    batch: int = 16
    """Pictures of a step."""
    seed: int = 0
    """Of weights, order and everything that is drawn."""
    accelerator: str = "auto"
    """``cpu``, ``cuda``, ``xla``, or ``auto``: a GPU where there is one, then a TPU, then the CPU."""
    precision: str = "fp32"
    """``fp32`` or ``bf16`` (autocast)."""
    threads: int | None = None
    """CPU threads of torch; null leaves torch's own setting."""
    compile_cache: str = "~/.cache/raylab/xla"
    """XLA: folder that keeps compiled programs for the next run; empty: none."""
    readers: int = 2
    """Threads that open and crop pictures ahead of the network."""
    pixels: PixelsConfig = field(default_factory=PixelsConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    track: TrackConfig = field(default_factory=TrackConfig)


@dataclass(frozen=True)
class CellRun(SegmentationConfig):
    """Segmentation with a dense-prediction cell."""

    task: CellTask = field(default_factory=CellTask)


FREE = ("out", "checkpoint", "track", "accelerator", "threads", "compile_cache", "readers", "steps")
"""Fields that may differ when a run goes on; all others make another run."""


def check(config: SegmentationConfig) -> None:
    """Raise `RaylabError` for what can be told before anything is opened."""
    for flag in ("train", "val", "out"):
        if not getattr(config, flag):
            raise RaylabError(f"--{flag} is missing: see --help.")
    for flag, least in (("steps", 1), ("batch", 2), ("readers", 1)):  # norms of a single value have no spread
        if getattr(config, flag) < least:
            raise RaylabError(f"--{flag} {getattr(config, flag)}: it has to be {least} or more.")
    if config.precision not in ("fp32", "bf16"):
        raise RaylabError(f"--precision {config.precision!r} is not known: fp32, bf16.")
    if config.accelerator not in ("auto", *NAMES):
        raise RaylabError(f"--accelerator {config.accelerator!r} is not known: auto, {', '.join(NAMES)}.")


def absolute(config: R) -> R:
    """Return the config with whole paths: workers have working directories of their own."""
    encoder = config.task.encoder
    name = absolute_path(encoder.name) if Path(encoder.name).is_dir() else encoder.name
    task = replace(config.task, encoder=replace(encoder, name=name, weights=absolute_path(encoder.weights)))
    return replace(
        config,
        task=task,
        train=absolute_path(config.train),
        val=absolute_path(config.val),
        out=absolute_path(config.out),
    )
