"""A causal text decoder that looks at an encoder's tokens by cross-attention (MUG, arXiv 2301.07088).

Each layer attends to the text before, then to the picture, then comes an MLP, each behind a norm: our choice, as is the
width. Padding stands behind a text, so the causal mask alone keeps it away from real tokens.

Axes: B pictures, L tokens of a picture, T tokens of a text, H heads, E width of a head, D width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from timm.layers import Attention, Mlp
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, scaled_dot_product_attention

from raylab.errors import RaylabError
from raylab.models.mae import run_block

INIT_STD = 0.02


@dataclass(frozen=True)
class CaptionShape:
    """The decoder's shape. MUG has few layers; what is not in arXiv 2301.07088's text is our choice."""

    width: int = 512
    layers: int = 4
    heads: int = 8
    length: int = 32
    """Tokens of a caption at most, its start and end included."""


@dataclass(frozen=True)
class Vocabulary:
    """A tokenizer's numbers."""

    size: int
    pad: int
    start: int
    end: int


class CrossAttention(nn.Module):
    """Text asks, the picture answers."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x_BTD: Tensor, image_BLD: Tensor) -> Tensor:
        """Return [B, T, D]."""
        query_BHTE = self.query(x_BTD).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        key, value = self.key_value(image_BLD).unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return self.out(scaled_dot_product_attention(query_BHTE, key, value).transpose(1, 2).flatten(2))


class CaptionLayer(nn.Module):
    """The text before, the picture, an MLP; each behind a norm and beside a residual."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm_text, self.norm_image, self.norm_mlp = (nn.LayerNorm(width) for _ in range(3))
        self.text = Attention(width, heads, qkv_bias=True)
        self.image = CrossAttention(width, heads)
        self.mlp = Mlp(width, 4 * width)

    def forward(self, x_BTD: Tensor, image_BLD: Tensor) -> Tensor:
        """Return [B, T, D]."""
        x_BTD = x_BTD + self.text(self.norm_text(x_BTD), is_causal=True)
        x_BTD = x_BTD + self.image(self.norm_image(x_BTD), image_BLD)
        return x_BTD + self.mlp(self.norm_mlp(x_BTD))


class CaptionDecoder(nn.Module):
    """An encoder's tokens and a text in, the logits of each token's successor out.

    Args:
        shape: see there.
        words: the tokenizer's numbers.
        image_width: of the encoder's tokens.
    """

    layers: Any
    """An nn.ModuleList of `CaptionLayer`."""

    def __init__(self, shape: CaptionShape, words: Vocabulary, image_width: int) -> None:
        super().__init__()
        if shape.width % shape.heads:
            raise RaylabError(f"text.width {shape.width} is not a multiple of text.heads {shape.heads}.")
        if shape.length < 3:
            raise RaylabError(f"text.length {shape.length}: a caption has a start, a word and an end at least.")
        self.shape, self.words = shape, words
        self.project = nn.Linear(image_width, shape.width)
        self.token = nn.Embedding(words.size, shape.width)
        self.position = nn.Parameter(torch.empty(1, shape.length, shape.width))
        self.layers = nn.ModuleList(CaptionLayer(shape.width, shape.heads) for _ in range(shape.layers))
        self.norm = nn.LayerNorm(shape.width)
        self.output = nn.Linear(shape.width, words.size)
        self.apply(_initialise)
        nn.init.normal_(self.position, std=INIT_STD)

    def forward(self, image_BLD: Tensor, token_BT: Tensor, saves_memory: bool = False) -> Tensor:
        """Return logit_BTV: at t those of ``token[t + 1]``, given the picture and ``token[: t + 1]``.

        Args:
            image_BLD: the encoder's tokens.
            token_BT: int64, at most `CaptionShape.length` tokens: start, words, end, padding.
            saves_memory: compute each layer again in the backward pass.
        """
        x_BTD = self.token(token_BT) + self.position[:, : token_BT.shape[1]]
        memory_BLD = self.project(image_BLD)
        for layer in self.layers:
            x_BTD = run_block(layer, saves_memory, x_BTD, memory_BLD)
        return self.output(self.norm(x_BTD))

    def token_losses(self, logit_BTV: Tensor, token_BT: Tensor) -> tuple[Tensor, Tensor]:
        """Return float32 [B, T - 1]: the loss of each token but the first, 0 of padding; and 1 where one counts."""
        wanted_BT = token_BT[:, 1:]
        logit_NV = logit_BTV[:, :-1].float().flatten(0, 1)
        loss_BT = cross_entropy(logit_NV, wanted_BT.flatten(), reduction="none").view_as(wanted_BT)
        counts_BT = (wanted_BT != self.words.pad).float()
        return loss_BT * counts_BT, counts_BT

    def right_shares(self, logit_BTV: Tensor, token_BT: Tensor) -> Tensor:
        """Return float32 [B]: the share of a text's tokens that are the likeliest, given the right ones before.

        It is nan where a text has none.
        """
        wanted_BT = token_BT[:, 1:]
        counts_BT = wanted_BT != self.words.pad
        right_BT = (logit_BTV[:, :-1].argmax(-1) == wanted_BT) & counts_BT
        return right_BT.sum(1) / counts_BT.sum(1)

    def write(self, image_BLD: Tensor, submit: Callable[[], None] | None = None) -> Tensor:
        """Return int64 [B, T]: the likeliest token each time, until the end or the length is reached.

        Args:
            image_BLD: the encoder's tokens.
            submit: of `tasks.base.Learner.make_static`: then each token is the same program on tensors of one size.
        """
        words = self.words
        token_BT = torch.full((len(image_BLD), self.shape.length), words.pad, device=image_BLD.device)
        token_BT[:, 0] = words.start
        ended_B = torch.zeros(len(token_BT), dtype=torch.bool, device=token_BT.device)
        place = torch.zeros(1, dtype=torch.int64, device=token_BT.device)
        for _ in range(self.shape.length - 1):
            likeliest_B = self(image_BLD, token_BT).index_select(1, place)[:, 0].argmax(-1)
            next_B = torch.where(ended_B, words.pad, likeliest_B)
            ended_B = ended_B | (next_B == words.end)
            place = place + 1
            token_BT = token_BT.index_copy(1, place, next_B[:, None])
            if submit is not None:
                submit()
            elif ended_B.all():
                break
        return token_BT


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=INIT_STD)
    if isinstance(module, nn.Linear):
        nn.init.zeros_(module.bias)
