"""What is said of an entity in training: name, name in a template, description, or both (MOFI, section 2.2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from raylab.kb.catalog import Catalog

TEMPLATES = (
    "{}",
    "a photo of {}",
    "a picture of {}",
    "an image of {}",
    "a close-up of {}",
    "a drawing of {}",
    "this is {}",
)
"""After CLIP's prompts; which ones MOFI used is not known."""


@dataclass(frozen=True)
class WordingConfig:
    """How often each form is drawn; what the paper leaves open is our choice."""

    name: float = 1.0
    """The name, in a template or as it is."""
    description: float = 1.0
    """The description alone, where there is one."""
    both: float = 2.0
    """``name: description``."""


class Wording:
    """Texts of entities, drawn from a knowledge base.

    Args:
        kb: its folder.
        config: see there.
    """

    def __init__(self, kb: str, config: WordingConfig) -> None:
        self.kb, self.config = kb, config

    def __getstate__(self) -> dict:
        return {"kb": self.kb, "config": self.config}

    @cached_property
    def _catalog(self) -> Catalog:
        return Catalog.open(self.kb)

    def __call__(self, rows: np.ndarray, draws: Sequence[np.random.Generator]) -> list[str]:
        """Return one text for each entity, given by its row in the knowledge base."""
        found = self._catalog.take(rows, ("title", "description")).to_pylist()
        return [self._say(one["title"], one["description"], draw) for one, draw in zip(found, draws)]

    def _say(self, title: str, description: str | None, draw: np.random.Generator) -> str:
        weights = np.array([self.config.name, self.config.description, self.config.both])
        if not description:
            weights[1:] = 0, 0
        form = draw.choice(3, p=weights / weights.sum()) if weights.sum() else 0
        if form == 0:
            return TEMPLATES[draw.integers(len(TEMPLATES))].format(title)
        return description if form == 1 and description else f"{title}: {description}"
