"""What a training run is: frozen dataclasses, which recipes fill in and the command line overrides."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

from raylab.config import leaves
from raylab.errors import RaylabError, nearest
from raylab.sources.base import SourceConfig
from raylab.tasks.base import Located, TaskConfig
from raylab.train.examples import KINDS
from raylab.train.optim import OptimConfig


@dataclass(frozen=True)
class DataConfig:
    """Which rows, and how they are read."""

    rows: str = "labelled"
    """``labelled``: rows that have a label; ``all``: also those that the labeling run rejected, as raw pairs."""
    held_out: float = 0.01
    """Share of the rows that is kept from training, to measure it by."""
    held_out_rows: int = 4096
    """Of those, so many are looked at, some."""
    window_rows: int = 50_000
    """Rows that are shuffled together; a reader holds that many rows (not their pictures) in memory."""
    mix: tuple[str, ...] = ()
    """Patterns of shard names, such as ``*entity_*`` and ``*query_*``: each batch has as many rows of each, whatever
    their numbers. None: all rows are seen equally often."""
    task_rows: int = 1024
    """Rows of one read task, some: a task has whole steps."""


@dataclass(frozen=True)
class ParallelConfig:
    """How many workers, and what each of them does."""

    workers: int = 1
    """Processes; one a GPU, or one a TPU host."""
    most_workers: int | None = None
    """Up to so many where the cluster has room: the run goes on with more or fewer. Null: always `workers`."""
    strategy: str = "ddp"
    """``ddp``: each worker has the whole network; ``fsdp``: it is sharded (FSDP2)."""
    accumulate: int = 1
    """Passes whose gradients are added up before a step; a contrastive loss sees one pass's rows at a time."""
    precision: str = "fp32"
    """``fp32`` or ``bf16`` (autocast; weights stay in float32)."""
    checkpoint_activations: bool = False
    """Compute activations again in the backward pass instead of keeping them."""
    compile: bool = False
    """Use torch.compile."""
    cpus: float = 1.0
    """CPUs that each worker asks of Ray, beside those that read."""
    gpus: float = 1.0
    """GPUs of each worker, where it is on GPUs. Below 1 runs of one worker share a GPU."""
    threads: int | None = None
    """CPU threads of torch in each worker; null leaves them to torch and Ray."""
    topology: str = ""
    """TPUs: a slice's, such as 4x4; the workers are the hosts of one or more slices. Empty: no TPUs."""
    tpu: str = ""
    """TPUs: Ray's name of their kind, such as TPU-V6E or TPU-V5LITEPOD."""
    compile_cache: str = "~/.cache/raylab/xla"
    """XLA: folder on each host that keeps compiled programs for the next run; empty: none."""
    max_failures: int = 3
    """How often workers that died are started again before the run ends; -1: without end."""


@dataclass(frozen=True)
class CheckpointConfig:
    """When a run is saved, and what is kept."""

    every: int = 1000
    """Steps between two checkpoints; the last step is always saved."""
    keep: int = 2
    """The latest so many are kept."""
    keep_every: int = 0
    """Besides, those of every so many steps; 0: none."""


@dataclass(frozen=True)
class TrackConfig:
    """What is told while a run goes on."""

    every: int = 20
    """Steps between two lines and points of the curves."""
    evaluate_every: int = 500
    """Steps between two looks at the rows that are held out."""
    project: str = "raylab"
    """W&B's; without WANDB_API_KEY the run is kept offline, in the run's folder. Empty: no W&B."""
    group: str = ""
    """W&B's name for runs that belong together."""
    samples: int = 8
    """Pictures among them that are shown in W&B, with what the model says of them."""
    answered: int = 32
    """Rows among them that each worker's network answers at each look, for tasks that write; 0: none."""


@dataclass(frozen=True)
class TrainConfig:
    """A training run."""

    recipe: str
    """Which function made this config."""
    task: TaskConfig
    """What is learnt."""
    source: SourceConfig = field(default_factory=lambda: SourceConfig(uri=""))
    """Where the pictures are: the source that the labels were made from."""
    labels: str = ""
    """The label store's folder or URI."""
    kb: str = ""
    """The knowledge base's folder; empty: the one that the labels were made with."""
    out: str = ""
    """The run's folder or URI."""
    shared_disk: bool = False
    """Source, labels, kb and out are paths of a disk that every node of the cluster mounts at the same place."""
    steps: int = 10_000
    """Steps in all."""
    batch: int = 1024
    """Rows of a step over all workers."""
    seed: int = 0
    """Of weights, order and everything that is drawn."""
    accelerator: str = "auto"
    """``cpu``, ``cuda``, ``xla`` (TPUs), or ``auto``: a GPU or a TPU where there is one."""
    init: str = ""
    """Another run's folder whose last weights this one starts from."""
    data: DataConfig = field(default_factory=DataConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    track: TrackConfig = field(default_factory=TrackConfig)

    def places(self) -> dict[str, str]:
        """Return what workers open, by its flag."""
        found = {"--source": self.source.uri, "--labels": self.labels, "--kb": self.kb, "--out": self.out}
        named = self.task.places() if isinstance(self.task, Located) else {}
        whole = {flag: absolute_file(name) for flag, name in named.items()}  # a model's name stays one, and is no place
        paths = {flag: place for flag, place in whole.items() if "://" in place or Path(place).is_absolute()}
        return found | {"--init": self.init} | paths


CHOICES = {
    "data.rows": tuple(KINDS),
    "parallel.strategy": ("ddp", "fsdp"),
    "parallel.precision": ("fp32", "bf16"),
    "accelerator": ("auto", "cpu", "cuda", "xla"),
}

FROM_ONE = (
    "steps",
    "batch",
    "data.window_rows",
    "data.task_rows",
    "parallel.workers",
    "parallel.accumulate",
    "checkpoint.every",
    "checkpoint.keep",
    "track.every",
    "track.evaluate_every",
)
"""Fields that are numbers of something that there has to be."""


def check(config: TrainConfig) -> None:
    """Raise `RaylabError` for what can be told before anything is opened."""
    for flag in ("labels", "kb", "out"):
        if not getattr(config, flag):
            raise RaylabError(f"--{flag} is missing: see --help.")
    if not config.source.uri:
        raise RaylabError("--source is missing: the source that the labels were made from.")
    for name, known in CHOICES.items():
        value: object = config
        for part in name.split("."):
            value = getattr(value, part)
        if value not in known:
            raise RaylabError(f"--{name} {value!r} is not known: {', '.join(known)}.{nearest(str(value), known)}")
    _check_numbers(config)
    _check_gpus(config.parallel)
    _check_cache(config.parallel.compile_cache)
    _check_batch(config)


def _check_numbers(config: TrainConfig) -> None:
    numbers = {name.replace("_", "-"): value for name, value in leaves(config) if name in FROM_ONE}
    for name, value in numbers.items():
        if value < 1:
            raise RaylabError(f"--{name} {value}: give 1 or more.")
    if not 0 <= config.data.held_out < 1:
        raise RaylabError(f"--data.held-out {config.data.held_out}: give a share from 0 to below 1.")
    most = config.parallel.most_workers
    if most is not None and most < config.parallel.workers:
        raise RaylabError(f"--parallel.most-workers {most} is less than --parallel.workers {config.parallel.workers}.")


def _check_gpus(parallel: ParallelConfig) -> None:
    many = max(parallel.workers, parallel.most_workers or 1) > 1
    if parallel.gpus <= 0 or (parallel.gpus % 1 and (parallel.gpus > 1 or many)):
        raise RaylabError(
            f"--parallel.gpus {parallel.gpus:g}: whole GPUs, or a part of one for a run of one worker (NCCL does not "
            "let two workers share a GPU)."
        )


def _check_cache(folder: str) -> None:
    if folder and not folder.startswith(("/", "~")):
        raise RaylabError(
            f"--parallel.compile-cache {folder!r}: compiled programs are kept on each host's own disk, wherever --out "
            "is. Name a folder from its root or home (/var/cache/xla, ~/.cache/raylab/xla), or '' for none."
        )


def _check_batch(config: TrainConfig) -> None:
    parallel = config.parallel
    step = parallel.workers if parallel.topology else 1  # slices come and go as wholes
    for workers in range(parallel.workers, (parallel.most_workers or parallel.workers) + 1, step):
        if config.batch % (workers * config.parallel.accumulate):
            raise RaylabError(
                f"--batch {config.batch} cannot be shared by {workers} workers in {config.parallel.accumulate} passes: "
                "take a multiple of their product."
            )
        if config.data.mix and config.batch % (workers * len(config.data.mix)):
            raise RaylabError(
                f"--batch {config.batch} cannot be shared by {workers} workers in {len(config.data.mix)} equal parts "
                "(--data.mix): take a multiple of their product."
            )


def absolute(config: TrainConfig) -> TrainConfig:
    """Return the config with whole paths: Ray Train's workers have a working directory of their own."""
    return replace(
        config,
        task=config.task.located(absolute_file) if isinstance(config.task, Located) else config.task,
        source=replace(config.source, uri=absolute_path(config.source.uri)),
        labels=absolute_path(config.labels),
        kb=absolute_path(config.kb),
        out=absolute_path(config.out),
        init=absolute_path(config.init),
    )


def absolute_file(name: str) -> str:
    """Return the whole path of a file or folder; a name that is none stays as it is."""
    return absolute_path(name) if name and Path(name).exists() else name


def absolute_path(path: str) -> str:
    """Return a whole path; an address stays as it is."""
    return path if "://" in path or not path else str(Path(path).absolute())
