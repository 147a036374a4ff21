"""Teaches the tower what the pictures hold, before any language.

An image token shall lie near the embedding of the title of what stands there: the tower, the projector and the titles'
embeddings are trained together as a classifier of every token, and the language model starts from all three.
"""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any

import numpy as np

from raylab.sources.miniworld.entities import PICTURED
from raylab.sources.miniworld.make_annotator.model import STRIDE, feature_tokens
from raylab.sources.miniworld.make_annotator.pictures import Album
from raylab.sources.miniworld.make_annotator.recipe import AnnotatorRecipe
from raylab.sources.miniworld.make_annotator.schedule import keep, make_optimizer, restore, share_of_rate
from raylab.sources.miniworld.samples import placements
from raylab.sources.miniworld.scene import SIZE

if TYPE_CHECKING:
    import torch
    from torch import Tensor

CARRIERS = ("pole", "post", "mug", "shirt", "sticker", "poster", "screen", "paint")
NOTHING = len(PICTURED)
"""The class of a token where no entity stands."""

_CLASS = {entity.id: i for i, entity in enumerate(PICTURED)}
_SIDE = SIZE // STRIDE
_SHIFT = 6
_IGNORED = -100
_SAVE_EVERY = 100


def locate(album: Album) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Say where the entities stand.

    Returns:
        Boxes (N, 2, 4) float32 in pixels, classes (N, 2) and carriers (N, 2) int64; a missing entity's box is empty and
        its class `NOTHING`.
    """
    boxes = np.zeros((len(album.rows), 2, 4), np.float32)
    classes = np.full((len(album.rows), 2), NOTHING, np.int64)
    carriers = np.full((len(album.rows), 2), len(CARRIERS), np.int64)
    for i, row in enumerate(album.rows):
        for k, placement in enumerate(placements(row)):
            boxes[i, k] = placement.box
            classes[i, k] = _CLASS[placement.entity_id]
            carriers[i, k] = CARRIERS.index(placement.carrier)
    return boxes, classes, carriers


def cell_targets(box_BK4: Tensor, class_BK: Tensor, nothing: int) -> Tensor:
    """Return the class of each token, (B, tokens) int64: that of the box which covers most of its cell.

    A cell that a box barely touches is left out of the loss (-100), unless no other cell holds more of that box.
    """
    import torch

    edges = torch.arange(_SIDE + 1, dtype=torch.float32) * STRIDE
    wide = torch.minimum(box_BK4[..., 2, None], edges[1:]) - torch.maximum(box_BK4[..., 0, None], edges[:-1])
    high = torch.minimum(box_BK4[..., 3, None], edges[1:]) - torch.maximum(box_BK4[..., 1, None], edges[:-1])
    share_BKT = (high.clamp(min=0)[..., :, None] * wide.clamp(min=0)[..., None, :]).flatten(2) / STRIDE**2
    share_BKT = torch.where(share_BKT >= share_BKT.amax(-1, keepdim=True), share_BKT * 4, share_BKT)
    most_BT, which_BT = share_BKT.max(dim=1)
    target_BT = class_BK.gather(1, which_BT)
    target_BT = torch.where(most_BT < 0.35, _IGNORED, target_BT)
    return torch.where(most_BT < 0.02, nothing, target_BT)


def prepare(pixel_BHWC: Tensor) -> Tensor:
    """uint8 pictures as the network wants them, the same as the processor does."""
    import torch

    image_BCHW = pixel_BHWC.permute(0, 3, 1, 2).float() / 255
    return ((image_BCHW - 0.5) / 0.25).contiguous(memory_format=torch.channels_last)


def move(image_BCHW: Tensor, generator: torch.Generator) -> tuple[Tensor, tuple[int, int]]:
    """Move all pictures by a few pixels, change the light and contrast of each a little; also returns dx, dy."""
    import torch
    from torch.nn.functional import pad

    dx, dy = torch.randint(0, 2 * _SHIFT + 1, (2,), generator=generator).tolist()
    padded = pad(image_BCHW, (_SHIFT,) * 4, mode="replicate")[..., dy : dy + SIZE, dx : dx + SIZE]
    gain = torch.randn(len(image_BCHW), 1, 1, 1, generator=generator) * 0.08
    shift = torch.randn(len(image_BCHW), 3, 1, 1, generator=generator) * 0.08
    moved = padded * (1 + gain) + shift
    return moved.contiguous(memory_format=torch.channels_last), (_SHIFT - dx, _SHIFT - dy)


def make_reader(width: int) -> Any:
    """What reads an image token: an embedding for each title, kept for the language model, and heads that are not."""
    from torch import nn

    titles = nn.Embedding(NOTHING, width)
    nn.init.normal_(titles.weight, std=width**-0.5)
    heads = {"bias": nn.Linear(1, NOTHING, bias=False), "nothing": nn.Linear(width, 1)}
    return nn.ModuleDict({"titles": titles, **heads, "carrier": nn.Linear(width, len(CARRIERS) + 1)})


def read(reader: Any, token_BTD: Tensor) -> tuple[Tensor, Tensor]:
    """Return class logits (B, T, entities + 1) and carrier logits (B, T, carriers + 1)."""
    import torch

    entity = token_BTD @ reader["titles"].weight.T + reader["bias"].weight[:, 0]
    return torch.cat([entity, reader["nothing"](token_BTD)], dim=-1), reader["carrier"](token_BTD)


def train_tower(model: Any, album: Album, recipe: AnnotatorRecipe) -> Any:
    """Train the tower and the projector in place; goes on from the last checkpoint in `recipe.work`.

    Returns:
        The reader, see `make_reader`.
    """
    import torch

    torch.manual_seed(recipe.seed)
    boxes, classes, carriers = (torch.from_numpy(array) for array in locate(album))
    core = model.model
    reader = make_reader(model.config.text_config.hidden_size)
    parts = torch.nn.ModuleList([core.vision_tower, core.multi_modal_projector, reader])
    optimizer = make_optimizer(parts, recipe.tower_rate, recipe.weight_decay)
    steps = max(1, round(recipe.tower_epochs * len(album.rows) / recipe.tower_batch))
    checkpoint = recipe.work / "tower.pt"
    first = restore(checkpoint, parts, optimizer)
    core.vision_tower.to(memory_format=torch.channels_last).train()
    generator = torch.Generator().manual_seed(recipe.seed + first)
    rng = np.random.default_rng([recipe.seed, first])
    began = time.monotonic()
    for step in range(first, steps):
        for group in optimizer.param_groups:
            group["lr"] = recipe.tower_rate * share_of_rate(step, steps, recipe.warmup)
        at = np.sort(rng.choice(len(album.rows), recipe.tower_batch, replace=False))
        image, (dx, dy) = move(prepare(torch.from_numpy(album.pixels[at])), generator)
        box = boxes[at] + torch.tensor([dx, dy, dx, dy], dtype=torch.float32)
        entity, carrier = read(reader, feature_tokens(model, image))
        loss = _loss(entity, carrier, box, classes[at], carriers[at])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parts.parameters(), 2.0)
        optimizer.step()
        if step % 50 == 0 or step == steps - 1:
            right = _right(entity.detach(), classes[at])
            spent = time.monotonic() - began
            told = f"loss {loss.item():.3f}  right {right:.3f}  {spent:.0f} s"
            print(f"tower {step + 1}/{steps}  {told}", file=sys.stderr, flush=True)
        if (step + 1) % _SAVE_EVERY == 0 or step == steps - 1:
            keep(checkpoint, step + 1, parts, optimizer)
    core.vision_tower.eval()
    return reader


def _loss(entity: Tensor, carrier: Tensor, box: Tensor, class_BK: Tensor, carrier_BK: Tensor) -> Tensor:
    from torch.nn.functional import cross_entropy

    where = cell_targets(box, class_BK, NOTHING)
    on = cell_targets(box, carrier_BK, len(CARRIERS))
    token_loss = cross_entropy(entity.flatten(0, 1), where.flatten(), ignore_index=_IGNORED)
    carrier_loss = cross_entropy(carrier.flatten(0, 1), on.flatten(), ignore_index=_IGNORED)
    held = class_BK[:, 0] != NOTHING
    pooled = entity[held, :, :NOTHING].logsumexp(1)
    second = class_BK[held, 1]
    first = class_BK[held, 0]
    whole = (cross_entropy(pooled, first) + cross_entropy(pooled, second.where(second != NOTHING, first))) / 2
    return 2 * token_loss + 0.5 * carrier_loss + 0.5 * whole


def _right(entity: Tensor, class_BK: Tensor) -> float:
    held = class_BK[:, 0] != NOTHING
    best = entity[held, :, :NOTHING].logsumexp(1).argmax(-1)
    return float((best[:, None] == class_BK[held]).any(1).float().mean())


def evaluate_tower(model: Any, reader: Any, album: Album) -> float:
    """Return the share of the pictures with an entity whose likeliest class is one that they hold."""
    import torch

    classes = torch.from_numpy(locate(album)[1])
    right, count = 0.0, 0
    with torch.no_grad():
        for start in range(0, len(album.rows), 200):
            at = slice(start, start + 200)
            entity, _ = read(reader, feature_tokens(model, prepare(torch.from_numpy(np.array(album.pixels[at])))))
            held = int((classes[at, 0] != NOTHING).sum())
            right += _right(entity, classes[at]) * held
            count += held
    return right / max(1, count)
