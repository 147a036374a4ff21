"""What an evaluation run is: its config, and the names of its suite."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass, field
from pathlib import Path

from raylab.errors import RaylabError, nearest
from raylab.evaluate.embedding import EmbeddingConfig
from raylab.evaluate.label_quality import LabelQualityConfig
from raylab.evaluate.matching import MatchingConfig
from raylab.evaluate.models import DecodingConfig, ModelConfig
from raylab.evaluate.oven import OvenConfig
from raylab.evaluate.probe import ProbeConfig
from raylab.evaluate.retrieval import RetrievalConfig
from raylab.evaluate.zero_shot import ZeroShotConfig
from raylab.tracking import TrackingConfig, check_installed

SUITE = ("oven", "gpr1200", "retrieval", "zero_shot", "embedding", "probe", "matching", "label_quality")
"""All benchmarks, in the order of the table."""


@dataclass(frozen=True)
class EvaluateConfig:
    """An evaluation run.

    A data set is an address with options behind a ``#``: ``val.parquet#label=fine,title=name,rows=500``, a folder of
    classes, a .jsonl file beside its images, or ``miniworld://?rows=2000&seed=7``; see `image_set.Address`.
    """

    recipe: str = "standard"
    model: str = ""
    """A folder with open_clip_config.json or git.json, a training run's folder, a folder with a GIT of Hugging Face, or
    an open_clip architecture's name."""
    pretrained: str | None = None
    """For an architecture: the tag of its weights or a checkpoint's path."""
    precision: str | None = None
    """``fp32``, ``fp16`` or ``bf16``; null: fp16 on a GPU, fp32 on a CPU."""
    device: str = "cpu"
    """``cpu``, or ``cuda``: a GPU for each worker."""
    threads: int | None = None
    """CPU threads of torch in each process; null leaves torch's own setting."""
    batch: int | None = None
    """Images or texts that go through the network at once; null: 64, of a generative model 8."""
    decoding: DecodingConfig = field(default_factory=DecodingConfig)
    suite: str = "retrieval"
    """Benchmarks joined by commas: oven, gpr1200, retrieval, zero_shot, embedding, probe, matching, label_quality."""
    data: str = ""
    """The labelled images of every benchmark that has none of its own."""
    kb: str = ""
    """The knowledge base that oven's answers come from."""
    out: str = ""
    """The folder for scores.json, report.html and plots."""
    shared_disk: bool = False
    """All paths lie on a disk that every node of the cluster mounts at the same place."""
    workers: int = 0
    """Ray actors that embed images; 0: this process does, and Ray is not started."""
    num_cpus: float = 1.0
    """CPUs that each worker reserves."""
    plots: bool = True
    """Draw the curves, the worst pairs and the sheets of images."""
    track: TrackingConfig = field(default_factory=TrackingConfig)
    """W&B."""
    oven: OvenConfig = field(default_factory=OvenConfig)
    gpr1200: RetrievalConfig = field(default_factory=RetrievalConfig)
    retrieval: RetrievalConfig = field(default_factory=RetrievalConfig)
    zero_shot: ZeroShotConfig = field(default_factory=ZeroShotConfig)
    embedding: EmbeddingConfig = field(default_factory=EmbeddingConfig)
    probe: ProbeConfig = field(default_factory=ProbeConfig)
    matching: MatchingConfig = field(default_factory=MatchingConfig)
    label_quality: LabelQualityConfig = field(default_factory=LabelQualityConfig)

    def model_config(self) -> ModelConfig:
        """Return which model is scored, and how it is run."""
        return ModelConfig(
            self.model, self.pretrained, self.precision, self.device, self.threads, self.batch, self.decoding
        )

    def places(self) -> dict[str, str]:
        """Return what workers open, by its flag: the model's folder, images, the knowledge base."""
        found = {
            "--kb": self.kb,
            "--data": self.data,
            "--oven.images": self.oven.images,
            "--gpr1200.data": self.gpr1200.data,
            "--retrieval.data": self.retrieval.data,
            "--zero-shot.data": self.zero_shot.data,
            "--embedding.data": self.embedding.data,
            "--probe.train": self.probe.train,
            "--probe.test": self.probe.test,
            "--matching.memory": self.matching.memory,
            "--matching.data": self.matching.data,
        }
        if Path(self.model).is_dir():  # else an address, or a name
            found["--model"] = self.model
        return {flag: place.partition("#")[0] for flag, place in found.items() if place}


def check(config: EvaluateConfig) -> list[str]:
    """Refuse a config that cannot run, before anything is opened; return the names of its benchmarks.

    Raises:
        RaylabError: no output folder, an unknown benchmark, no model where one is needed, numbers that make no sense.
    """
    if not config.out:
        raise RaylabError("--out is missing: the folder for scores and plots.")
    names = [name.strip() for name in config.suite.split(",") if name.strip()]
    for name in names:
        if name not in SUITE:
            raise RaylabError(f"--suite: no benchmark {name!r}.{nearest(name, SUITE)} Known: {', '.join(SUITE)}.")
    if not names:
        raise RaylabError(f"--suite is empty. Known: {', '.join(SUITE)}.")
    if needs_model(config, names) and not config.model:
        raise RaylabError("--model is missing: a model's folder, a training run's folder, or an open_clip name.")
    if "oven" in names and not config.oven.predictions and not config.kb:
        raise RaylabError("--kb is missing: the knowledge base whose entities answer oven's questions.")
    check_installed(config.track)
    config.model_config()  # refuses numbers that make no sense
    if config.workers < 0 or config.oven.top < 1:
        raise RaylabError("--workers must be 0 or more; --oven.top 1 or more.")
    if config.plots and importlib.util.find_spec("matplotlib") is None:
        raise RaylabError("Plots need matplotlib, which is not installed: install raylab[evaluate], or use --no-plots.")
    return [name for name in SUITE if name in names]


def needs_model(config: EvaluateConfig, names: list[str]) -> bool:
    """Tell whether a benchmark of the suite asks a model: not label_quality, and not oven with given predictions."""
    without = {"label_quality"} | ({"oven"} if config.oven.predictions else set())
    return not set(names) <= without
