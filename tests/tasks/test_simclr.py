"""NT-Xent by hand, with one worker and with two; what views of a picture are like."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from distributed_workers import run_workers
from torch.nn.functional import normalize

from raylab.errors import RaylabError
from raylab.models.augment import DRAWS, ViewConfig, _resampling, view
from raylab.models.mae import VitConfig
from raylab.models.simclr import nt_xent
from raylab.recipes.train import TRAIN
from raylab.tasks.base import TaskContext
from raylab.tasks.simclr import SimClrTask

ROWS, DIM, TEMPERATURE = 6, 5, 0.3
PLAIN = ViewConfig(least_area=1.0, jittered=0.0, grey=0.0)


def vectors(seed: int) -> torch.Tensor:
    return normalize(torch.randn(ROWS, DIM, generator=torch.Generator().manual_seed(seed)), dim=-1)


def test_the_loss_is_that_of_numpy_in_float64() -> None:
    first, second = (vectors(seed).double().numpy() for seed in (0, 1))
    both = np.concatenate([first, second])
    losses = []
    for i in range(2 * ROWS):
        similar = np.exp(both @ both[i] / TEMPERATURE)
        losses.append(-np.log(similar[(i + ROWS) % (2 * ROWS)] / (similar.sum() - similar[i])))
    found = nt_xent(vectors(0), vectors(1), TEMPERATURE)
    assert found.item() == pytest.approx(np.mean(losses), rel=1e-5)


def _shard(rank: int, world: int) -> dict[str, torch.Tensor]:
    rows = slice(rank * ROWS // world, (rank + 1) * ROWS // world)
    first, second = vectors(0)[rows].requires_grad_(), vectors(1)[rows].requires_grad_()
    loss = nt_xent(first, second, TEMPERATURE)
    loss.backward()
    assert first.grad is not None
    assert second.grad is not None
    return {"loss": loss.detach(), "first": first.grad / world, "second": second.grad / world}


@pytest.mark.slow
def test_two_workers_are_one() -> None:
    alone, both = _shard(0, 1), run_workers(_shard, 2)
    torch.testing.assert_close(torch.stack([one["loss"] for one in both]).mean(), alone["loss"])
    for name in ("first", "second"):
        torch.testing.assert_close(torch.cat([one[name] for one in both]), alone[name])


def halves(count: int) -> torch.Tensor:
    """Return pictures that are red at the left and blue at the right."""
    image_BCHW = torch.zeros(count, 3, 40, 40)
    image_BCHW[:, 0, :, :20], image_BCHW[:, 2, :, 20:] = 1, 1
    return image_BCHW


def some_view(image_BCHW: torch.Tensor, side: int, config: ViewConfig, seed: int = 0) -> torch.Tensor:
    draw_BR = torch.rand(len(image_BCHW), DRAWS, generator=torch.Generator().manual_seed(seed))
    return view(image_BCHW, draw_BR, side, config)


def test_views_follow_from_what_was_drawn_and_differ() -> None:
    image_BCHW = torch.rand(4, 3, 40, 40, generator=torch.Generator().manual_seed(0))
    found = [some_view(image_BCHW, 32, ViewConfig(), seed) for seed in (1, 1, 2)]
    assert found[0].shape == (4, 3, 32, 32)
    assert found[0].min() >= 0 and found[0].max() <= 1
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def test_every_second_view_is_mirrored_and_parts_are_parts() -> None:
    image_BCHW = some_view(halves(200), 32, PLAIN)
    left_is_red_B = image_BCHW[:, 0, 16, 0] > image_BCHW[:, 0, 16, -1]
    assert 70 < left_is_red_B.sum() < 130
    parts = some_view(halves(200), 32, replace(PLAIN, least_area=0.1))
    one_colour_B = (parts[:, 0].amax((1, 2)) < 0.01) | (parts[:, 2].amax((1, 2)) < 0.01)
    assert 2 < one_colour_B.sum() < 60, "some parts lie in one half"


def test_a_part_is_resized_as_pillow_does() -> None:
    """Of the whole width and height, which is what a ratio of 1 and the largest area make of it."""
    from PIL import Image

    pixels = np.random.default_rng(0).random((40, 40)).astype(np.float32)
    whole, start = torch.ones(1), torch.zeros(1)
    weight = _resampling(start, whole, 40, 16)[0].numpy()
    expected = np.asarray(Image.fromarray(pixels).resize((16, 16), Image.Resampling.BILINEAR))
    np.testing.assert_allclose(weight @ pixels @ weight.T, expected, atol=1e-5)


def test_colours_change_by_as_much_as_is_said() -> None:
    picture = torch.full((200, 3, 8, 8), 0.5)
    assert torch.allclose(some_view(picture, 8, PLAIN), picture)
    brighter = some_view(picture, 8, replace(PLAIN, jittered=1.0, jitter=0.2)).mean((1, 2, 3))
    assert 0.39 < brighter.min() < 0.43 and 0.57 < brighter.max() < 0.61
    grey = some_view(halves(200), 8, replace(PLAIN, grey=0.3))
    colourless_B = (grey.amax(1) - grey.amin(1)).amax((1, 2)) < 1e-5
    assert 35 < colourless_B.sum() < 85


def test_its_measure_counts_pictures_whose_own_view_is_nearest() -> None:
    learner: Any = TRAIN["simclr_miniworld"]().task.learner(TaskContext("", "", 0, 0))
    second = torch.eye(4)[[0, 1, 3, 2]]
    learner.module.forward = lambda image_BHWC, draw_BVR: {"first_BD": torch.eye(4), "second_BD": second}
    assert learner.measures({"image_BHWC": None, "draw_BVR": None})["view_top1"].tolist() == [1, 1, 0, 0]


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"temperature": 0.0}, "temperature=0.0"), ({"encoder": VitConfig(weights="timm")}, "random weights")],
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(RaylabError, match=message):
        SimClrTask(**settings)
