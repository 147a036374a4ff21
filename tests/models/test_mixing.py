"""What is mixed is what timm mixes, given the same draws; boxes keep to their areas."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from timm.data import mixup as of_timm

from raylab.errors import RaylabError
from raylab.models.mixing import AREAS, DRAWS, MixConfig, mix, targets

SIDE, ROWS, CLASSES = 32, 6, 4
NOTHING = MixConfig(mixup=0, cutmix=0, erased=0)


def drawn(config: MixConfig, rows: int = ROWS, side: int = SIDE) -> torch.Tensor:
    return torch.from_numpy(np.stack([config.draw(side, one) for one in np.random.default_rng(0).spawn(rows)]))


def pictures(rows: int = ROWS) -> torch.Tensor:
    return torch.randn(rows, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("config", [MixConfig(erased=0), MixConfig(mixup=0, erased=0), MixConfig(cutmix=0, erased=0)])
def test_it_is_timms(config: MixConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    draw_BR, class_B = drawn(config), torch.arange(ROWS) % CLASSES
    cuts_B = draw_BR[:, 1].numpy() == 1
    boxes = iter(draw_BR[cuts_B, 2:6].int().tolist())
    theirs = of_timm.Mixup(config.mixup, config.cutmix, mode="elem", label_smoothing=0.1, num_classes=CLASSES)
    monkeypatch.setattr(theirs, "_params_per_elem", lambda rows: (draw_BR[:, 0].numpy().copy(), cuts_B))
    monkeypatch.setattr(of_timm, "rand_bbox", lambda *shape, count=None: next(boxes))
    image_BCHW, target_BC = theirs(pictures(), class_B)
    torch.testing.assert_close(mix(pictures(), draw_BR), image_BCHW)
    torch.testing.assert_close(targets(class_B, draw_BR, CLASSES, 0.1), target_BC)
    assert not torch.equal(image_BCHW, pictures())


def test_half_of_the_pictures_are_cut_and_shares_follow_from_what_is_left() -> None:
    draw_BR = drawn(MixConfig(), 400)
    cuts_B = draw_BR[:, 1] == 1
    assert draw_BR.shape[1] == DRAWS
    assert 160 < cuts_B.sum() < 240
    area_B = (draw_BR[:, 3] - draw_BR[:, 2]) * (draw_BR[:, 5] - draw_BR[:, 4]) / SIDE**2
    torch.testing.assert_close(draw_BR[:, 0][cuts_B], 1 - area_B[cuts_B])
    assert 0.4 < draw_BR[:, 0].mean() < 0.75


def test_noise_lies_where_it_was_drawn() -> None:
    draw_BR = drawn(MixConfig(mixup=0, cutmix=0, erased=1.0), 200)
    area_B = (draw_BR[:, 7] - draw_BR[:, 6]) * (draw_BR[:, 9] - draw_BR[:, 8]) / SIDE**2
    assert area_B.min() > 0.6 * AREAS[0] and area_B.max() < 1.2 * AREAS[1]
    before = pictures(200)
    other_BHW = (mix(before, draw_BR) != before).all(1)
    torch.testing.assert_close(other_BHW.float().mean((1, 2)), area_B)


def test_nothing_is_mixed_where_nothing_is_asked() -> None:
    draw_BR = drawn(NOTHING)
    assert torch.equal(mix(pictures(), draw_BR), pictures())
    assert torch.equal(targets(torch.tensor([1] * ROWS), draw_BR, 2, 0.0), torch.tensor([[0.0, 1.0]] * ROWS))


@pytest.mark.parametrize("settings", [{"erased": 1.5}, {"smoothing": -0.1}, {"mixup": -1.0}])
def test_settings_that_cannot_be_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(RaylabError, match=r"task\.mixing"):
        MixConfig(**settings)
