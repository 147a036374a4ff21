"""Names the entities in image files with a trained model of either kind."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from raylab.errors import RaylabError
from raylab.evaluate.base import Recogniser
from raylab.evaluate.models import DecodingConfig, ModelConfig, as_recogniser
from raylab.sources.base import Limits
from raylab.sources.images import ImageRefused, open_image

if TYPE_CHECKING:
    from PIL import Image


logger = logging.getLogger(__name__)

GROUP = 32
"""Pictures that are held at once, where the line does not say how many go through the network."""


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
    precision: str | None = None
    """``fp32``, ``fp16`` or ``bf16``; null: fp16 on a GPU, fp32 on a CPU."""
    threads: int | None = None
    """CPU threads of torch; null leaves torch's own setting."""
    batch: int | None = None
    """Images that go through the network at once; null: 64, of a generative model 8."""
    decoding: DecodingConfig = field(default_factory=DecodingConfig)

    def model_config(self) -> ModelConfig:
        """Return which model is asked, and how it is run."""
        return ModelConfig(self.model, None, self.precision, self.device, self.threads, self.batch, self.decoding)


def predict(config: PredictConfig) -> Iterator[dict[str, Any]]:
    """Yield an answer for each image, in order; few pictures are held at once.

    Yields:
        ``{"image", "entities": [{"entity_id", "text", "score"}, ...]}``, best first, or ``{"image", "refused"}``.

    Raises:
        RaylabError: no image is named, the model or the knowledge base cannot be opened, or the model's output is no
            number.
    """
    if not config.images:
        raise RaylabError("no image is given: predict.py --model DIR --kb DIR IMAGE ...")
    if config.k < 1:
        raise RaylabError("--k must be 1 or more.")
    recogniser = as_recogniser(config.model_config(), config.kb)
    if recogniser.note:
        logger.warning("%s", recogniser.note)
    rows = config.batch or GROUP
    for start in range(0, len(config.images), rows):
        yield from _group(recogniser, config, config.images[start : start + rows])


def _group(recogniser: Recogniser, config: PredictConfig, names: Sequence[str]) -> Iterator[dict[str, Any]]:
    opened = [_open(name, recogniser.image_size) for name in names]
    pictures = [picture for picture in opened if not isinstance(picture, str)]
    try:
        found = iter(recogniser.recognise(pictures, [config.question] * len(pictures), config.k) if pictures else [])
    except FloatingPointError as error:
        raise RaylabError(str(error)) from error
    for name, picture in zip(names, opened):
        if isinstance(picture, str):
            yield {"image": name, "refused": picture}
        else:
            yield {"image": name, "entities": [one._asdict() for one in next(found)]}


def _open(name: str, side: int) -> Image.Image | str:
    """Return the picture, decoded at no more than a network of so many pixels needs, or why it cannot be had."""
    try:
        return open_image(Path(name).read_bytes(), Limits(), side)
    except (OSError, ImageRefused) as error:
        return str(error)
