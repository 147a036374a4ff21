"""What a model that names entities answers."""

from __future__ import annotations

from typing import NamedTuple


class Recognised(NamedTuple):
    """One answer of a recogniser."""

    entity_id: str | None
    """None where the model's words name no entity that it knows."""
    text: str
    """The entity's title, or the model's own words."""
    score: float
    """Higher is surer; comparable between the answers to one question only."""
