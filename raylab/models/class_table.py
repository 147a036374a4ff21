"""A softmax over millions of classes: rows sharded over workers, sampled negatives, sparse gradients (MOFI).

Every worker holds a run of the table's rows. A step looks at the vectors of all workers, at the rows of their classes
and at some more rows drawn at random; the shards' sums are joined to one softmax, as if one worker had looked at all of
them. Only rows that were looked at get a gradient, so an optimiser for sparse gradients moves and remembers no other.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding, normalize

from raylab.errors import RaylabError
from raylab.models.distributed import all_reduce, gather, gather_ids, highest, rank, world

NEAREST_ROWS = 65_536
"""Rows that `ClassTable.nearest` looks at at once."""


@dataclass(frozen=True)
class ClassTableConfig:
    """MOFI's large-scale softmax; the values are the paper's as far as they are known (arXiv 2306.07952)."""

    margin: float = 0.15
    """CosFace: taken off the cosine with the true class."""
    temperature: float = 1 / 32
    """Cosines are divided by it."""
    negatives: int = 512 * 1024
    """Classes drawn in each step beside those of the batch, over all workers; all classes where there are fewer."""


class ClassTable(nn.Module):
    """One worker's rows of a table of class vectors.

    Args:
        classes: rows of the whole table.
        dim: length of a vector.
        config: see there.
        seed: of the first values: the whole table's, so that every number of workers starts from the same.

    Raises:
        RaylabError: the last worker would have no row.

    Attributes:
        weight: float32 [rows here, dim]. Not averaged over workers: keep it out of DDP.
        first: the whole table's number of the first row here.
        sparse: the gradient holds the rows that were looked at, instead of zeros for all others.
    """

    def __init__(self, classes: int, dim: int, config: ClassTableConfig, seed: int = 0) -> None:
        super().__init__()
        size = math.ceil(classes / world())
        if size * (world() - 1) >= classes:  # the last one's rows; they are cut as torch.chunk cuts
            fewer = math.ceil(classes / size) if classes else 0
            raise RaylabError(
                f"{classes} classes cannot be shared by {world()} workers, {size} each: the last would have none. Take "
                f"{fewer} workers or fewer (--parallel.workers), or labels with more entities."
            )
        self.classes, self.config, self.sparse = classes, config, True
        self.first = min(rank() * size, classes)
        last = min(self.first + size, classes)
        self.weight = nn.Parameter(_first_values(self.first, last, dim, seed))

    def forward(self, image_BD: Tensor, class_B: Tensor, others_BE: Tensor | None = None) -> Tensor:
        """Return the mean over all workers' rows of the loss; each worker gets the same number.

        The gradient is that of the worker's own part, as DDP expects, which averages over workers: `image_BD` gets the
        gradient of its own rows times the number of workers, `weight` likewise (see `rescale`).

        Args:
            image_BD: float32 [B, dim], rows of length 1.
            class_B: int64 [B], numbers of classes.
            others_BE: int64 [B, E], further classes of the same pictures, which are no negatives for them; -1: none.
        """
        vector_ND, class_N = gather(image_BD), gather_ids(class_B)
        chosen_S, valid_S = self._choose(class_N)
        row_SD = normalize(embedding(chosen_S, self.weight, sparse=self.sparse), dim=-1)
        logit_NS = vector_ND @ row_SD.T
        if others_BE is not None:
            logit_NS = _without(logit_NS, gather_ids(others_BE) - self.first, class_N - self.first, chosen_S)
        own_N, at_N = _find(class_N - self.first, chosen_S, len(self.weight))
        logit_NS = logit_NS.masked_fill(~valid_S, -torch.inf)
        return _margin_softmax(logit_NS, own_N, at_N, self.config)

    def _choose(self, class_N: Tensor) -> tuple[Tensor, Tensor]:
        """Return the rows to look at, ascending, and which of them count: a row that was drawn twice counts once."""
        rows = len(self.weight)
        device = class_N.device
        wanted = math.ceil(self.config.negatives / world())
        if rows <= wanted:
            return torch.arange(rows, device=device), torch.ones(rows, dtype=torch.bool, device=device)
        local_N = class_N - self.first
        mine_N = (local_N >= 0) & (local_N < rows)
        drawn = torch.randint(rows, (wanted + len(class_N),), device=device)
        positive_N = torch.where(mine_N, local_N, drawn[: len(class_N)])  # others' classes give way to more negatives
        chosen_S = torch.cat([positive_N, drawn[len(class_N) :]]).sort().values + 0  # torch-xla cannot index by a sort
        first_seen = torch.ones_like(chosen_S, dtype=torch.bool)
        first_seen[1:] = chosen_S[1:] != chosen_S[:-1]
        return chosen_S, first_seen

    @torch.no_grad()
    def nearest(self, image_BD: Tensor) -> Tensor:
        """Return int64 [B], the class nearest to each of this worker's vectors; all workers call it.

        Args:
            image_BD: float32 [B, dim], as many rows in each worker.
        """
        vector_ND = gather(image_BD)
        best_N = vector_ND.new_full((len(vector_ND),), -torch.inf)
        class_N = torch.zeros(len(vector_ND), dtype=torch.int64, device=vector_ND.device)
        for start in range(0, len(self.weight), NEAREST_ROWS):
            row_SD = normalize(self.weight[start : start + NEAREST_ROWS], dim=-1)
            cosine_N, at_N = (vector_ND @ row_SD.T).max(dim=1)
            class_N = torch.where(cosine_N > best_N, at_N + start + self.first, class_N)
            best_N = torch.maximum(cosine_N, best_N)
        winner_N = gather(best_N[None]).argmax(dim=0)  # [workers, N]: each looked at its own rows
        found_N = gather_ids(class_N[None])[winner_N, torch.arange(len(winner_N), device=winner_N.device)]
        return found_N[rank() * len(image_BD) : (rank() + 1) * len(image_BD)]

    def rescale(self) -> None:
        """Divide the gradient by the number of workers: what DDP's averaging does for everything else."""
        if self.weight.grad is not None and world() > 1:
            self.weight.grad /= world()


def _first_values(first: int, last: int, dim: int, seed: int, block: int = 65_536) -> Tensor:
    """Rows `first` to `last` of a normal table of deviation dim^-1/2, made in blocks that have seeds of their own."""
    table = torch.empty(last - first, dim)
    for number in range(first // block, -(-last // block)):
        generator = torch.Generator().manual_seed(seed * 1_000_003 + number)
        values = torch.randn(block, dim, generator=generator) / math.sqrt(dim)
        start = number * block
        lo, hi = max(first, start), min(last, start + block)
        table[lo - first : hi - first] = values[lo - start : hi - start]
    return table


def _find(local_N: Tensor, chosen_S: Tensor, rows: int) -> tuple[Tensor, Tensor]:
    """Return which classes lie in this shard, and their place among the chosen rows (0 for the others)."""
    own_N = (local_N >= 0) & (local_N < rows)
    at_N = _places(chosen_S, local_N.clamp(0, max(0, rows - 1)))
    return own_N, torch.where(own_N, at_N, 0)


def _places(rising_S: Tensor, number: Tensor) -> Tensor:
    """Return what torch.searchsorted does, by operations that every device has."""
    place = torch.zeros_like(number)
    for bit in reversed(range(len(rising_S).bit_length())):
        further = place + (1 << bit)
        below = rising_S[(further - 1).clamp_max(len(rising_S) - 1)] < number
        place = torch.where(below & (further <= len(rising_S)), further, place)
    return place


def _without(logit_NS: Tensor, other_NE: Tensor, local_N: Tensor, chosen_S: Tensor) -> Tensor:
    """Take the further classes of each picture out of its softmax, but not the one that was drawn."""
    at_NE = _places(chosen_S, other_NE).clamp_max(len(chosen_S) - 1)
    hit_NE = (chosen_S[at_NE] == other_NE) & (other_NE != local_N[:, None])
    return logit_NS.scatter_add(1, at_NE, torch.where(hit_NE, -torch.inf, 0.0))


def _margin_softmax(logit_NS: Tensor, own_N: Tensor, at_N: Tensor, config: ClassTableConfig) -> Tensor:
    """CosFace's loss over the chosen rows of all shards (arXiv 1801.09414)."""
    margin_N = torch.where(own_N, config.margin, 0.0)
    logit_NS = logit_NS.scatter_add(1, at_N[:, None], -margin_N[:, None]) / config.temperature
    highest_N = highest(logit_NS.amax(dim=1)).clamp_min(-1e30)
    total_N = all_reduce((logit_NS - highest_N[:, None]).exp().sum(dim=1))
    true_N = all_reduce(torch.where(own_N, logit_NS.gather(1, at_N[:, None]).squeeze(1), 0.0))
    return (total_N.log() + highest_N - true_N).mean()
