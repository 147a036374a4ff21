"""Dense-prediction cells as networks (arXiv 1809.04184), with DeepLabv3+'s decoder (arXiv 1802.02611) behind them.

Layers are those of the released code (tensorflow/models, deeplab/core/dense_prediction_cell.py): batch norm and ReLU
behind every convolution, also between depthwise and pointwise; outputs concatenated, dropped out, projected.

Axes: B pictures, C channels, H x W places of a map.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, interpolate

from raylab.errors import RaylabError
from raylab.models.cell_space import BACKBONE, Branch, Cell, read_cell

DEPTHWISE_STD, POINTWISE_STD = 0.33, 0.06
"""Of truncated normals."""
EPS = 1e-5
DECODER_STRIDE, LOW_FILTERS = 4, 48
"""Of the map that the decoder joins, and what that is reduced to (arXiv 1802.02611, section 4.1)."""


@dataclass(frozen=True)
class CellConfig:
    """A head: a cell on the last map, perhaps a decoder, a class for each place."""

    cell: str = "dpc"
    """``dpc`` (the published one), ``aspp``, ``linear``, or a .json file in DeepLab's format."""
    filters: int = 256
    """Of all convolutions."""
    decoder: bool = False
    """Join the map of stride 4, as DeepLabv3+ does."""
    dropout: float = 0.1
    """Of the concatenated branches."""
    momentum: float = 3e-4
    """Of batch norm's running statistics: 1 - 0.9997, for runs of some ten thousand steps."""
    rate_multiplier: int = 0
    """Rates are times this; 0: 16 / the map's stride, but at least 1."""

    def __post_init__(self) -> None:
        """Refuse numbers that make no network."""
        if self.filters < 1 or not 0 <= self.dropout < 1 or not 0 < self.momentum <= 1 or self.rate_multiplier < 0:
            raise RaylabError(
                f"head: filters {self.filters} and dropout {self.dropout} and momentum {self.momentum} and "
                f"rate-multiplier {self.rate_multiplier}: 1 or more, 0 to below 1, above 0 to 1, 0 or more."
            )

    def build(self, channels: Sequence[int], strides: Sequence[int], classes: int) -> PixelHead:
        """Return the head for maps of an encoder, random weights by torch's present seed.

        Raises:
            RaylabError: no such cell; the encoder has no map for the decoder.
        """
        cell = read_cell(self.cell)
        if not self.decoder:
            return self.of(cell, channels[-1], strides[-1], classes)
        if DECODER_STRIDE not in strides:
            raise RaylabError(
                f"head.decoder wants a map of stride {DECODER_STRIDE}; the encoder's are of {list(strides)}."
            )
        level = len(strides) - 1 - list(reversed(strides)).index(DECODER_STRIDE)
        decoder = Decoder(channels[level], self.filters, self.momentum)
        return PixelHead(self._context(cell, channels[-1], strides[-1]), decoder, level, classes)

    def of(self, cell: Cell, channels: int, stride: int, classes: int) -> PixelHead:
        """Return the head with another cell than its own, without decoder, for one map."""
        return PixelHead(self._context(cell, channels, stride), None, 0, classes)

    def _context(self, cell: Cell, channels: int, stride: int) -> CellModule:
        multiplier = self.rate_multiplier or max(1, 16 // stride)
        return CellModule(cell, channels, self.filters, self.dropout, self.momentum, multiplier=multiplier)


def convolution(inputs: int, filters: int, momentum: float) -> nn.Sequential:
    """Return a 1x1 convolution with batch norm and ReLU."""
    layer = nn.Conv2d(inputs, filters, 1, bias=False)
    nn.init.trunc_normal_(layer.weight, std=POINTWISE_STD, a=-2 * POINTWISE_STD, b=2 * POINTWISE_STD)
    return nn.Sequential(layer, nn.BatchNorm2d(filters, EPS, momentum), nn.ReLU())


def separable(inputs: int, filters: int, rate: tuple[int, int], momentum: float) -> nn.Sequential:
    """Return a 3x3 depthwise convolution of a rate, then a 1x1 convolution."""
    layer = nn.Conv2d(inputs, inputs, 3, padding=rate, dilation=rate, groups=inputs, bias=False)
    nn.init.trunc_normal_(layer.weight, std=DEPTHWISE_STD, a=-2 * DEPTHWISE_STD, b=2 * DEPTHWISE_STD)
    depthwise = nn.Sequential(layer, nn.BatchNorm2d(inputs, EPS, momentum), nn.ReLU())
    return nn.Sequential(depthwise, convolution(inputs, filters, momentum))


class PyramidPooling(nn.Module):
    """Averages over windows of a grid's cells, a 1x1 convolution, and back to the map's size.

    As in the released code the windows move by single places: a grid of 1 x 1 is the whole map's average.
    """

    def __init__(self, inputs: int, filters: int, grid: tuple[int, int], momentum: float) -> None:
        super().__init__()
        self.grid = grid
        self.convolution = convolution(inputs, filters, momentum)

    def forward(self, map_BCHW: Tensor) -> Tensor:
        """Return [B, filters, H, W]."""
        size = map_BCHW.shape[-2:]
        kernel = [(places - 1) // cells + 1 for places, cells in zip(size, self.grid)]
        pooled_BCHW = self.convolution(avg_pool2d(map_BCHW, kernel, stride=1))
        if pooled_BCHW.shape[-2:] == (1, 1):
            return pooled_BCHW.expand(-1, -1, *size)
        return interpolate(pooled_BCHW, size, mode="bilinear", align_corners=True)


class CellModule(nn.Module):
    """A cell: one map to another of the same size.

    Args:
        cell: what it is made of.
        inputs: channels of the map.
        filters: of each branch, and of what comes out.
        dropout: of the concatenated branches.
        momentum: of batch norm.
        multiplier: of all rates.
    """

    def __init__(
        self, cell: Cell, inputs: int, filters: int, dropout: float, momentum: float, *, multiplier: int = 1
    ) -> None:
        super().__init__()
        self.cell, self.filters = cell, filters
        self.branches = nn.ModuleList(
            _operator(branch, inputs if branch.input == BACKBONE else filters, filters, momentum, multiplier)
            for branch in cell
        )
        self.dropout = nn.Dropout(dropout)
        self.projection = convolution(len(cell) * filters, filters, momentum)

    def forward(self, map_BCHW: Tensor) -> Tensor:
        """Return [B, filters, H, W]."""
        outputs: list[Tensor] = []
        for branch, operator in zip(self.cell, self.branches):
            outputs.append(operator(map_BCHW if branch.input == BACKBONE else outputs[branch.input]))
        return self.projection(self.dropout(torch.cat(outputs, 1)))

    def branch_weights(self) -> int:
        """Return the weights of the branches' convolutions, without projection and norms: as the paper counts."""
        layers = (layer for layer in self.branches.modules() if isinstance(layer, nn.Conv2d))
        return sum(layer.weight.numel() for layer in layers)


def _operator(branch: Branch, inputs: int, filters: int, momentum: float, multiplier: int) -> nn.Module:
    if branch.op == "conv1x1":
        return convolution(inputs, filters, momentum)
    if branch.op == "pooling":
        return PyramidPooling(inputs, filters, branch.size, momentum)
    height, width = branch.size
    return separable(inputs, filters, (height * multiplier, width * multiplier), momentum)


class Decoder(nn.Module):
    """DeepLabv3+'s: joins a finer map, and refines (arXiv 1802.02611, section 3.1)."""

    def __init__(self, low: int, filters: int, momentum: float) -> None:
        super().__init__()
        self.reduce = convolution(low, LOW_FILTERS, momentum)
        first = separable(filters + LOW_FILTERS, filters, (1, 1), momentum)
        self.refine = nn.Sequential(first, separable(filters, filters, (1, 1), momentum))

    def forward(self, context_BCHW: Tensor, low_BCHW: Tensor) -> Tensor:
        """Return [B, filters, H, W] of the finer map's size."""
        finer_BCHW = interpolate(context_BCHW, low_BCHW.shape[-2:], mode="bilinear", align_corners=False)
        return self.refine(torch.cat([finer_BCHW, self.reduce(low_BCHW)], 1))


class PixelHead(nn.Module):
    """Maps of features to a score for each class at each place.

    Args:
        context: takes the last map.
        decoder: joins another one, None for none.
        level: which.
        classes: how many.
    """

    def __init__(self, context: CellModule, decoder: Decoder | None, level: int, classes: int) -> None:
        super().__init__()
        self.context, self.decoder, self.level = context, decoder, level
        self.classifier = nn.Conv2d(context.filters, classes, 1)
        nn.init.trunc_normal_(self.classifier.weight, std=0.01)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Return [B, classes, H, W] of the last map's size, or of that which the decoder joins."""
        found_BCHW = self.context(maps[-1])
        if self.decoder is not None:
            found_BCHW = self.decoder(found_BCHW, maps[self.level])
        return self.classifier(found_BCHW)
