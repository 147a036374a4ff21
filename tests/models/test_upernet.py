"""UperNet on plain transformers and on pyramids; its recipe trains from an encoder that was pretrained."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from raylab.dense.fit import fit
from raylab.errors import RaylabError
from raylab.models.image_encoder import save_encoder
from raylab.models.pixel_encoder import PixelEncoderConfig
from raylab.models.upernet import UperNetConfig
from raylab.recipes.miniworld import MINIWORLD_VIT
from raylab.recipes.segmentation import SEGMENTATION
from raylab.recipes.upernet import upernet_miniworld
from raylab.tasks.upernet import UperNetTask
from raylab.train.plan import CheckpointConfig, TrackConfig

HEAD = UperNetConfig(width=8)


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("encoder") / "model"
    torch.manual_seed(0)
    save_encoder(MINIWORLD_VIT.build(), folder, [0.5] * 3, [0.25] * 3)
    return folder


def test_a_plain_transformers_maps_become_a_pyramid(pretrained: Path) -> None:
    encoder = PixelEncoderConfig(name=str(pretrained)).build()
    head = HEAD.build(encoder.channels, encoder.strides, classes=5)
    maps = encoder(torch.zeros(2, 64, 64, 3, dtype=torch.uint8))
    sides = [scale(one).shape[-1] for scale, one in zip(head.scales, maps)]
    assert ([one.shape[-1] for one in maps], sides) == ([8] * 4, [32, 16, 8, 4])
    assert head(maps).shape == (2, 5, 32, 32)


def test_a_pyramid_stays_as_it_is() -> None:
    channels, sides = (4, 6, 8, 10), (16, 8, 4, 2)
    head = HEAD.build(channels, (4, 8, 16, 32), classes=3)
    assert not any(list(scale.parameters()) for scale in head.scales)
    maps = [torch.randn(2, depth, side, side) for depth, side in zip(channels, sides)]
    assert head(maps).shape == (2, 3, 16, 16)


@pytest.mark.parametrize(
    ("strides", "message"), [((8, 16, 32), "wants 4 maps"), ((16, 8, 4, 2), "neither of one size nor each coarser")]
)
def test_maps_that_it_cannot_take_are_refused(strides: tuple[int, ...], message: str) -> None:
    with pytest.raises(RaylabError, match=message):
        HEAD.build([4] * len(strides), strides, classes=2)


def test_the_encoders_blocks_learn_slower_than_the_head(pretrained: Path) -> None:
    task = UperNetTask(PixelEncoderConfig(name=str(pretrained)), HEAD, layer_decay=0.5)
    learner = task.learner(["a", "b"])
    rates = {id(one): group.rate for group in learner.groups() for one in group.parameters}
    learnt = [one for one in learner.module.parameters() if one.requires_grad]
    assert len(rates) == len(learnt)
    blocks = learner.module.encoder.network.model.blocks  # type: ignore[union-attr]
    first, last = (rates[id(block.attn.qkv.weight)] for block in (blocks[0], blocks[-1]))
    assert first == pytest.approx(last * 0.5**3)
    assert rates[id(learner.module.head.head.classifier.weight)] == 1.0  # type: ignore[union-attr]
    with pytest.raises(RaylabError, match="layer_decay"):
        replace(task, layer_decay=0.0)


def test_its_recipe_trains_and_scores(pretrained: Path, tmp_path: Path) -> None:
    made = upernet_miniworld()
    assert SEGMENTATION["upernet_miniworld"]() == made
    config = replace(
        made,
        task=replace(made.task, encoder=PixelEncoderConfig(name=str(pretrained)), head=HEAD),
        train="miniworld://?rows=16&seed=7",
        val="miniworld://?rows=8&seed=901",
        out=str(tmp_path),
        steps=3,
        batch=4,
        checkpoint=CheckpointConfig(every=3),
        track=TrackConfig(every=1, evaluate_every=3, project=""),
    )
    summary = fit(config)
    assert 0 < summary["scores"]["miou"] < 1
