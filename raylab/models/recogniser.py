"""A GiT with its tokenizer: made for training, saved, and opened again as a model that names entities."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from raylab.errors import RaylabError
from raylab.models.beam import BEAMS, Beams, decode, keep_names
from raylab.models.dual_encoder import DualEncoderConfig, image_side, normalised
from raylab.models.git import Git, GitConfig
from raylab.models.git_weights import OpenClipTokens
from raylab.models.recognised import Recognised
from raylab.models.text import Tokenizer, TokenizerConfig
from raylab.models.titles import Titles

if TYPE_CHECKING:
    from PIL import Image

    from raylab.kb.catalog import Catalog

FACTS, WEIGHTS = "git.json", "git.safetensors"
ARCHITECTURE, TOKENIZER = "encoder", "tokenizer"
"""Folders below the model's."""


@dataclass(frozen=True)
class GitShape:
    """The decoder's shape; the defaults are the paper's (ver.md B)."""

    width: int = 768
    layers: int = 6
    heads: int = 12
    dropout: float = 0.1
    context: int = 32
    """Tokens of a question at most."""
    target: int = 32
    """Tokens of an answer at most."""


class GitModule(nn.Module):
    """A GiT that takes raw pixels.

    Args:
        git: the network.
        preprocess: open_clip's settings of the tower: ``mean``, ``std``, ``size``.
    """

    def __init__(self, git: Git, preprocess: dict[str, Any]) -> None:
        super().__init__()
        self.git = git
        self.preprocess = preprocess
        self.image_size = image_side(preprocess)
        for name in ("mean", "std"):
            self.register_buffer(name, torch.tensor(preprocess[name]).view(1, -1, 1, 1), persistent=False)

    @classmethod
    def make(cls, encoder: DualEncoderConfig, tokenizer: TokenizerConfig, shape: GitShape) -> GitModule:
        """Return the network: the tower with the weights that `encoder` names, the decoder with random ones."""
        tower = encoder.build().clip.visual
        preprocess = dict(tower.preprocess_cfg)
        tokens = OpenClipTokens(tower)
        words = Tokenizer(tokenizer)
        ids = {"vocab": words.vocab, "pad": words.pad, "bos": words.start, "eos": words.end}
        return cls(Git(GitConfig(image_width=tokens.width, **asdict(shape), **ids), tokens), preprocess)

    def forward(self, image_BHWC: Tensor, context_BRC: Tensor, target_BRT: Tensor) -> dict[str, Tensor]:
        """See `Git.forward`; pictures are uint8 [B, H, W, 3]. Returns ``logit_BRTV``."""
        return {"logit_BRTV": self.git(self.pixels(image_BHWC), context_BRC, target_BRT)}

    def pixels(self, image_BHWC: Tensor) -> Tensor:
        """Return uint8 [B, H, W, 3] as the encoder's input."""
        return normalised(image_BHWC, self.mean, self.std)

    def save(
        self, folder: Path, encoder: DualEncoderConfig, tokenizer: TokenizerConfig, shape: GitShape, *, codes: bool
    ) -> None:
        """Write everything that `GitRecogniser.open` needs: nothing of it is looked for elsewhere."""
        from safetensors.torch import save_file

        folder.mkdir(parents=True, exist_ok=True)
        encoder.save_architecture(folder / ARCHITECTURE, self.preprocess)
        Tokenizer(tokenizer).model.save_pretrained(folder / TOKENIZER)
        state = {name: value.detach().cpu().contiguous() for name, value in self.state_dict().items()}
        save_file(state, folder / WEIGHTS)
        facts = {"shape": asdict(shape), "codes": codes}
        (folder / FACTS).write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


@dataclass(frozen=True)
class DecodingConfig:
    """How answers are searched for."""

    beams: int = BEAMS
    """The paper's 30 (ver.md B.1)."""
    constrained: bool = True
    """Titles are a hard constraint at each step; otherwise free beams, of which those are kept that are a title."""
    batch: int = 8
    """Pictures that are searched for at once."""


class GitRecogniser:
    """Names the entity that a question about a picture asks for.

    Args:
        module: the network, on its device.
        tokenizer: its own.
        catalog: the entities whose titles are names.
        settings: of the search.
        codes: the model writes ALD codes instead of titles.
        origin: the model's name and revision.
    """

    def __init__(
        self,
        module: GitModule,
        tokenizer: Tokenizer,
        catalog: Catalog,
        settings: DecodingConfig,
        *,
        codes: bool = False,
        origin: tuple[str, str] = ("git", ""),
    ) -> None:
        self.id, self.revision = origin
        self._module, self._tokenizer, self._catalog, self._settings = module.eval(), tokenizer, catalog, settings
        self._device = next(module.parameters()).device
        if codes:
            self._titles = Titles.open_codes(catalog, tokenizer)
        else:
            self._titles = Titles.open(catalog, tokenizer, module.git.config.target - 2)
        self._trie = self._titles.trie.to(self._device)
        self._constrained = codes or settings.constrained  # a code is no text that could be spelt in another way

    @classmethod
    def open(
        cls, folder: Path, catalog: Catalog, settings: DecodingConfig | None = None, device: str = "cpu"
    ) -> GitRecogniser:
        """Open a saved model.

        The trie of a knowledge base's titles is built once and kept beside the knowledge base.

        Raises:
            RaylabError: the folder is no such model, or damaged.
        """
        from safetensors.torch import load_file

        try:
            facts = json.loads((folder / FACTS).read_text(encoding="utf-8"))
            shape = GitShape(**facts["shape"])
            encoder = DualEncoderConfig(name=str(folder / ARCHITECTURE), from_scratch=True)
            tokenizer = TokenizerConfig(str(folder / TOKENIZER))
            module = GitModule.make(encoder, tokenizer, shape)
            module.load_state_dict(load_file(folder / WEIGHTS))
        except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
            raise RaylabError(
                f"{folder} is no generative recogniser, or damaged ({type(error).__name__}: {str(error)[:200]})."
            ) from error
        origin = (folder.parent.name, _revision(folder / WEIGHTS))
        settings = settings or DecodingConfig()
        words = Tokenizer(tokenizer)
        return cls(module.to(device), words, catalog, settings, codes=facts["codes"], origin=origin)

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
        image_BHWC = torch.from_numpy(np.stack([centre(image, self.image_size) for image in images]))
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


def centre(image: Image.Image, size: int) -> np.ndarray:
    """Return the middle of an RGB picture as uint8 [size, size, 3]."""
    from PIL import Image as images

    width, height = image.size
    side = min(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    box = (left, top, left + side, top + side)
    return np.asarray(image.resize((size, size), images.Resampling.BICUBIC, box))


def _revision(weights: Path) -> str:
    with weights.open("rb") as file:
        return hashlib.file_digest(file, "blake2b").hexdigest()[:12]
