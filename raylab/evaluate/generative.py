"""A generative recogniser as evaluation and prediction ask it: pictures and questions in, entities out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from raylab.evaluate.base import Recognised
from raylab.kb.titles import Titles
from raylab.models.beam import BEAMS, Beams, decode, keep_names
from raylab.models.crop import centre_box, resized
from raylab.models.git_module import SavedGit

if TYPE_CHECKING:
    from PIL import Image

    from raylab.kb.catalog import Catalog


@dataclass(frozen=True)
class DecodingConfig:
    """How answers are searched for."""

    beams: int = BEAMS
    """The paper's 30 (arXiv 2410.23676, decoding)."""
    constrained: bool = True
    """Titles are a hard constraint at each step; otherwise free beams, of which those are kept that are a title."""
    batch: int = 8
    """Pictures that are searched for at once."""


class GitRecogniser:
    """Names the entity that a question about a picture asks for.

    Args:
        saved: the model.
        catalog: the entities whose titles are names.
        settings: of the search.
        device: of the network.
        name: what the model is called.
    """

    def __init__(
        self, saved: SavedGit, catalog: Catalog, settings: DecodingConfig, *, device: str = "cpu", name: str = "git"
    ) -> None:
        self.id, self.revision = name, saved.revision
        self._module, self._tokenizer = saved.module.to(device), saved.tokenizer
        self._catalog, self._settings, self._device = catalog, settings, device
        if saved.codes:
            self._titles = Titles.open_codes(catalog, saved.tokenizer)
        else:
            self._titles = Titles.open(catalog, saved.tokenizer, saved.module.git.config.target - 2)
        self._trie = self._titles.trie.to(device)
        self._constrained = saved.codes or settings.constrained  # a code is no text that could be spelt in another way

    @classmethod
    def open(
        cls, folder: Path, catalog: Catalog, settings: DecodingConfig | None = None, device: str = "cpu"
    ) -> GitRecogniser:
        """Open a saved model.

        The trie of a knowledge base's titles is built once and kept beside the knowledge base.

        Raises:
            RaylabError: the folder is no such model, or damaged.
        """
        saved = SavedGit.open(folder)
        return cls(saved, catalog, settings or DecodingConfig(), device=device, name=folder.parent.name)

    @property
    def image_size(self) -> int:
        """Pixels a side."""
        return self._module.image_size

    def recognise(self, images: list[Image.Image], questions: list[str], k: int) -> list[list[Recognised]]:
        """Return at most `k` answers to each question, best first; scores are log-probabilities.

        Args:
            images: RGB.
            questions: as many, each about the picture of the same place.
            k: at most the number of beams.
        """
        answers: list[list[Recognised]] = []
        for at in range(0, len(images), self._settings.batch):
            chosen = slice(at, at + self._settings.batch)
            answers += self._answer(self._search(images[chosen], questions[chosen], k), k)
        return answers

    def _search(self, images: list[Image.Image], questions: list[str], k: int) -> Beams:
        git, settings = self._module.git, self._settings
        image_BHWC = torch.from_numpy(
            np.stack([resized(image, self.image_size, centre_box(*image.size)) for image in images])
        )
        context_BC = torch.from_numpy(self._tokenizer.questions(questions, git.config.context))
        with torch.inference_mode():
            pixels = self._module.pixels(image_BHWC.to(self._device))
        inputs = (git, pixels, context_BC.to(self._device))
        if self._constrained:
            return decode(*inputs, trie=self._trie, beams=settings.beams, results=min(k, settings.beams))
        free = decode(*inputs, steps=git.config.target, beams=settings.beams)
        return keep_names(free, git.config.eos, self._tokenizer.text, self._names)

    def _names(self, texts: list[str]) -> list[int]:
        """Return the number of the title that each text is, in the tokenizer's spelling, or -1."""
        return self._titles.find(self._tokenizer.ids(texts))

    def _answer(self, found: Beams, k: int) -> list[list[Recognised]]:
        row_BR = self._titles.row(found.name_BR.cpu().numpy())
        known = self._catalog.take(np.maximum(row_BR.ravel(), 0), ("id", "title")).to_pylist()
        answers = []
        for b, (rows, scores) in enumerate(zip(row_BR, found.score_BR.cpu().tolist())):
            mine = known[b * len(rows) : (b + 1) * len(rows)]
            named = [(one, score) for one, row, score in zip(mine, rows, scores) if row >= 0 and np.isfinite(score)]
            answers.append([Recognised(one["id"], one["title"], score) for one, score in named[:k]])
        return answers
