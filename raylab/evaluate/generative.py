"""A generative recogniser as evaluation and prediction ask it: pictures and questions in, names out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from raylab.errors import RaylabError
from raylab.evaluate.base import Recognised
from raylab.evaluate.models import GENERATIVE_BATCH, DecodingConfig, ModelConfig
from raylab.kb.titles import Titles
from raylab.models.beam import Beams, decode, keep_names
from raylab.models.crop import centre_box, resized
from raylab.models.git_module import SavedGit
from raylab.models.trie import Trie

if TYPE_CHECKING:
    from PIL import Image

    from raylab.kb.catalog import Catalog

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


class GitModel:
    """A generative model on its device, which names can be given to.

    Args:
        saved: the model.
        config: how it is run.
        name: what it is called.

    Raises:
        RaylabError: the device is not there.
    """

    def __init__(self, saved: SavedGit, config: ModelConfig, name: str = "git") -> None:
        if torch.device(config.device).type == "cuda" and not torch.cuda.is_available():
            raise RaylabError(f"device {config.device!r}: torch sees no GPU here; set the device to 'cpu'.")
        if config.threads is not None:
            torch.set_num_threads(config.threads)
        self.saved, self.config, self.name = saved, config, name
        usual = "fp32" if torch.device(config.device).type == "cpu" else "fp16"
        self.dtype = DTYPES[config.precision or usual]
        saved.module.to(config.device).git.to(self.dtype)  # pixels are normalised in float32 all the same

    @classmethod
    def open(cls, folder: Path, config: ModelConfig) -> GitModel:
        """Open a saved model.

        Raises:
            RaylabError: the folder is no such model, or damaged; the device is not there.
        """
        return cls(SavedGit.open(folder), config, folder.parent.name if folder.name == "model" else folder.name)

    def of_entities(self, catalog: Catalog) -> GitRecogniser:
        """Let a knowledge base's entities be the answers. Their trie is built once and kept beside the knowledge base.

        Raises:
            RaylabError: the trie has to be built and cannot be written.
        """
        saved = self.saved
        if saved.codes:
            titles = Titles.open_codes(catalog, saved.tokenizer)
        else:
            titles = Titles.open(catalog, saved.tokenizer, saved.module.git.config.target - 2)

        def known(row_N: np.ndarray) -> list[tuple[str | None, str]]:
            return [(one["id"], one["title"]) for one in catalog.take(row_N, ("id", "title")).to_pylist()]

        # a code is no text that could be spelt in another way
        return GitRecogniser(self, Names(titles, known), constrained=saved.codes or self.config.decoding.constrained)

    def of_titles(self, names: Sequence[str]) -> GitRecogniser:
        """Let these titles be the answers.

        Raises:
            RaylabError: the model writes codes of entities, or no title has tokens.
        """
        if self.saved.codes:
            raise RaylabError(f"{self.name} writes ALD codes of entities: it cannot be asked for titles of classes.")
        words, length = self.saved.tokenizer, self.saved.module.git.config.target - 2
        trie = Trie.build([ids[:length] for ids in words.ids(names)], words.vocab, words.end)
        known = Names(Titles(trie, np.arange(len(names))), lambda row_N: [(None, names[row]) for row in row_N])
        return GitRecogniser(self, known, constrained=True)


@dataclass(frozen=True)
class Names:
    """What a generative model may answer."""

    titles: Titles
    """The trie, and what finds a title by its tokens."""
    known: Callable[[np.ndarray], list[tuple[str | None, str]]]
    """Rows of `titles` -> entity id, where there is one, and title."""

    @property
    def note(self) -> str:
        """Which of them can never be answered; empty where all can."""
        hidden = len(self.titles.trie.shadowed)
        if not hidden:
            return ""
        return (
            f"{hidden:,} of {self.titles.trie.names + hidden:,} names can never be answered: in the model's tokens "
            "they are like another one, as they are or cut off at the model's length"
        )


class GitRecogniser:
    """Answers what a question about a picture asks for; see `base.Recogniser`. `GitModel` makes them.

    Args:
        model: the network.
        names: the answers.
        constrained: see `DecodingConfig`.
    """

    def __init__(self, model: GitModel, names: Names, *, constrained: bool) -> None:
        self.id, self.revision, self.note = model.name, model.saved.revision, names.note
        self._model, self._names = model, names
        self._module, self._tokenizer, self._settings = model.saved.module, model.saved.tokenizer, model.config.decoding
        self._trie = names.titles.trie.to(model.config.device)
        self._constrained = constrained

    @classmethod
    def open(
        cls, folder: Path, catalog: Catalog, decoding: DecodingConfig | None = None, batch: int | None = None
    ) -> GitRecogniser:
        """Open a saved model on the CPU, to name the entities of a knowledge base; see `GitModel`."""
        config = ModelConfig(str(folder), batch=batch, decoding=decoding or DecodingConfig())
        return GitModel.open(folder, config).of_entities(catalog)

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

        Raises:
            FloatingPointError: the network's output is not finite.
        """
        answers: list[list[Recognised]] = []
        batch = self._model.config.batch or GENERATIVE_BATCH
        for at in range(0, len(images), batch):
            chosen = slice(at, at + batch)
            answers += self._answer(self._search(images[chosen], questions[chosen], k), k)
        return answers

    def _search(self, images: list[Image.Image], questions: list[str], k: int) -> Beams:
        git, settings, device = self._module.git, self._settings, self._model.config.device
        image_BHWC = torch.from_numpy(
            np.stack([resized(image, self.image_size, centre_box(*image.size)) for image in images])
        )
        context_BC, start_B = (torch.from_numpy(one).to(device) for one in self._asked(questions))
        with torch.inference_mode():
            pixels = self._module.pixels(image_BHWC.to(device)).to(self._model.dtype)
        try:
            if self._constrained:
                results = min(k, settings.beams)
                return decode(
                    git, pixels, context_BC, start=start_B, trie=self._trie, beams=settings.beams, results=results
                )
            free = decode(git, pixels, context_BC, start=start_B, steps=git.config.target, beams=settings.beams)
        except FloatingPointError as error:
            raise FloatingPointError(f"{self.id}: {error} in {self._model.dtype}; run it in bf16 or fp32") from error
        return keep_names(free, git.config.eos, self._tokenizer.text, self._found)

    def _asked(self, questions: list[str]) -> tuple[np.ndarray, np.ndarray]:
        """Return the questions' tokens, int64 [B, C], and the token that starts each answer, int64 [B]."""
        words, context = self._tokenizer, self._module.git.config.context
        if not self._model.saved.one_text:
            return words.questions(questions, context), np.full(len(questions), words.start)
        return words.opened(questions, context)

    def _found(self, texts: list[str]) -> list[int]:
        """Return the number of the name that each text is, in the tokenizer's spelling, or -1."""
        return self._names.titles.find(self._tokenizer.ids(texts))

    def _answer(self, found: Beams, k: int) -> list[list[Recognised]]:
        row_BR = self._names.titles.row(found.name_BR.cpu().numpy())
        known = self._names.known(np.maximum(row_BR.ravel(), 0))
        answers = []
        for b, (rows, scores) in enumerate(zip(row_BR, found.score_BR.cpu().tolist())):
            mine = known[b * len(rows) : (b + 1) * len(rows)]
            named = [(one, score) for one, row, score in zip(mine, rows, scores) if row >= 0 and np.isfinite(score)]
            answers.append([Recognised(*one, score) for one, score in named[:k]])
        return answers
