"""Cells as networks: their weights, their shapes, and each operator against a straight re-computation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from raylab.errors import RaylabError
from raylab.models.cell_space import ASPP, NAMED, PUBLISHED, Branch, Cell, branch_weights, uniform
from raylab.models.dpc import CellConfig, CellModule, PyramidPooling
from raylab.models.pixel_net import MapNet
from raylab.tasks.segmentation import MapLearner, pixel_groups, pixel_losses


def module(cell: Cell, inputs: int = 6, filters: int = 4) -> CellModule:
    torch.manual_seed(0)
    return CellModule(cell, inputs, filters, 0.1, 0.1).double().eval()


def without_norms(cell: CellModule) -> CellModule:
    """Norms that have seen nothing scale by 1 / sqrt(1 + eps) in evaluation: leave that out."""
    for part in cell.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.eps = 0.0
    return cell


@pytest.mark.parametrize(("inputs", "weights"), [(320, 356_160), (2048, 814_080)])
def test_the_published_cell_has_the_weights_that_the_paper_prints(inputs: int, weights: int) -> None:
    with torch.device("meta"):
        assert CellModule(PUBLISHED, inputs, 256, 0.1, 0.1).branch_weights() == weights


def test_any_cell_has_the_weights_that_are_reckoned_for_it_and_keeps_the_size() -> None:
    rng = np.random.default_rng(0)
    for cell in (*NAMED.values(), *(uniform(rng) for _ in range(20))):
        found = module(cell)
        assert found.branch_weights() == branch_weights(cell, 6, 4)
        assert found(torch.randn(2, 6, 9, 13, dtype=torch.float64)).shape == (2, 4, 9, 13)


def depthwise(map_CHW: Tensor, weight_C33: Tensor, rate: tuple[int, int]) -> Tensor:
    """A 3x3 filter a channel, place by place; what lies outside is 0."""
    found = torch.zeros_like(map_CHW)
    _, height, width = map_CHW.shape
    for y in range(height):
        for x in range(width):
            for i in range(3):
                for j in range(3):
                    v, u = y + (i - 1) * rate[0], x + (j - 1) * rate[1]
                    if 0 <= v < height and 0 <= u < width:
                        found[:, y, x] += weight_C33[:, i, j] * map_CHW[:, v, u]
    return found


def test_a_cell_is_what_its_branches_say() -> None:
    cell = (Branch("separable", (1, 3)), Branch("conv1x1", (1, 1), 0), Branch("separable", (2, 1), 0))
    found = without_norms(module(cell))
    map_BCHW = torch.randn(1, 6, 5, 7, dtype=torch.float64)
    convs = [part.weight for part in found.branches.modules() if isinstance(part, nn.Conv2d)]

    def separable(map_CHW: Tensor, depth: Tensor, point: Tensor, rate: tuple[int, int]) -> Tensor:
        mid_CHW = depthwise(map_CHW, depth[:, 0], rate).relu()  # active between the two as well
        return torch.einsum("fc,chw->fhw", point[:, :, 0, 0], mid_CHW).relu()

    first = separable(map_BCHW[0], convs[0], convs[1], (1, 3))
    second = torch.einsum("fc,chw->fhw", convs[2][:, :, 0, 0], first).relu()
    third = separable(first, convs[3], convs[4], (2, 1))
    joined = torch.cat([first, second, third])
    expected = torch.einsum("fc,chw->fhw", found.projection[0].weight[:, :, 0, 0], joined).relu()
    assert torch.allclose(found(map_BCHW)[0], expected, atol=1e-12)


@pytest.mark.parametrize(("grid", "pooled"), [((1, 1), (1, 1)), ((2, 4), (5, 7)), ((8, 8), (8, 8))])
def test_pooling_moves_windows_of_the_grids_cells_by_single_places(
    grid: tuple[int, int], pooled: tuple[int, int]
) -> None:
    torch.manual_seed(0)
    found = PyramidPooling(3, 4, grid, 0.1).double().eval()
    seen: list[Tensor] = []
    found.convolution.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    map_BCHW = torch.randn(2, 3, 9, 9, dtype=torch.float64)
    assert found(map_BCHW).shape == (2, 4, 9, 9)
    kernel = [(9 - 1) // cells + 1 for cells in grid]
    assert tuple(seen[0].shape[-2:]) == (9 - kernel[0] + 1, 9 - kernel[1] + 1) == pooled
    window = map_BCHW[:, :, 1 if pooled[0] > 1 else 0 :, :][:, :, : kernel[0], : kernel[1]]
    assert torch.allclose(seen[0][:, :, 1 if pooled[0] > 1 else 0, 0], window.mean((2, 3)))


def test_rates_follow_the_maps_stride() -> None:
    for stride, rate in ((16, (6, 6)), (8, (12, 12)), (32, (6, 6))):
        head = CellConfig(cell="aspp", filters=4).build([3, 8], [4, stride], 2)
        layer = next(part for part in head.context.branches[1].modules() if isinstance(part, nn.Conv2d))
        assert layer.dilation == rate


def test_the_decoder_joins_the_map_of_stride_four() -> None:
    head = CellConfig(cell="dpc", filters=8, decoder=True).build([3, 5, 9], [2, 4, 16], 7)
    maps = [torch.randn(2, 3, 32, 32), torch.randn(2, 5, 16, 16), torch.randn(2, 9, 4, 4)]
    assert head(maps).shape == (2, 7, 16, 16)
    with pytest.raises(RaylabError, match=r"wants a map of stride 4; the encoder's are of \[2, 8\]"):
        CellConfig(decoder=True).build([3, 5], [2, 8], 7)
    with pytest.raises(RaylabError, match="filters 0"):
        CellConfig(filters=0)


def test_depthwise_filters_norms_and_biases_do_not_decay() -> None:
    head = CellConfig(cell="dpc", filters=4).build([6], [16], 3)
    decays, others = pixel_groups(head)
    assert decays.decays and not others.decays
    assert {tuple(one.shape[1:]) for one in decays.parameters} == {(6, 1, 1), (4, 1, 1), (20, 1, 1)}
    assert sum(one.ndim == 4 for one in others.parameters) == 5
    assert len(decays.parameters) + len(others.parameters) == len(list(head.parameters()))


def test_a_cell_learns_on_maps_alone() -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    learner = MapLearner(MapNet(CellConfig(cell="aspp", filters=8, momentum=0.1).build([6], [8], 2)))
    map_BCHW = torch.randn(4, 6, 8, 8).half()
    batch = {"map_BCHW": map_BCHW, "mask_BHW": (map_BCHW[:, 0] > 0).to(torch.uint8)}
    optimizer = torch.optim.Adam(learner.module.parameters(), 2e-2)
    losses = []
    for _ in range(25):
        found = learner.losses(learner.module(*learner.inputs(batch)), batch)["loss"]
        optimizer.zero_grad()
        found.backward()
        optimizer.step()
        losses.append(found.item())
    assert losses[-1] < 0.6 * losses[0]


def test_pixels_that_are_ignored_do_not_count() -> None:
    logit_BCHW = torch.tensor([[[[2.0, 0.0]], [[0.0, 3.0]]]])
    mask_BHW = torch.tensor([[[0, 255]]], dtype=torch.uint8)
    found = pixel_losses(logit_BCHW, mask_BHW)
    assert float(found["loss"]) == pytest.approx(float(torch.tensor([2.0, 0.0]).logsumexp(0)) - 2)
    assert float(found["pixel_accuracy"]) == 1.0
    nothing = pixel_losses(logit_BCHW, torch.full((1, 1, 2), 255, dtype=torch.uint8))
    assert float(nothing["loss"]) == 0.0


def test_aspp_is_four_branches_and_the_image() -> None:
    assert [str(branch) for branch in ASPP] == [
        "1x1 conv",
        "3x3 conv, rate 6 x 6",
        "3x3 conv, rate 12 x 12",
        "3x3 conv, rate 18 x 18",
        "pooling 1 x 1",
    ]
