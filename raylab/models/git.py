"""GiT: an image-to-text transformer (GIT, arXiv 2205.14100, as arXiv 2410.23676 uses it).

An encoder's image tokens are projected to the decoder's width and set before the text: a question (the context), then
its answer (the target). Image tokens see image tokens; text sees the image and what was written before it; padding is
seen by nobody. As no image token ever sees text, the image is computed once for all that is asked of it: for several
texts in training, and for all beams in decoding.

Axes: B pictures, R texts a picture, N image tokens, C context tokens, T target tokens, L all tokens, K beams, P prefix
tokens (N + C), S slots of a cache (P + T * K), H heads, E width of a head, D width, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.functional import cross_entropy, gelu, scaled_dot_product_attention
from torch.utils.checkpoint import checkpoint

from raylab.errors import RaylabError

INIT_STD = 0.02
"""BERT's initialisation, which GIT takes over for the decoder."""


@dataclass(frozen=True)
class GitConfig:
    """The decoder's shape. The defaults are VER's GiT-Large (section B) on a ViT-L/14 of width 1024."""

    image_width: int = 1024
    """Width of the encoder's tokens."""
    vocab: int = 30_522
    width: int = 768
    layers: int = 6
    heads: int = 12
    mlp_ratio: float = 4.0
    dropout: float = 0.1
    """Of embeddings, attention weights and residual branches; the encoder keeps its own."""
    context: int = 32
    """Tokens of a question at most."""
    target: int = 32
    """Tokens of an answer at most, the first one included, which starts it."""
    positions: int = 1024
    """Rows of the table of positions. Published checkpoints have 1024."""
    norm_eps: float = 1e-12
    project_eps: float = 1e-5
    """Of the norm that follows the projection of image tokens."""
    pad: int = 0
    bos: int = 101
    eos: int = 102

    def __post_init__(self) -> None:
        """Refuse shapes that cannot be built."""
        if self.width % self.heads:
            raise RaylabError(f"GiT: width {self.width} is not a multiple of heads {self.heads}.")
        if self.context + self.target > self.positions:
            raise RaylabError(
                f"GiT: context {self.context} + target {self.target} tokens need as many positions; "
                f"there are {self.positions}. Raise positions or shorten the texts."
            )


@dataclass(frozen=True)
class Prefix:
    """What a picture and its question leave for the answer: keys and values of each layer.

    Attributes:
        keys, values: a layer each, [B, H, P, E].
        seen_BP: bool; False where the question is padded.
        length_B: int64, real tokens of the question: the answer's first position.
    """

    keys: list[torch.Tensor]
    values: list[torch.Tensor]
    seen_BP: torch.Tensor
    length_B: torch.Tensor


@dataclass
class Cache:
    """Keys and values of a search over beams; `Git.step` writes into it.

    The prefix lies there once a picture. Behind it each step has a slot a beam, written once and never moved: when
    beams change their parents, only their rows of `seen_BKS` do. So nothing large is copied while searching.

    Attributes:
        keys, values: a layer each, [B, H, S, E].
        seen_BKS: bool, which slots a beam's own past and its picture's prefix lie in.
        slot_K: int64, the slots that the next step writes.
        position_B: int64, the position of the next token.
    """

    keys: list[torch.Tensor]
    values: list[torch.Tensor]
    seen_BKS: torch.Tensor
    slot_K: torch.Tensor
    position_B: torch.Tensor


class Layer(nn.Module):
    """A layer of BERT: attention and MLP, each followed by residual and norm."""

    def __init__(self, config: GitConfig) -> None:
        super().__init__()
        width, hidden = config.width, round(config.width * config.mlp_ratio)
        self.heads = config.heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.norm_attention = nn.LayerNorm(width, eps=config.norm_eps)
        self.rise = nn.Linear(width, hidden)
        self.fall = nn.Linear(hidden, width)
        self.norm_mlp = nn.LayerNorm(width, eps=config.norm_eps)
        self.dropout = nn.Dropout(config.dropout)

    def project(self, x_BLD: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return queries, keys and values, [B, H, L, E] each."""
        qkv_BLaHE = self.qkv(x_BLD).unflatten(-1, (3, self.heads, -1))
        query, key, value = qkv_BLaHE.permute(2, 0, 3, 1, 4)
        return query, key, value

    def attend(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, seen: torch.Tensor | None
    ) -> torch.Tensor:
        """Return [B, L, D] for queries [B, H, L, E]; `seen` broadcasts to [B, H, L, keys]."""
        dropout = self.dropout.p if self.training else 0.0
        out_BHLE = scaled_dot_product_attention(query, key, value, attn_mask=seen, dropout_p=dropout)
        return out_BHLE.transpose(1, 2).flatten(2)

    def finish(self, x_BLD: torch.Tensor, attended_BLD: torch.Tensor) -> torch.Tensor:
        """Return the layer's output from its input and what attention brought."""
        x_BLD = self.norm_attention(x_BLD + self.dropout(self.out(attended_BLD)))
        return self.norm_mlp(x_BLD + self.dropout(self.fall(gelu(self.rise(x_BLD)))))

    def forward(
        self, x_BLD: torch.Tensor, seen_B1QL: torch.Tensor, images: int, only_text: bool
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Run over a picture's tokens and the text behind them.

        Args:
            x_BLD: the first `images` tokens are the picture's.
            seen_B1QL: bool, for the Q = L - images text tokens.
            images: N.
            only_text: drop the image tokens from the output: nobody asks for them behind the last layer.

        Returns:
            The output, the keys and the values of all tokens.
        """
        query, key, value = self.project(x_BLD)
        text = self.attend(query[:, :, images:], key, value, seen_B1QL)
        if only_text:
            return self.finish(x_BLD[:, images:], text), key, value
        # Image tokens need no mask, so they get the kernel that has none.
        image = self.attend(query[:, :, :images], key[:, :, :images], value[:, :, :images], None)
        return self.finish(x_BLD, torch.cat([image, text], 1)), key, value


class Git(nn.Module):
    """Picture and question in, logits of the answer's tokens out.

    Args:
        config: the decoder.
        encoder: maps image_BCHW to token_BND with D = config.image_width. Where it has `set_grad_checkpointing`, that
            is used; `git_weights.OpenClipTokens` makes one of open_clip's towers.
    """

    layers: Any
    """An nn.ModuleList of `Layer`."""

    def __init__(self, config: GitConfig, encoder: nn.Module) -> None:
        super().__init__()
        found = getattr(encoder, "width", config.image_width)
        if found != config.image_width:
            raise RaylabError(
                f"GiT: the encoder's tokens are {found} wide; set image_width (now {config.image_width})."
            )
        self.config = config
        self.encoder = encoder
        self.project = nn.Sequential(
            nn.Linear(config.image_width, config.width), nn.LayerNorm(config.width, eps=config.project_eps)
        )
        self.token = nn.Embedding(config.vocab, config.width, padding_idx=config.pad)
        self.position = nn.Embedding(config.positions, config.width)
        self.norm = nn.LayerNorm(config.width, eps=config.norm_eps)
        self.dropout = nn.Dropout(config.dropout)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.layers))
        self.output = nn.Linear(config.width, config.vocab)
        self._saves_memory = False
        for part in (self.project, self.token, self.position, self.layers, self.output):
            part.apply(_initialise)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Compute activations again in the backward pass instead of keeping them: encoder and decoder."""
        self._saves_memory = enable
        switch = getattr(self.encoder, "set_grad_checkpointing", None)
        if switch is not None:
            switch(enable)

    def forward(self, image_BCHW: torch.Tensor, context_BC: torch.Tensor, target_BT: torch.Tensor) -> torch.Tensor:
        """Return the logits of each target token's successor.

        Args:
            image_BCHW: what the encoder takes.
            context_BC: int64, questions, padded with `pad` anywhere; [B, R, C] for R texts a picture. C may be 0.
            target_BT: int64, answers: `bos`, tokens, `eos`, padded behind with `pad`; [B, R, T] as above.

        Returns:
            logit_BTV (or [B, R, T, V]): at t those of ``target[t + 1]``, given the picture, the question and
            ``target[: t + 1]``. The last one foretells what stands behind the target: `loss` does not use it.

        Raises:
            RaylabError: the texts are longer than the table of positions.
        """
        several = context_BC.ndim == 3
        context_BRC, target_BRT = (context_BC, target_BT) if several else (context_BC[:, None], target_BT[:, None])
        token_BRQ = torch.cat([context_BRC, target_BRT], -1)
        x_BLD, seen, images = self._input(image_BCHW, token_BRQ)
        for number, layer in enumerate(self.layers, 1):
            arguments = (x_BLD, seen, images, number == len(self.layers))
            x_BLD = (checkpoint(layer, *arguments, use_reentrant=False) if self._saves() else layer(*arguments))[0]
        text_BRQD = x_BLD.unflatten(1, token_BRQ.shape[1:])
        logit_BRTV = self.output(text_BRQD[:, :, context_BRC.shape[-1] :])
        return logit_BRTV if several else logit_BRTV[:, 0]

    def loss(self, logit_BTV: torch.Tensor, target_BT: torch.Tensor, smoothing: float = 0.0) -> torch.Tensor:
        """Return the mean over texts of the mean over a text's tokens (arXiv 2410.23676).

        A text without tokens is left out of the mean.

        Args:
            logit_BTV: what `forward` returned; any axes may stand before T.
            target_BT: the same target.
            smoothing: s; the true token gets 1 - s, every other one s / (V - 1) (GER D.2).

        Returns:
            A number in float32; 0 where no text has tokens.
        """
        loss_B, counts_B = self.text_losses(logit_BTV, target_BT, smoothing)
        return (loss_B * counts_B).sum() / counts_B.sum().clamp(min=1)

    def text_losses(
        self, logit_BTV: torch.Tensor, target_BT: torch.Tensor, smoothing: float = 0.0
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return each text's mean loss (float32 [B], 0 where it has no tokens), and whether it has any (bool [B]).

        Arguments are those of `loss`. What follows an `eos` is not scored, as in GER D.2: codes are filled up with it.
        """
        wanted, scored = self._scored(target_BT)
        # torch spreads s over all V tokens; s V / (V - 1) of that is s over the V - 1 others.
        vocab = self.config.vocab
        token_loss = cross_entropy(
            logit_BTV[..., :-1, :].float().flatten(0, -2),
            wanted.flatten(),
            reduction="none",
            label_smoothing=smoothing * vocab / (vocab - 1),
        ).view_as(wanted)
        count = scored.sum(-1)
        return (token_loss * scored).sum(-1) / count.clamp(min=1), count > 0

    def exact(self, logit_BTV: torch.Tensor, target_BT: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return whether greedy decoding would write each text to the last token, and whether it has any (bool [B]).

        It would where the likeliest token is the right one at each place, given the right ones before. Arguments are
        those of `loss`.
        """
        wanted, scored = self._scored(target_BT)
        right = logit_BTV[..., :-1, :].argmax(-1) == wanted
        return (right | ~scored).all(-1), scored.any(-1)

    def _scored(self, target_BT: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the tokens to be foretold, and which of them count."""
        known, wanted = target_BT[..., :-1], target_BT[..., 1:]
        return wanted, (wanted != self.config.pad) & (known != self.config.eos)

    def encode(self, image_BCHW: torch.Tensor, context_BC: torch.Tensor) -> Prefix:
        """Return what all beams of a picture share; arguments as in `forward`, one text a picture."""
        x_BLD, seen, images = self._input(image_BCHW, context_BC[:, None])
        keys, values = [], []
        for number, layer in enumerate(self.layers, 1):
            if number < len(self.layers):
                x_BLD, key, value = layer(x_BLD, seen, images, False)
            else:
                _, key, value = layer.project(x_BLD)
            keys.append(key)
            values.append(value)
        real_BC = context_BC != self.config.pad
        seen_BP = torch.cat([real_BC.new_ones(len(real_BC), images), real_BC], 1)
        return Prefix(keys, values, seen_BP, real_BC.sum(1))

    def cache(self, prefix: Prefix, beams: int, steps: int) -> Cache:
        """Return room for `steps` steps of `beams` beams a picture, with the prefix in it.

        Raises:
            RaylabError: more steps than the target has tokens.
        """
        if steps > self.config.target:
            raise RaylabError(
                f"GiT: {steps} steps asked for, answers have {self.config.target} tokens at most (target)."
            )
        room = (0, 0, 0, steps * beams)  # of the last two axes: nothing for E, slots behind P
        keys = [nn.functional.pad(key, room) for key in prefix.keys]
        values = [nn.functional.pad(value, room) for value in prefix.values]
        seen_B1S = nn.functional.pad(prefix.seen_BP, (0, steps * beams))[:, None]
        slot_K = prefix.seen_BP.shape[1] + torch.arange(beams, device=seen_B1S.device)
        return Cache(keys, values, seen_B1S, slot_K, prefix.length_B.clone())

    def step(self, cache: Cache, token_BK: torch.Tensor, parent_BK: torch.Tensor) -> torch.Tensor:
        """Return the logits of the token after each beam's newest one.

        Args:
            cache: of `Git.cache`; changed in place.
            token_BK: int64, the newest token of each beam: `bos` first. The first step may have fewer beams than the
                cache, as all are still alike.
            parent_BK: int64, the beam of the step before that each one goes on from; zeros in the first step.

        Returns:
            logit_BKV.
        """
        beams = token_BK.shape[1]
        slots = cache.slot_K[:beams]
        cache.seen_BKS = _inherit(cache.seen_BKS, parent_BK, slots)
        x_BKD = self._embed(token_BK, cache.position_B[:, None].expand_as(token_BK))
        seen = cache.seen_BKS[:, None]
        for layer, keys, values in zip(self.layers, cache.keys, cache.values):
            query, key, value = layer.project(x_BKD)
            keys.index_copy_(2, slots, key)
            values.index_copy_(2, slots, value)
            x_BKD = layer.finish(x_BKD, layer.attend(query, keys, values, seen))
        cache.slot_K += len(cache.slot_K)
        cache.position_B += 1
        return self.output(x_BKD)

    def _saves(self) -> bool:
        return self._saves_memory and self.training

    def _input(self, image_BCHW: torch.Tensor, token_BRQ: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, int]:
        """Return the first layer's input, what text tokens see ([B, 1, R * Q, L]), and the number of image tokens."""
        if token_BRQ.shape[-1] > self.config.positions:
            raise RaylabError(f"GiT: {token_BRQ.shape[-1]} tokens of text, positions for {self.config.positions}.")
        image_BND = self.project(self._image_tokens(image_BCHW))
        real_BRQ = token_BRQ != self.config.pad
        # Real tokens are numbered on through the padding, so that it changes nothing.
        position_BRQ = (real_BRQ.cumsum(-1, dtype=torch.int64) - 1).clamp(min=0)
        text_BQD = self._embed(token_BRQ, position_BRQ).flatten(1, 2)
        seen = _seen_by_text(real_BRQ, image_BND.shape[1])
        return torch.cat([image_BND, text_BQD.to(image_BND.dtype)], 1), seen, image_BND.shape[1]

    def _image_tokens(self, image_BCHW: torch.Tensor) -> torch.Tensor:
        if self._saves() and not hasattr(self.encoder, "set_grad_checkpointing"):
            return checkpoint(self.encoder, image_BCHW, use_reentrant=False)
        return self.encoder(image_BCHW)

    def _embed(self, token: torch.Tensor, position: torch.Tensor) -> torch.Tensor:
        return self.dropout(self.norm(self.token(token) + self.position(position)))


def _seen_by_text(real_BRQ: torch.Tensor, images: int) -> torch.Tensor:
    """Return bool [B, 1, R * Q, N + R * Q]: the picture, and what is real and before in the same text."""
    texts, length = real_BRQ.shape[1:]
    row = torch.arange(texts, device=real_BRQ.device).repeat_interleave(length)
    before = torch.ones(texts * length, texts * length, dtype=torch.bool, device=real_BRQ.device).tril()
    own = (row[:, None] == row) & before
    seen = own & real_BRQ.flatten(1)[:, None]
    return nn.functional.pad(seen, (images, 0), value=True)[:, None]


def _inherit(seen_BKS: torch.Tensor, parent_BK: torch.Tensor, slots: torch.Tensor) -> torch.Tensor:
    """Return what each beam sees: what its parent saw, and its own slot."""
    width = seen_BKS.shape[-1]
    inherited = seen_BKS.gather(1, parent_BK[..., None].expand(-1, -1, width))
    return inherited | (slots[:, None] == torch.arange(width, device=slots.device))


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=INIT_STD)
    if isinstance(module, nn.Linear):
        nn.init.zeros_(module.bias)
    if isinstance(module, nn.Embedding) and module.padding_idx is not None:
        nn.init.zeros_(module.weight[module.padding_idx])
