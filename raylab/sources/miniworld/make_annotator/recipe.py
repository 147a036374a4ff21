"""How the small annotator is made: every setting of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from raylab.errors import RaylabError

SHIPPED = Path(__file__).parents[1] / "assets" / "annotator"
"""The folder of the annotator that comes with the package."""

_LOWEST_SEED = 1000


@dataclass(frozen=True)
class AnnotatorRecipe:
    """How the shipped annotator is made."""

    out: Path = SHIPPED
    """The folder to write."""
    work: Path = Path("runs/make_annotator")
    """Where painted pictures and checkpoints lie; the same command goes on from them."""
    first_seed: int = 2000
    """The worlds first_seed, first_seed + 1, ... are trained on; 1000 or more keeps clear of tests and figures."""
    worlds: int = 10
    """How many worlds."""
    rows_per_world: int = 10_000
    """Pictures in each; 48 KB of disk a picture."""
    tower_epochs: float = 2.0
    """Passes over the pictures that teach the tower what they hold; about 16 minutes on two quiet cores."""
    tower_batch: int = 32
    """Pictures in a step of the tower."""
    tower_rate: float = 2e-3
    """AdamW's learning rate for the tower, at its highest."""
    lesson_steps: int = 3000
    """Steps of the language model, the tower standing still; about 25 minutes on two quiet cores."""
    lesson_batch: int = 48
    """Questions and answers in a step of the language model."""
    lesson_rate: float = 2e-3
    """AdamW's learning rate for the language model, at its highest."""
    lesson_pictures: int = 40_000
    """Of the pictures the last, kept from the tower, are what the lessons are about, each a little moved and relit."""
    development_rows: int = 4000
    """Pictures of the worlds 1000 and 1001, which the result is measured on."""
    vocabulary: int = 2048
    """Tokens, at most."""
    weight_decay: float = 0.05
    """Of matrices; biases and norms are left alone."""
    warmup: float = 0.05
    """Share of the steps in which the learning rate rises; it falls along a cosine after."""
    processes: int = 2
    """Painters, and threads of the training."""
    seed: int = 0
    """Of the weights and of the order of the pictures."""

    def __post_init__(self) -> None:
        if self.first_seed < _LOWEST_SEED:
            raise RaylabError(
                f"first_seed={self.first_seed}: worlds below {_LOWEST_SEED} are for tests and figures, "
                f"take {_LOWEST_SEED} or more"
            )
        if self.worlds * self.rows_per_world - self.lesson_pictures < self.tower_batch:
            raise RaylabError(
                f"{self.worlds} x {self.rows_per_world} pictures without the {self.lesson_pictures} of the lessons "
                f"do not fill a batch of {self.tower_batch}"
            )
