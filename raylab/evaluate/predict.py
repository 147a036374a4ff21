"""Names the entities in image files with a trained model of either kind."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from raylab.errors import RaylabError
from raylab.evaluate.models import ModelConfig, as_recogniser
from raylab.sources.base import Limits
from raylab.sources.images import ImageRefused, open_image

if TYPE_CHECKING:
    from PIL import Image


@dataclass(frozen=True)
class PredictConfig:
    """Which model names what."""

    images: Annotated[tuple[str, ...], tyro.conf.Positional] = ()
    """Image files."""
    model: str = ""
    """A model's folder, or a training run's."""
    kb: str = ""
    """The knowledge base whose entities are named."""
    question: str = "what is the main object?"
    """What a generative model is asked; a dual encoder does not look at it."""
    k: int = 5
    """Answers for each image, at most."""
    device: str = "cpu"
    """``cpu`` or ``cuda``."""


def predict(config: PredictConfig) -> list[dict[str, Any]]:
    """Return an answer for each image, in order.

    Returns:
        ``{"image", "entities": [{"entity_id", "text", "score"}, ...]}``, best first, or ``{"image", "refused"}``.

    Raises:
        RaylabError: no image is named, or the model or the knowledge base cannot be opened.
    """
    if not config.images:
        raise RaylabError("no image is given: predict.py --model DIR --kb DIR IMAGE ...")
    recogniser = as_recogniser(ModelConfig(path=config.model, device=config.device), config.kb)
    opened = {name: _open(name) for name in config.images}
    pictures = {name: image for name, image in opened.items() if not isinstance(image, str)}
    found = recogniser.recognise(list(pictures.values()), [config.question] * len(pictures), config.k)
    entities = {name: [one._asdict() for one in answer] for name, answer in zip(pictures, found)}
    return [
        {"image": name, "entities": entities[name]} if name in entities else {"image": name, "refused": opened[name]}
        for name in config.images
    ]


def _open(name: str) -> Image.Image | str:
    """Return the picture, or why it cannot be had."""
    try:
        return open_image(Path(name).read_bytes(), Limits())
    except (OSError, ImageRefused) as error:
        return str(error)
