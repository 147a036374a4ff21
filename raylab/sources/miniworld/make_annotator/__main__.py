"""Makes the small annotator that ships with the mini-world: paints, trains, writes the folder.

    python -m raylab.sources.miniworld.make_annotator --out raylab/sources/miniworld/assets/annotator

Its pictures and captions are those of worlds whose seeds no test or figure uses, and it is taught with their truth. It
stands for the large open model that a run on real pictures would take.

The annotator that ships came out of the same code on a busy machine, in fewer steps: 1,750 of the tower, then 800 and
1,180 of the language model on 10,000 and 30,000 pictures.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

from raylab.sources.miniworld.make_annotator.language import evaluate, feature_maps, start_from_titles, train_language
from raylab.sources.miniworld.make_annotator.model import make_model, save
from raylab.sources.miniworld.make_annotator.pictures import Album, paint
from raylab.sources.miniworld.make_annotator.recipe import AnnotatorRecipe
from raylab.sources.miniworld.make_annotator.schedule import keep_memory
from raylab.sources.miniworld.make_annotator.tower import evaluate_tower, train_tower
from raylab.sources.miniworld.make_annotator.vocabulary import make_tokenizer

_DEVELOPMENT_SEED, _DEVELOPMENT_WORLDS = 1000, 2


def make(recipe: AnnotatorRecipe) -> dict[str, float]:
    """Make the annotator.

    Returns:
        Shares of right answers on worlds that it was not trained on.
    """
    import torch

    began = time.monotonic()
    keep_memory()
    torch.set_num_threads(recipe.processes)
    torch.manual_seed(recipe.seed)
    album = paint(recipe.work / "train.u8", recipe.first_seed, recipe.worlds, recipe.rows_per_world, recipe.processes)
    unseen = paint(
        recipe.work / "development.u8",
        _DEVELOPMENT_SEED,
        _DEVELOPMENT_WORLDS,
        recipe.development_rows // _DEVELOPMENT_WORLDS,
        recipe.processes,
    )
    _tell("painted", began)
    tokenizer = make_tokenizer(album.rows, recipe.vocabulary)
    model = make_model(tokenizer)
    lessons = _part(album, slice(-recipe.lesson_pictures, None))
    reader = train_tower(model, _part(album, slice(-recipe.lesson_pictures)), recipe)
    measured = {"tower": evaluate_tower(model, reader, unseen)}
    _tell("tower trained", began, measured)
    start_from_titles(model, tokenizer, reader)
    train_language(model, tokenizer, _views(model, lessons, recipe), lessons, recipe)
    measured |= evaluate(model, tokenizer, feature_maps(model, unseen, recipe, moved=False), unseen)
    save(model, tokenizer, recipe.out)
    _tell(f"written to {recipe.out}", began, measured)
    return measured


def _part(album: Album, which: slice) -> Album:
    return Album(album.pixels[which], album.rows[which])


def _views(model: Any, album: Album, recipe: AnnotatorRecipe) -> Any:
    """The tower's features of the pictures that the language model sees; kept, since they take minutes."""
    import torch

    kept = recipe.work / "features.pt"
    if kept.exists():
        return torch.load(kept, weights_only=True)
    features = feature_maps(model, album, recipe)
    torch.save(features, kept)
    return features


def _tell(what: str, began: float, measured: dict[str, float] | None = None) -> None:
    shares = f"  {json.dumps(measured)}" if measured else ""
    print(f"{what}  {time.monotonic() - began:.0f} s{shares}", file=sys.stderr, flush=True)


def main() -> None:
    """Read the command line and make the annotator."""
    import tyro

    make(tyro.cli(AnnotatorRecipe, description=__doc__))


if __name__ == "__main__":
    main()
