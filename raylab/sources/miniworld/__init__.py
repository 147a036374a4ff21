"""The mini-world: a small, honest copy of the labeling problem with known truth, drawn from a seed."""

from pathlib import Path

ASSETS = Path(__file__).parent / "assets"

SPACY_PIPELINE = ASSETS / "spacy"
"""A spaCy pipeline that finds names in the mini-world's captions; `make_spacy` makes it again."""
