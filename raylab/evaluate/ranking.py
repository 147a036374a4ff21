"""Ranks, average precision and nearest neighbours over vectors, block by block: never the whole matrix of scores.

Ties are broken by the index: of two images that score the same, the one with the lower index ranks first. Vectors are
expected as float32 with rows of length 1 (`unit`); a score is then a cosine.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from raylab.errors import RaylabError

SCORE_BYTES = 64 * 2**20
"""A block of scores takes at most about this much memory."""

QUERY_ROWS = 256
"""Queries whose scores are computed together."""


def unit(vectors: np.ndarray, what: str) -> np.ndarray:
    """Return float32 [n, d] with rows of length 1.

    Args:
        vectors: float [n, d].
        what: whose vectors they are, for the message.

    Raises:
        RaylabError: a row is not finite or is zero.
    """
    vectors_ND = np.ascontiguousarray(vectors, np.float32)
    length_N = np.linalg.norm(vectors_ND.astype(np.float64), axis=1) if len(vectors_ND) else np.ones(0)
    bad = np.flatnonzero(~np.isfinite(length_N) | (length_N == 0))
    if len(bad):
        raise RaylabError(
            f"{what}: {len(bad)} of {len(vectors_ND)} vectors are not finite or zero, the first is number {bad[0]}. "
            "Run the model in fp32 or bf16 (--precision), or train it again."
        )
    return (vectors_ND / length_N[:, None]).astype(np.float32)


def ranks(score_N: np.ndarray, wanted_P: np.ndarray) -> np.ndarray:
    """Return the ranks of some items among all, by falling score.

    Args:
        score_N: float [n], no nan.
        wanted_P: integer [p], indices of the items.

    Returns:
        int64 [p], from 1.
    """
    value_P = score_N[wanted_P]
    # only what scores as high as the lowest of them can rank before one: of a good model, that is few to sort
    ordered = np.sort(score_N[score_N >= value_P.min(initial=np.inf)])
    not_above_P = np.searchsorted(ordered, value_P, "right")
    equal_P = not_above_P - np.searchsorted(ordered, value_P, "left")
    rank_P = len(ordered) - not_above_P + 1
    for place in np.flatnonzero(equal_P > 1):
        rank_P[place] += np.count_nonzero(score_N[: wanted_P[place]] == value_P[place])
    return rank_P


def relevant_ranks(vectors_ND: np.ndarray, class_N: np.ndarray, *, self_hit: bool) -> Iterator[np.ndarray]:
    """Let each image query all, and yield the ranks of those of its class.

    Args:
        vectors_ND: float32 [n, d], rows of length 1.
        class_N: integer [n], the class of each image, from 0.
        self_hit: the query stays among the images that are ranked, and counts as relevant; otherwise it is taken out.

    Yields:
        int64 [p], rising, from 1, for each query in turn; empty where nothing is relevant.
    """
    members = members_of(class_N)
    for start, score_BN in _score_blocks(vectors_ND, vectors_ND):
        for query, score_N in enumerate(score_BN, start):
            wanted_P = members[class_N[query]]
            if not self_hit:
                wanted_P = wanted_P[wanted_P != query]
                score_N[query] = -np.inf
            yield np.sort(ranks(score_N, wanted_P))


def members_of(class_N: np.ndarray) -> list[np.ndarray]:
    """Return for each class the indices of its images, rising."""
    order = np.argsort(class_N, kind="stable")
    return np.split(order, np.cumsum(np.bincount(class_N))[:-1]) if len(class_N) else []


def average_precision(rank_P: np.ndarray) -> float:
    """Return the mean, over the relevant items, of the precision at their rank.

    Args:
        rank_P: ranks of all relevant items, rising, from 1; at least one.
    """
    return float(np.mean(np.arange(1, len(rank_P) + 1) / rank_P))


def interpolated_precision(rank_P: np.ndarray, levels: int) -> np.ndarray:
    """Return the highest precision at each recall or above it.

    Args:
        rank_P: ranks of all relevant items, rising, from 1; at least one.
        levels: number of recall levels, from 0 to 1, both included.

    Returns:
        float64 [levels].
    """
    precision_P = np.arange(1, len(rank_P) + 1) / rank_P
    best_P = np.maximum.accumulate(precision_P[::-1])[::-1]
    # the first item that reaches a recall of r is number ceil(r p); whole-number arithmetic, so that 1 stays 1
    needed_L = -(-np.arange(levels) * len(rank_P) // (levels - 1))
    return best_P[np.maximum(needed_L, 1) - 1]


def top_k(score_BN: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the `k` highest scores of each row.

    Args:
        score_BN: float [b, n], no nan.
        k: at most n.

    Returns:
        int64 [b, k] indices and float [b, k] scores, best first.
    """
    least_B = np.partition(score_BN, -k, axis=1)[:, -k]
    index_BK = np.empty((len(score_BN), k), np.int64)
    for row, (score_N, least) in enumerate(zip(score_BN, least_B)):
        reaching = np.flatnonzero(score_N >= least)  # rising, so that the stable sort breaks ties by index
        index_BK[row] = reaching[np.argsort(-score_N[reaching], kind="stable")[:k]]
    return index_BK, np.take_along_axis(score_BN, index_BK, axis=1)


def nearest(
    query_QD: np.ndarray, index_ND: np.ndarray, k: int, *, leave_one_out: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Return the `k` nearest rows of an index for each query, by cosine.

    Args:
        query_QD: float32 [q, d], rows of length 1.
        index_ND: float16 or float32 [n, d], rows of length 1; may be memory-mapped.
        k: neighbours wanted; fewer come back where the index has fewer.
        leave_one_out: queries are the index itself: none finds itself.

    Returns:
        int64 [q, k] rows and float32 [q, k] cosines, nearest first.

    Raises:
        RaylabError: the vectors have different lengths.
    """
    check_dims(query_QD, index_ND)
    k = min(k, len(index_ND) - leave_one_out)
    if k < 1:
        return np.empty((len(query_QD), 0), np.int64), np.empty((len(query_QD), 0), np.float32)
    parts = [
        _nearest_of_block(query_QD[start : start + QUERY_ROWS], start if leave_one_out else None, index_ND, k)
        for start in range(0, len(query_QD), QUERY_ROWS)
    ]
    index, score = zip(*parts) if parts else ([np.empty((0, k), np.int64)], [np.empty((0, k), np.float32)])
    return np.concatenate(index), np.concatenate(score)


def check_dims(query_QD: np.ndarray, index_ND: np.ndarray) -> None:
    """Raise `RaylabError` unless both have vectors of one length."""
    if query_QD.shape[1] != index_ND.shape[1]:
        raise RaylabError(
            f"The queries have vectors of {query_QD.shape[1]} numbers and the index of {index_ND.shape[1]}: "
            "both must come from the same model."
        )


def _nearest_of_block(
    query_BD: np.ndarray, first: int | None, index_ND: np.ndarray, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """Search the index block by block; `first` is the number of the first query where each leaves itself out."""
    columns = SCORE_BYTES // (4 * QUERY_ROWS)
    found_BK, best_BK = np.empty((len(query_BD), 0), np.int64), np.empty((len(query_BD), 0), np.float32)
    for start in range(0, len(index_ND), columns):
        score_BN = query_BD @ index_ND[start : start + columns].astype(np.float32, copy=False).T
        if first is not None:
            own = np.arange(first, first + len(query_BD)) - start
            inside = np.flatnonzero((own >= 0) & (own < score_BN.shape[1]))
            score_BN[inside, own[inside]] = -np.inf
        index_BK, score_BK = top_k(score_BN, min(k, score_BN.shape[1]))
        # what was found before has lower indices and stands first, so ties are still broken by the index
        found_BK = np.concatenate([found_BK, index_BK + start], axis=1)
        both = np.concatenate([best_BK, score_BK], axis=1)
        place_BK, best_BK = top_k(both, min(k, both.shape[1]))
        found_BK = np.take_along_axis(found_BK, place_BK, axis=1)
    return found_BK, best_BK


def majority(class_QK: np.ndarray) -> np.ndarray:
    """Return the most frequent class of each row; of equally frequent ones, the one that comes first.

    Args:
        class_QK: integer [q, k], classes of the neighbours, nearest first; k at least 1.

    Returns:
        integer [q].
    """
    votes_QK = np.stack([(class_QK == class_QK[:, [place]]).sum(axis=1) for place in range(class_QK.shape[1])], axis=1)
    return class_QK[np.arange(len(class_QK)), votes_QK.argmax(axis=1)]


def _score_blocks(query_QD: np.ndarray, index_ND: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Yield (number of the first query, float32 [b, n] cosines), within `SCORE_BYTES` each."""
    rows = max(1, min(QUERY_ROWS, SCORE_BYTES // (4 * max(1, len(index_ND)))))
    for start in range(0, len(query_QD), rows):
        yield start, query_QD[start : start + rows] @ index_ND.T
