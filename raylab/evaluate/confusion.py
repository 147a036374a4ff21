"""Which classes are taken for which others, and which queries to show."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from raylab.evaluate.base import Sheet, SheetRow, WorstPairs
from raylab.evaluate.image_set import ImageSet

PAIRS = 20
"""Pairs of classes that are told."""
SHEET_ROWS = 12
"""Queries on a sheet: half of them wrong at the nearest, as far as there are so many."""
SEED = 0


def worst_pairs(title: str, images: ImageSet, said: Sequence[str | None]) -> WorstPairs:
    """Count what was said instead of the truth.

    Args:
        title: the figure's heading.
        images: the queries; pairs are named by their titles.
        said: the class said for each; None where nothing was.
    """
    wrong = Counter((true, one or "nothing") for true, one in zip(images.labels, said) if one != true)
    ranked = sorted(wrong.items(), key=lambda item: (-item[1], item[0]))[:PAIRS]
    named = [(images.names_of(true)[0], images.names_of(one)[0], count) for (true, one), count in ranked]
    return WorstPairs(title, tuple(named))


def sheet(
    title: str, queries: ImageSet, index: ImageSet, found_QK: np.ndarray, found_labels: Sequence[str | None]
) -> Sheet:
    """Choose queries to show with what was found: wrong and right ones, drawn by a fixed seed.

    Args:
        title: the figure's heading.
        queries: the images that asked.
        index: the images that were found.
        found_QK: integer [q, k], indices into `index`, nearest first.
        found_labels: the class of each image of `index`.
    """
    first_right = np.array([found_labels[row[0]] == true for row, true in zip(found_QK, queries.labels)], bool)
    order = np.random.default_rng(SEED).permutation(len(queries))
    wrong, right = order[~first_right[order]], order[first_right[order]]
    half = max(SHEET_ROWS // 2, SHEET_ROWS - len(right))
    chosen = [*wrong[:half], *right[: SHEET_ROWS - min(half, len(wrong))]]
    rows = []
    for query in chosen:
        found = tuple(int(one) for one in found_QK[query])
        is_right = tuple(found_labels[one] == queries.labels[query] for one in found)
        rows.append(SheetRow(int(query), found, is_right))
    return Sheet(title, queries, index, tuple(rows))
