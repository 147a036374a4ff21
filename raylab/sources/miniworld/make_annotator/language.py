"""Teaches the language model to answer, on image tokens of a tower that stands still."""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from raylab.sources.miniworld.entities import BY_ID, ENTITIES, PICTURED
from raylab.sources.miniworld.make_annotator.lessons import Lesson, lesson
from raylab.sources.miniworld.make_annotator.model import IMAGE, IMAGE_TOKENS
from raylab.sources.miniworld.make_annotator.pictures import Album
from raylab.sources.miniworld.make_annotator.recipe import AnnotatorRecipe
from raylab.sources.miniworld.make_annotator.schedule import keep, make_optimizer, restore, share_of_rate
from raylab.sources.miniworld.make_annotator.tower import move, prepare

if TYPE_CHECKING:
    from torch import Tensor

_DECIDING = 8.0
"""Weight of the tokens that decide (yes or no, the title) in the loss; the others count 1."""
_CUT_SHARE = 0.6
"""Of the lessons end with what decides: a rationale is learnt soon, to decide takes many pictures."""
_POOL = 8
_SAVE_EVERY = 250
_SHOWN_EVERY = 25


@dataclass(frozen=True)
class Batch:
    """Lessons as tokens, padded at the end."""

    token_BL: Tensor
    """int64."""
    weight_BL: Tensor
    """Weight of each token as something to be said: 0 for the prompt and the padding."""
    row_B: np.ndarray
    """Which picture each lesson is about."""


def encode(tokenizer: Any, lessons: Sequence[Lesson]) -> list[tuple[list[int], list[float]]]:
    """Return the tokens of each lesson, its picture's among them, and their weights in the loss."""
    image = tokenizer.convert_tokens_to_ids(IMAGE)
    deciding = {"yes", "no", *(entity.title for entity in ENTITIES)}
    prompts = tokenizer([one.prompt for one in lessons])["input_ids"]
    answers = tokenizer([one.answer for one in lessons], return_offsets_mapping=True)
    found = []
    for one, prompt, ids, spans in zip(lessons, prompts, answers["input_ids"], answers["offset_mapping"]):
        opened = [token for at in prompt for token in ([at] * IMAGE_TOKENS if at == image else [at])]
        said = [one.answer[start:end] for start, end in spans]
        weights = [_DECIDING if end <= one.decides and word in deciding else 1.0 for word, (_, end) in zip(said, spans)]
        found.append((opened + ids, [0.0] * len(opened) + weights))
    return found


def _batches(tokenizer: Any, album: Album, recipe: AnnotatorRecipe, first: int) -> Iterator[Batch]:
    """Yield batches without end, lessons of like length together."""
    rng = random.Random(f"lessons:{recipe.seed}:{first}")
    count = recipe.lesson_batch
    while True:
        rows = [rng.randrange(len(album.rows)) for _ in range(count * _POOL)]
        coded = encode(tokenizer, [lesson(album.rows[at], rng) for at in rows])
        coded = [_cut(*one) if rng.random() < _CUT_SHARE else one for one in coded]
        order = sorted(range(len(rows)), key=lambda i: len(coded[i][0]))
        groups = [order[start : start + count] for start in range(0, len(order), count)]
        rng.shuffle(groups)
        for group in groups:
            yield pad([coded[i] for i in group], np.array([rows[i] for i in group]), tokenizer.pad_token_id)


def _cut(ids: list[int], weights: list[float]) -> tuple[list[int], list[float]]:
    """Leave out what follows the last deciding token."""
    stop = max((at for at, weight in enumerate(weights, start=1) if weight == _DECIDING), default=len(ids))
    return ids[:stop], weights[:stop]


def pad(coded: Sequence[tuple[list[int], list[float]]], rows: np.ndarray, padding: int) -> Batch:
    """Bring lessons to one length."""
    import torch

    length = max(len(ids) for ids, _ in coded)
    token_BL = torch.full((len(coded), length), padding)
    weight_BL = torch.zeros(len(coded), length)
    for i, (ids, weights) in enumerate(coded):
        token_BL[i, : len(ids)] = torch.tensor(ids)
        weight_BL[i, : len(ids)] = torch.tensor(weights)
    return Batch(token_BL, weight_BL, rows)


def feature_maps(model: Any, album: Album, recipe: AnnotatorRecipe, moved: bool = True) -> Tensor:
    """Run the tower over all pictures, each moved and relit a little: (N, IMAGE_TOKENS, channels) float16."""
    import torch

    tower = model.model.vision_tower.eval()
    generator = torch.Generator().manual_seed(recipe.seed + 1)
    parts = []
    with torch.no_grad():
        for start in range(0, len(album.rows), 64):
            image = prepare(torch.from_numpy(np.array(album.pixels[start : start + 64])))
            if moved:
                image, _ = move(image, generator)
            parts.append(tower(image).last_hidden_state.flatten(2).transpose(1, 2).half())
    return torch.cat(parts)


def hidden_states(model: Any, token_BL: Tensor, feature_BTC: Tensor) -> Tensor:
    """Return the language model's last hidden states, (B, L, width); the picture's tokens are replaced."""
    embedded = model.get_input_embeddings()(token_BL)
    pictured = token_BL == model.config.image_token_id
    image = model.model.multi_modal_projector(feature_BTC.float())
    image = image[pictured.any(1)].reshape(-1, image.shape[-1])
    embedded = embedded.masked_scatter(pictured[..., None], image)
    return model.model.language_model(inputs_embeds=embedded, use_cache=False).last_hidden_state


def start_from_titles(model: Any, tokenizer: Any, reader: Any) -> None:
    """Give the language model the titles' embeddings that the tower learned; the other tokens get their size."""
    import torch

    learned = reader["titles"].weight.detach()
    weight = model.get_input_embeddings().weight
    ids = tokenizer.convert_tokens_to_ids([entity.title for entity in PICTURED])
    with torch.no_grad():
        weight.normal_(std=float(learned.std()))
        weight[ids] = learned


def train_language(model: Any, tokenizer: Any, feature_NTC: Tensor, album: Album, recipe: AnnotatorRecipe) -> None:
    """Train the projector and the language model in place; goes on from the last checkpoint in `recipe.work`.

    Args:
        model: its tower is trained.
        tokenizer: the model's.
        feature_NTC: what the tower makes of the album's pictures; a multiple of N is several views of each.
        album: the pictures' rows.
        recipe: the steps.
    """
    import torch
    from torch.nn.functional import cross_entropy

    parts = torch.nn.ModuleList([model.model.multi_modal_projector, model.model.language_model])
    optimizer = make_optimizer(parts, recipe.lesson_rate, recipe.weight_decay)
    checkpoint = recipe.work / "language.pt"
    first = restore(checkpoint, parts, optimizer)
    views = len(feature_NTC) // len(album.rows)
    batches = _batches(tokenizer, album, recipe, first)
    began = time.monotonic()
    model.train()
    model.model.vision_tower.eval()
    for step in range(first, recipe.lesson_steps):
        for group in optimizer.param_groups:
            group["lr"] = recipe.lesson_rate * share_of_rate(step, recipe.lesson_steps, recipe.warmup)
        batch = next(batches)
        at = torch.from_numpy(batch.row_B) + step % views * len(album.rows)
        hidden = hidden_states(model, batch.token_BL, feature_NTC[at])
        said = batch.weight_BL[:, 1:] > 0
        logits = model.lm_head(hidden[:, :-1][said])
        weight = batch.weight_BL[:, 1:][said]
        losses = cross_entropy(logits, batch.token_BL[:, 1:][said], reduction="none")
        loss = (losses * weight).sum() / weight.sum()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parts.parameters(), 1.0)
        optimizer.step()
        if step % _SHOWN_EVERY == 0 or step == recipe.lesson_steps - 1:
            deciding = losses.detach()[weight > 1].sum() / len(batch.row_B)
            spent = time.monotonic() - began
            told = f"loss {loss.item():.3f}  deciding {deciding:.3f}  {spent:.0f} s"
            print(f"language {step + 1}/{recipe.lesson_steps}  {told}", file=sys.stderr, flush=True)
        if (step + 1) % _SAVE_EVERY == 0 or step == recipe.lesson_steps - 1:
            keep(checkpoint, step + 1, parts, optimizer)
    model.eval()


def evaluate(model: Any, tokenizer: Any, feature_NTC: Tensor, album: Album, seed: int = 0) -> dict[str, float]:
    """Measure how often the deciding tokens are right, on lessons about an album that was not trained on."""
    import torch

    rng = random.Random(seed)
    yes, no, empty = (tokenizer.encode(word)[0] for word in ("yes", "no", '", "'))
    titles = set(tokenizer.convert_tokens_to_ids([entity.title for entity in ENTITIES])) | {empty}
    right: dict[str, list[bool]] = {}
    for start in range(0, len(album.rows), 50):
        rows = list(range(start, min(start + 50, len(album.rows))))
        for call in ("verify/mini-1", "verify/mini-1-bare", "name/mini-1"):
            lessons = [lesson(album.rows[at], rng, call) for at in rows]
            coded = encode(tokenizer, lessons)
            batch = pad(coded, np.array(rows), tokenizer.pad_token_id)
            with torch.no_grad():
                hidden = hidden_states(model, batch.token_BL, feature_NTC[torch.tensor(rows)])
                guess_BL = model.lm_head(hidden).argmax(-1)
            for i, (ids, weights) in enumerate(coded):
                for at in range(1, len(ids)):
                    if weights[at] <= 1:
                        continue
                    if ids[at] in (yes, no):
                        right.setdefault(f"{call} {'yes' if ids[at] == yes else 'no'}", []).append(
                            bool(guess_BL[i, at - 1] == ids[at])
                        )
                    elif ids[at] in titles - {empty}:
                        held = {BY_ID[entity].title for entity in album.rows[rows[i]].entity_ids}
                        guess = tokenizer.decode([int(guess_BL[i, at - 1])])
                        right.setdefault(f"{call} title", []).append(guess in held)
    return {name: float(np.mean(values)) for name, values in sorted(right.items())}
