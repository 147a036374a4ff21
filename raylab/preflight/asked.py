"""What a job's line asks for, whatever the job."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from raylab.sources.base import SourceConfig

OF_CLIP = ("torchvision", "open-clip-torch")


@dataclass(frozen=True)
class Model:
    """A model that workers open."""

    kind: str
    """``clip``, ``spacy``, ``engine`` (vLLM's own, or behind an address), ``tokenizer`` or ``encoder``."""
    name: str
    pretrained: str | None = None


@dataclass(frozen=True)
class Input:
    """What a job reads besides its source and its knowledge base."""

    kind: str
    """``store`` (a label store), ``run`` (a training run), ``set`` (images), ``words`` (word vectors)."""
    uri: str


@dataclass(frozen=True)
class Asked:
    """What the checks are made for. Without a job's line: the cluster alone."""

    cpus: float = 0.0
    """CPUs without which the job's actors and tasks cannot all start."""
    gpus: float = 0.0
    train: Any = None
    """A training run's config: what it trains on depends on the cluster."""
    places: Mapping[str, str] = field(default_factory=dict)
    """Flag -> path or address that workers open."""
    shared_disk: bool = False
    out: str = ""
    source: SourceConfig | None = None
    kb: str = ""
    models: Mapping[str, Model] = field(default_factory=dict)
    """Flag -> model."""
    inputs: Mapping[str, Input] = field(default_factory=dict)
    """Flag -> what else is read: a label store, another run, sets of images."""
    packages: tuple[str, ...] = ()
    """Packages without which its workers do not start."""
    project: str | None = None
    """W&B's; null: the job does not use W&B."""


def of_label(config: Any, cpus: float, gpus: float) -> Asked:
    """Return what a labeling run asks for, or an annotation run."""
    steps, models = config.step_configs(), {}
    packages: list[str] = []
    if "select" in steps:
        models["--select.clip"] = Model("clip", config.select.clip.name, config.select.clip.pretrained)
        packages += OF_CLIP
    if "mentions" in steps and not config.mentions.aliases_only:
        models["--mentions.spacy"] = Model("spacy", config.mentions.spacy)
        packages.append("spacy")
    for flag in ("annotator", "describer"):
        engine = getattr(config, flag, None)
        if engine is not None and engine.model:
            models[f"--{flag}.model"] = Model("engine", engine.model)
            packages += [] if engine.model.startswith(("http://", "https://")) else ["vllm", "transformers"]
    return Asked(
        cpus,
        gpus,
        places=config.places(),
        shared_disk=config.shared_disk,
        out=config.out,
        source=config.source,
        kb=config.kb,
        models=models,
        packages=tuple(dict.fromkeys(packages)),
        project=config.track.project or None,
    )


def _models_of_task(task: Any) -> dict[str, Model]:
    if checkpoint := getattr(task, "pretrained", None):  # brings encoder and tokenizer
        return {"--task.pretrained": Model("tokenizer", checkpoint)}
    encoder, found = task.encoder, {}
    is_clip = hasattr(encoder, "from_scratch")
    if is_clip and (encoder.pretrained or ("/" in encoder.name and not encoder.from_scratch) or "://" in encoder.name):
        found["--task.encoder"] = Model("clip", encoder.name, encoder.pretrained)
    if weights := getattr(encoder, "weights", ""):
        found["--task.encoder.weights"] = Model("encoder", f"timm/{encoder.name}" if weights == "timm" else weights)
    if (tokenizer := getattr(task, "tokenizer", None)) and getattr(task, "writes", True):
        found["--task.tokenizer"] = Model("tokenizer", tokenizer.name)
    return found


def of_train(config: Any, cpus: float) -> Asked:
    """Return what a training run asks for."""
    inputs = {"--labels": Input("store", config.labels)} | (
        {"--init": Input("run", config.init)} if config.init else {}
    )
    words = getattr(config.task, "words", "")
    if isinstance(words, str) and words and not words.startswith("random://"):
        inputs["--task.words"] = Input("words", words)
    return Asked(
        cpus,
        train=config,
        places=config.places(),
        shared_disk=config.shared_disk,
        out=config.out,
        source=config.source,
        kb=config.kb,
        models=_models_of_task(config.task),
        inputs=inputs,
        packages=(*OF_CLIP, "transformers", *(("torch-xla",) if config.accelerator == "xla" else ())),
        project=config.track.project or None,
    )


def of_sweep(trial: Asked, config: Any) -> Asked:
    """Return what a sweep asks for.

    Args:
        trial: what one of its training runs asks for.
        config: of the sweep.
    """
    validate = config.validate
    sets = {f"--validate.{flag[2:]}": one for flag, one in (_sets(validate) if validate.suite else {}).items()}
    return replace(
        trial,
        gpus=config.validate_gpus,
        places={**trial.places, **{flag: one.uri for flag, one in sets.items()}},
        inputs={**trial.inputs, **sets},
        packages=(*trial.packages, "optuna", "plotly", "wandb-workspaces"),
    )


def of_evaluate(config: Any, cpus: float, gpus: float) -> Asked:
    """Return what an evaluation asks for."""
    models = {}
    if config.model and not _is_folder(config.model):
        models["--model"] = Model("clip", config.model, config.pretrained)
    return Asked(
        cpus,
        gpus,
        places=config.places() if config.workers else {},
        shared_disk=config.shared_disk,
        out=config.out,
        kb=config.kb,
        models=models,
        inputs=_sets(config),
        packages=OF_CLIP,
        project=config.track.project or None,
    )


def _sets(config: Any) -> dict[str, Input]:
    """Return the sets of images that the benchmarks read; the made ones are nowhere."""
    found = {flag: place for flag, place in config.places().items() if flag not in ("--kb", "--model")}
    return {
        flag: Input("set", place) for flag, place in found.items() if not place.startswith(("miniworld://", "oven://"))
    }


def _is_folder(name: str) -> bool:
    """A model's folder is one of the places; a name of the hub or an architecture's is not."""
    return "://" in name or Path(name).is_dir()
