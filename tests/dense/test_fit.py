"""A run of segmentation through the training loop: it learns, goes on as if nothing had happened, and is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file

from raylab.dense.batches import rows_at, training_batches, whole_batches
from raylab.dense.fit import fit
from raylab.dense.pixels import training_view
from raylab.dense.plan import PixelsConfig
from raylab.errors import RaylabError
from raylab.models.pixel_encoder import PixelEncoderConfig
from raylab.recipes.segmentation import SEGMENTATION, CellRun, segmentation_smoke
from raylab.sources.segmentation import IGNORE, open_masked
from raylab.train.optim import OptimConfig
from raylab.train.plan import CheckpointConfig


def small(out: Path, **changes: object) -> CellRun:
    made = segmentation_smoke()
    task = replace(made.task, head=replace(made.task.head, filters=16))
    pixels = replace(made.pixels, crop=64, side=64)
    return replace(made, out=str(out), task=task, pixels=pixels, **changes)


def test_a_run_learns_and_is_scored(tmp_path: Path) -> None:
    run = small(
        tmp_path / "run",
        optim=OptimConfig(rate=2e-2, warmup_steps=2),
        steps=30,
        track=replace(segmentation_smoke().track, every=5, evaluate_every=30, project=""),
    )
    summary = fit(run)
    lines = [json.loads(line) for line in (tmp_path / "run/curves.jsonl").read_text().splitlines()]
    assert lines[-1]["loss"] < 0.9 * lines[0]["loss"]
    assert lines[-1]["held_out/miou"] == pytest.approx(summary["scores"]["miou"])
    about = json.loads((tmp_path / "run/model/segmentation.json").read_text())
    assert about["classes"] == ["background", "flag", "object"]
    before = (tmp_path / "run/model/model.safetensors").stat().st_mtime_ns
    assert fit(run) == summary  # the same again: nothing is left to do
    assert (tmp_path / "run/model/model.safetensors").stat().st_mtime_ns == before
    encoder = replace(run.task.encoder, weights=summary["model"]).build()
    assert all((encoder.state_dict()[name] == value).all() for name, value in weights(tmp_path / "run").items())


def weights(run: Path) -> dict:
    state = load_file(run / "model/model.safetensors")
    return {name.removeprefix("encoder."): value for name, value in state.items() if name.startswith("encoder.")}


def test_a_run_that_goes_on_makes_the_same_steps(tmp_path: Path) -> None:
    checkpoint = CheckpointConfig(every=2)
    whole = fit(small(tmp_path / "whole", checkpoint=checkpoint))
    cut = small(tmp_path / "cut", checkpoint=checkpoint)
    fit(cut)
    for name in ("summary.json", "model/model.safetensors"):
        (tmp_path / "cut" / name).unlink()
    (tmp_path / "cut/checkpoints/LAST.json").write_text(json.dumps({"step": 2}))
    assert fit(cut)["scores"] == whole["scores"]
    one, other = (load_file(tmp_path / name / "model/model.safetensors") for name in ("whole", "cut"))
    assert all((one[name] == other[name]).all() for name in one)


def test_a_frozen_encoder_stays_as_it_is(tmp_path: Path) -> None:
    first = fit(small(tmp_path / "first"))
    run = small(tmp_path / "frozen")
    task = replace(run.task, encoder=replace(run.task.encoder, weights=first["model"]), encoder_rate=0.0)
    fit(replace(run, task=task))
    before, after = weights(tmp_path / "first"), weights(tmp_path / "frozen")
    assert all((before[name] == after[name]).all() for name in before)  # running statistics included


def test_another_run_in_the_same_folder_is_refused(tmp_path: Path) -> None:
    run = small(tmp_path)
    fit(run)
    with pytest.raises(RaylabError, match=r"another config:\n  batch: 4 -> 2"):
        fit(replace(run, batch=2))
    with pytest.raises(RaylabError, match=r"checkpoint of step 4, and --steps 3 ends before"):
        fit(replace(run, steps=3))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"train": ""}, "--train is missing"),
        ({"batch": 1}, "--batch 1: it has to be 2 or more"),
        ({"precision": "fp8"}, "--precision 'fp8' is not known"),
        ({"accelerator": "tpu"}, "--accelerator 'tpu' is not known: auto, cpu, cuda, xla"),
        ({"val": "miniworld://?rows=4&seed=1#classes=parts"}, "has 3 classes, .* has 10"),
    ],
)
def test_what_cannot_run_is_refused(tmp_path: Path, changes: dict, said: str) -> None:
    with pytest.raises(RaylabError, match=said):
        fit(small(tmp_path, **changes))


@pytest.mark.parametrize(
    ("encoder", "said"),
    [
        (PixelEncoderConfig("mobilenetv2_05"), "no folder, and no network of timm. Did you mean 'mobilenetv2_0"),
        (PixelEncoderConfig("mobilenetv2_050", levels=(9,)), "timm makes no maps of it"),
        (PixelEncoderConfig("mobilenetv2_050", weights="nowhere"), "model.safetensors cannot be read"),
    ],
)
def test_an_encoder_that_there_is_not_is_refused(tmp_path: Path, encoder: PixelEncoderConfig, said: str) -> None:
    run = small(tmp_path)
    with pytest.raises(RaylabError, match=said):
        fit(replace(run, task=replace(run.task, encoder=encoder)))


def test_every_picture_is_seen_once_an_epoch_in_an_order_of_the_seed() -> None:
    found = rows_at(range(3, 25), 10, seed=1)
    assert sorted(found[7:17]) == list(range(10)) and found[7:17] != list(range(10))
    assert found[4:] == rows_at(range(7, 25), 10, seed=1)
    assert found != rows_at(range(3, 25), 10, seed=2)


def test_a_picture_and_its_mask_are_cut_alike() -> None:
    ramp_HW = np.add.outer(np.arange(40), np.arange(60)).astype(np.uint8)  # a picture that is its own mask
    image = np.repeat(ramp_HW[..., None], 3, -1)
    from PIL import Image

    for seed in range(20):
        view = training_view(
            Image.fromarray(image), ramp_HW, PixelsConfig(crop=48, scales=(1.0, 1.0)), np.random.default_rng(seed)
        )
        counts_HW = view[1] != IGNORE
        assert counts_HW.sum() == 40 * 48 and (view[0][..., 0][counts_HW] == view[1][counts_HW]).all()
        assert (view[0][~counts_HW] == 0).all()
    bigger = training_view(
        Image.fromarray(image), ramp_HW, PixelsConfig(crop=32, side=80, scales=(1.0, 1.0)), np.random.default_rng(0)
    )
    assert np.abs(bigger[0][..., 0].astype(int) - bigger[1]).max() <= 2  # twice as large, both of them


def test_batches_do_not_hang_on_where_a_run_begins() -> None:
    images = open_masked("miniworld://?rows=6&seed=2")
    pixels = PixelsConfig(crop=32)
    settings = {"batch": 4, "seed": 5, "readers": 2}
    whole = list(training_batches(images, pixels, steps=range(7), **settings))
    rest = list(training_batches(images, pixels, steps=range(3, 7), **settings))
    assert len(whole) == 7 and len(rest) == 4
    for one, other in zip(whole[3:], rest):
        assert all((one[name] == other[name]).all() for name in one)
    shown = list(whole_batches(images, PixelsConfig(side=64), 4))
    assert [len(one["mask_BHW"]) for one in shown] == [4, 2]
    assert shown[0]["image_BHWC"].shape[1:] == (64, 64, 3) and shown[0]["mask_BHW"].shape[1:] == (128, 128)


def test_recipes_name_themselves() -> None:
    assert {name: made().recipe for name, made in SEGMENTATION.items()} == {name: name for name in SEGMENTATION}


def test_a_stride_that_no_network_has_is_refused() -> None:
    with pytest.raises(RaylabError, match=r"encoder.stride 3: 8, 16, 32"):
        PixelEncoderConfig(stride=3)
