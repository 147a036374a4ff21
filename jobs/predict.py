"""Name the entities in images with a trained model of either kind: a dual encoder or a generative recogniser.

    python jobs/predict.py --model DIR --kb DIR [--question "which flag is on the left?"] [--k 5] IMAGE [IMAGE ...]

One JSON object a line: image, entities (id, title, score), or the reason why the image was refused.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from raylab.config import parse
from raylab.errors import RaylabError
from raylab.evaluate.models import ModelConfig, as_recogniser
from raylab.sources.base import Limits
from raylab.sources.images import ImageRefused, open_image


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


def main(args: list[str]) -> int:
    """Run the job; return the exit status: 1 where an image was refused."""
    try:
        config = parse({"predict": PredictConfig}, "predict", args, "Name the entities in images.")
        answers = predict(config)
    except RaylabError as error:
        print(f"predict: {error}", file=sys.stderr)
        return 2
    for answer in answers:
        print(json.dumps(answer, ensure_ascii=False))
    return int(any("refused" in answer for answer in answers))


def predict(config: PredictConfig) -> list[dict[str, Any]]:
    """Return an answer for each image, in order."""
    if not config.images:
        raise RaylabError("no image is given: predict.py --model DIR --kb DIR IMAGE ...")
    recogniser = as_recogniser(ModelConfig(path=config.model, device=config.device), config.kb)
    opened = {name: _open(name) for name in config.images}
    names = [name for name, image in opened.items() if not isinstance(image, str)]
    found = recogniser.recognise([opened[name] for name in names], [config.question] * len(names), config.k)
    entities = {name: [one._asdict() for one in answer] for name, answer in zip(names, found)}
    return [
        {"image": name, "entities": entities[name]} if name in entities else {"image": name, "refused": opened[name]}
        for name in config.images
    ]


def _open(name: str) -> Any:
    """Return the picture, or why it cannot be had."""
    try:
        return open_image(Path(name).read_bytes(), Limits())
    except (OSError, ImageRefused) as error:
        return str(error)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
