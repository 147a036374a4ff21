"""A GiT with its tokenizer: made for training, saved, and opened again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from raylab.errors import RaylabError
from raylab.models.dual_encoder import DualEncoderConfig, image_side, normalised
from raylab.models.git import Git, GitConfig
from raylab.models.git_checkpoint import GitCheckpoint, is_checkpoint
from raylab.models.git_weights import OpenClipTokens
from raylab.models.text import Tokenizer, TokenizerConfig

FACTS, WEIGHTS = "git.json", "git.safetensors"
ARCHITECTURE, TOKENIZER = "encoder", "tokenizer"
"""Folders below the model's."""


@dataclass(frozen=True)
class GitShape:
    """The decoder's shape; the defaults are the paper's (arXiv 2410.23676)."""

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

    mean: Tensor
    std: Tensor

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

    @classmethod
    def of_checkpoint(cls, checkpoint: GitCheckpoint, shape: GitShape, *, weights: bool = True) -> GitModule:
        """Return a GIT of Hugging Face; of `shape`, the lengths of texts are taken, the rest is the checkpoint's."""
        return cls(checkpoint.build(shape.context, shape.target, weights=weights), checkpoint.preprocess)

    def forward(self, image_BHWC: Tensor, context_BRC: Tensor, target_BRT: Tensor) -> dict[str, Tensor]:
        """See `Git.forward`; pictures are uint8 [B, H, W, 3]. Returns ``logit_BRTV``."""
        return {"logit_BRTV": self.git(self.pixels(image_BHWC), context_BRC, target_BRT)}

    def pixels(self, image_BHWC: Tensor) -> Tensor:
        """Return uint8 [B, H, W, 3] as the encoder's input."""
        return normalised(image_BHWC, self.mean, self.std)

    def save(
        self,
        folder: Path,
        encoder: DualEncoderConfig | GitCheckpoint,
        tokenizer: TokenizerConfig,
        shape: GitShape,
        *,
        codes: bool,
    ) -> None:
        """Write everything that `GitRecogniser.open` needs: nothing of it is looked for elsewhere.

        Args:
            folder: made where it is missing.
            encoder: what the network was made of.
            tokenizer: likewise.
            shape: likewise.
            codes: it writes ALD codes instead of names.
        """
        from safetensors.torch import save_file

        folder.mkdir(parents=True, exist_ok=True)
        encoder.save_architecture(folder / ARCHITECTURE, self.preprocess)
        Tokenizer(tokenizer).model.save_pretrained(folder / TOKENIZER)
        state = {name: value.detach().cpu().contiguous() for name, value in self.state_dict().items()}
        save_file(state, folder / WEIGHTS)
        facts = {"shape": asdict(shape), "codes": codes}
        (folder / FACTS).write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


@dataclass(frozen=True)
class SavedGit:
    """A folder that `GitModule.save` wrote, or a GIT of Hugging Face, opened."""

    module: GitModule
    tokenizer: Tokenizer
    codes: bool
    """It writes ALD codes instead of names."""
    revision: str
    """12 hex digits of the weights."""
    one_text: bool = False
    """The answer goes on where the question ends, behind one start token, as in Hugging Face's checkpoints; ours have
    the start token between the two."""

    @classmethod
    def open(cls, folder: Path) -> SavedGit:
        """Build the network and load its weights.

        Raises:
            RaylabError: the folder is no such model, or damaged.
        """
        if is_checkpoint(folder):
            return cls._of_checkpoint(folder)
        from safetensors.torch import load_file

        try:
            facts = json.loads((folder / FACTS).read_text(encoding="utf-8"))
            tokenizer = TokenizerConfig(str(folder / TOKENIZER))
            module = _architecture(folder / ARCHITECTURE, tokenizer, GitShape(**facts["shape"]))
            module.load_state_dict(load_file(folder / WEIGHTS))
        except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
            raise RaylabError(
                f"{folder} is no generative recogniser, or damaged ({type(error).__name__}: {str(error)[:200]})."
            ) from error
        return cls(module.eval(), Tokenizer(tokenizer), facts["codes"], _revision([folder / WEIGHTS]))

    @classmethod
    def _of_checkpoint(cls, folder: Path) -> SavedGit:
        module = GitModule.of_checkpoint(GitCheckpoint(str(folder)), GitShape())
        weights = sorted(path for path in folder.iterdir() if path.suffix in (".safetensors", ".bin"))
        tokenizer = Tokenizer(TokenizerConfig(str(folder)))
        return cls(module.eval(), tokenizer, False, _revision(weights), one_text=True)


def _architecture(folder: Path, tokenizer: TokenizerConfig, shape: GitShape) -> GitModule:
    """Return the network of a saved model, without its weights."""
    if is_checkpoint(folder):
        return GitModule.of_checkpoint(GitCheckpoint(str(folder)), shape, weights=False)
    return GitModule.make(DualEncoderConfig(name=str(folder), from_scratch=True), tokenizer, shape)


def _revision(weights: Sequence[Path]) -> str:
    digest = hashlib.blake2b()
    for path in weights:
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "blake2b").digest())
    return digest.hexdigest()[:12]
