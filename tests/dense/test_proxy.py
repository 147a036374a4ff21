"""Maps are computed once and read where they lie; a cell learns on them, from look to look."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from dense.small import small_maps, small_search

from raylab.dense.features import ABOUT, Extractor, FeatureMaps, FeaturePlan
from raylab.dense.proxy import OBJECTIVE, Proxy
from raylab.errors import RaylabError
from raylab.models.cell_space import ASPP, PUBLISHED
from raylab.models.pixel_encoder import PixelEncoderConfig
from raylab.sources.segmentation import open_masked
from raylab.train.optim import OptimConfig


def plan(out: Path) -> FeaturePlan:
    config = small_search(out)
    images = open_masked("miniworld://?rows=70&seed=3")
    encoder = PixelEncoderConfig("mobilenetv2_035", stride=8, levels=(1, 2))
    return FeaturePlan(images, encoder, config.full.pixels, 5, str(out / "maps"))


def test_maps_are_the_encoders_and_are_read_where_they_lie(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    made = plan(tmp_path)
    assert made.missing() == [0, 1] and not made.is_done()
    extract = Extractor(made.encoder, made.seed)
    for part in made.missing():
        extract(made, part)
    made.finish()
    assert made.missing() == [] and made.is_done()
    maps = FeatureMaps(made.folder)
    assert (len(maps), maps.stride, maps.classes) == (70, 8, ("background", "flag", "object"))
    taken = maps.take([0, 69])
    assert taken["map_BCHW"].shape == (2, maps.channels, 8, 8) and taken["map_BCHW"].dtype == np.float16
    assert taken["mask_BHW"].shape == (2, 64, 64)
    torch.manual_seed(5)
    encoder = made.encoder.build().eval()
    image, _ = made.images[69]
    image_BHWC = torch.from_numpy(np.asarray(image.resize((64, 64), 2)).copy())[None]
    assert np.allclose(encoder(image_BHWC)[-1].detach().numpy(), taken["map_BCHW"][1:], atol=0.02)
    assert isinstance(FeatureMaps.part(made.folder, 0, "maps"), np.memmap)
    with pytest.raises(RaylabError, match="maps of other pictures or another encoder"):
        replace(made, seed=6).is_done()


def test_every_map_is_seen_once_an_epoch(tmp_path: Path) -> None:
    maps = small_maps(tmp_path / "maps")
    seen = np.concatenate([one["map_BCHW"][:, 0, 0, 0] for one in maps.training_batches(7, 0, range(10))])
    all_of_them = np.concatenate([one["map_BCHW"][:, 0, 0, 0] for one in maps.whole_batches(32)])
    assert len(seen) == 70 and sorted(seen) == sorted(all_of_them) and list(seen) != list(all_of_them)


def test_maps_that_are_not_whole_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RaylabError, match=f"{ABOUT} is missing"):
        FeatureMaps(str(tmp_path))
    maps = small_maps(tmp_path / "maps")
    (tmp_path / "maps/00001.maps.npy").write_bytes(b"cut off")
    with pytest.raises(RaylabError, match=r"00001.maps.npy cannot be read.*Remove"):
        maps.take([66])


def test_a_cell_learns_from_look_to_look_as_in_one_go(tmp_path: Path) -> None:
    train, val = small_maps(tmp_path / "train"), small_maps(tmp_path / "val", 33, seed=1)
    config = small_search(tmp_path)
    optim = OptimConfig(rate=2e-2, warmup_steps=2)
    thrice, once = (
        replace(config, proxy=replace(config.proxy, steps=30, looks=looks, batch=16, optim=optim)) for looks in (3, 1)
    )
    proxy = Proxy(ASPP, thrice, train, val)
    points = [proxy.look() for _ in range(3)]
    assert [(point["step"], last) for point, last in points] == [(10, False), (20, False), (30, True)]
    scores = [point[OBJECTIVE] for point, _ in points]
    assert scores[-1] > 0.6 and scores[-1] > scores[0]
    single, last = Proxy(ASPP, once, train, val).look()
    assert last and single[OBJECTIVE] == scores[-1]
    assert single["weights"] == proxy.weights > 0
    other, _ = Proxy(PUBLISHED, once, train, val).look()
    assert other["weights"] != single["weights"]
