"""Opens the model under test; and what makes a dual encoder answer questions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from raylab.assets import fetch, locate
from raylab.errors import RaylabError
from raylab.evaluate.base import Embedder, Recognised, Recogniser
from raylab.evaluate.named import ABOUT as DEVISE_CONFIG
from raylab.evaluate.named import NamedEncoder, NearestName
from raylab.evaluate.ranking import nearest
from raylab.storage import Folder

if TYPE_CHECKING:
    from PIL import Image

    from raylab.kb.catalog import Catalog

OPEN_CLIP_CONFIG, GIT_CONFIG = "open_clip_config.json", "git.json"
"""What tells kinds of a model's folder apart; a GIT of Hugging Face is of the second kind. A third: `_is_timm`."""
CHECKPOINT_CONFIG = "config.json"
DUAL_BATCH, GENERATIVE_BATCH = 64, 8
PRECISIONS = ("fp32", "fp16", "bf16")
MODEL_FOLDER = "model"
"""Where a training run keeps its model, below its own folder."""


@dataclass(frozen=True)
class DecodingConfig:
    """How a generative model's answers are searched for."""

    beams: int = 30
    """The paper's (arXiv 2410.23676, decoding)."""
    constrained: bool = True
    """Names are a hard constraint at each step; otherwise free beams, of which those are kept that are a name, as the
    paper does on OVEN."""


@dataclass(frozen=True)
class ModelConfig:
    """Which model, and how it is run."""

    path: str = ""
    """A folder with open_clip_config.json or git.json, a training run's folder, a folder with a GIT of Hugging Face or
    with a model of timm, or an open_clip architecture's name."""
    pretrained: str | None = None
    """For an architecture: the tag of its weights or a checkpoint's path."""
    precision: str | None = None
    """``fp32``, ``fp16`` or ``bf16``; null: fp16 on a GPU, fp32 on a CPU."""
    device: str = "cpu"
    """``cpu`` or ``cuda``."""
    threads: int | None = None
    """CPU threads of torch in each process; null leaves torch's own setting."""
    batch: int | None = None
    """Images or texts that go through the network at once; null: 64, of a generative model 8."""
    decoding: DecodingConfig = field(default_factory=DecodingConfig)

    def __post_init__(self) -> None:
        if self.batch is not None and self.batch < 1:
            raise RaylabError("--batch must be 1 or more.")
        if self.decoding.beams < 1:
            raise RaylabError("--decoding.beams must be 1 or more.")
        if self.precision not in (None, *PRECISIONS):
            raise RaylabError(f"--precision {self.precision!r} is none of {', '.join(PRECISIONS)}.")


@dataclass(frozen=True, eq=False)
class Model:
    """A model in this process: one of the two kinds."""

    embedder: Embedder | None
    """None: a generative model, which embeds nothing that could be compared."""
    recogniser: Callable[[Catalog], Recogniser]
    """Makes it a model that names the entities of a knowledge base."""
    namer: Callable[[Sequence[str]], Recogniser] | None = None
    """Makes a generative model one whose answers are these titles, with no entity's id."""


@lru_cache(maxsize=2)
def open_model(config: ModelConfig) -> Model:
    """Open a model, once in a process.

    Raises:
        RaylabError: nothing is there, or it cannot be loaded; see `ClipEncoder.load` and `GitModel.open`.
    """
    place = find_model(config.path)
    if is_generative(config.path):
        from raylab.evaluate.generative import GitModel

        git = GitModel.open(Path(place), config)
        return Model(None, git.of_entities, git.of_titles)
    from raylab.models.clip import ClipConfig
    from raylab.models.image_encoder import ImageEncoder, is_encoder

    batch = config.batch or DUAL_BATCH
    if is_encoder(Path(place)):
        load = partial(ImageEncoder.load, threads=config.threads, precision=config.precision, batch=batch)
        pictures = load(Path(place), config.device)
        if (Path(place) / DEVISE_CONFIG).is_file():
            named = NamedEncoder.load(Path(place), pictures)
            return Model(named, partial(NearestName, named))
        return Model(pictures, partial(NearestEntity, pictures))
    clip = ClipConfig(place, config.pretrained, config.precision, config.threads, batch)
    embedder = clip.load(config.device)
    return Model(embedder, partial(NearestEntity, embedder))


def is_generative(path: str) -> bool:
    """Tell whether a model's folder, or a training run's, holds a generative model.

    Raises:
        RaylabError: see `find_model`.
    """
    from raylab.models.git_checkpoint import is_checkpoint

    folder = Path(find_model(path))
    return (folder / GIT_CONFIG).is_file() or is_checkpoint(folder)


def find_model(path: str) -> str:
    """Return the folder of a model, or the name as it is where there is no such folder.

    Raises:
        RaylabError: no model is named, or a folder holds none.
    """
    if not path:
        raise RaylabError("--model is missing: a model's folder, a training run's folder, or an open_clip name.")
    folder = Folder(locate(path))
    if folder.is_local and not folder.exists(""):
        return path  # of the hub, or an architecture: else `find_clip` says that it is neither
    for below in ("", f"{MODEL_FOLDER}/"):
        if any(folder.exists(f"{below}{name}") for name in (OPEN_CLIP_CONFIG, GIT_CONFIG)) or _is_timm(folder, below):
            return fetch(f"{folder.uri}/{below}".rstrip("/"))
    if _is_checkpoint(folder):
        return fetch(folder.uri)
    raise RaylabError(
        f"--model {path}: neither {OPEN_CLIP_CONFIG} nor {GIT_CONFIG} there, nor in {MODEL_FOLDER}/ below it, nor a "
        "config.json of timm: neither a model's folder nor a training run's that has saved one."
    )


def _is_checkpoint(folder: Folder) -> bool:
    """Tell whether a GIT of Hugging Face lies there; a training run, too, has a config.json."""
    return folder.exists(CHECKPOINT_CONFIG) and folder.read_json(CHECKPOINT_CONFIG).get("model_type") == "git"


def _is_timm(folder: Folder, below: str) -> bool:
    """Tell whether a model of timm lies there, by its config."""
    name = f"{below}{CHECKPOINT_CONFIG}"
    return folder.exists(name) and "architecture" in folder.read_json(name)


@lru_cache(maxsize=1)
def as_recogniser(config: ModelConfig, kb: str) -> Recogniser:
    """Open a model as one that names the entities of a knowledge base, once in a process.

    Args:
        config: the model; of a dual encoder, the nearest entities are taken.
        kb: the knowledge base's folder.

    Raises:
        RaylabError: see `open_model` and `Catalog.open`; no knowledge base is named.
    """
    from raylab.kb.catalog import Catalog

    if not kb:
        raise RaylabError("--kb is missing: the knowledge base whose entities are the answers.")
    catalog = Catalog.open(kb)
    return open_model(config).recogniser(catalog)


class NearestEntity:
    """Names the entities whose "title: description" lies nearest to the picture. The question is not looked at.

    So two questions about one picture have the same answer: OVEN's query split is beyond this recogniser, as it is
    beyond CLIP itself (the fusion of both towers that OVEN's paper trains is another model).

    Args:
        embedder: the dual encoder.
        catalog: the entities; their vectors are computed once and kept beside them.
    """

    def __init__(self, embedder: Embedder, catalog: Catalog) -> None:
        from raylab.kb.vectors import EntityVectors

        self.id, self.revision = f"nearest entity by {embedder.id}", embedder.revision
        self.image_size = embedder.image_side
        self.note = ""
        self._embedder, self._catalog = embedder, catalog
        self._matrix = EntityVectors.open(catalog.path / "vectors", catalog, embedder).matrix

    def recognise(self, images: list[Image.Image], questions: list[str], k: int) -> list[list[Recognised]]:
        """See `base.Recogniser`; scores are cosines."""
        if len(images) != len(questions):
            raise ValueError(f"{len(images)} images and {len(questions)} questions")
        row_NK, cosine_NK = nearest(self._embedder.encode_images(images), self._matrix, k)
        found = self._catalog.take(row_NK.ravel(), ("id", "title"))
        ids, titles = (np.array(found[name].to_pylist(), object).reshape(row_NK.shape) for name in ("id", "title"))
        return [
            [Recognised(*one) for one in zip(ids[row], titles[row], cosine_NK[row].tolist())]
            for row in range(len(images))
        ]
