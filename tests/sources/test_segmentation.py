"""Pictures with masks, as data sets come: folders, and the mini-world."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from raylab.errors import RaylabError
from raylab.sources.segmentation import IGNORE, open_masked


def save(path: Path, pixels: np.ndarray, mode: str | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(pixels)
    if mode == "P":
        image.putpalette(list(range(256)) * 3)
    image.save(path)


def picture(value: int) -> np.ndarray:
    return np.full((12, 16, 3), value, np.uint8)


@pytest.fixture
def cityscapes(tmp_path: Path) -> Path:
    for number, city in enumerate(("aachen", "bochum", "aachen")):
        stem = f"{city}_{number:06d}_000019"
        ids = np.zeros((12, 16), np.uint8)
        ids[:4], ids[4:8, :8] = 7, 33  # road, bicycle; the rest is unlabelled
        save(tmp_path / f"leftImg8bit/train/{city}/{stem}_leftImg8bit.png", picture(number))
        save(tmp_path / f"gtFine/train/{city}/{stem}_gtFine_labelIds.png", ids)
        save(tmp_path / f"gtFine/train/{city}/{stem}_gtFine_color.png", picture(0))
    return tmp_path


@pytest.fixture
def voc(tmp_path: Path) -> Path:
    root = tmp_path / "VOCdevkit/VOC2012"
    for number in range(5):
        mask = np.full((12, 16), number, np.uint8)
        mask[0] = 255
        save(root / f"JPEGImages/2007_{number:06d}.jpg", picture(10 * number))
        save(root / f"SegmentationClass/2007_{number:06d}.png", mask, "P")
    save(root / "JPEGImages/2007_000009.jpg", picture(0))
    lists = root / "ImageSets/Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("2007_000003\n2007_000001\n2007_000004\n")
    (lists / "val.txt").write_text("2007_000002\n")
    (lists / "test.txt").write_text("2007_000009\n")
    return tmp_path


def test_cityscapes_is_read_as_it_comes(cityscapes: Path) -> None:
    found = open_masked(f"{cityscapes}#split=train")
    assert len(found) == 3 and len(found.classes) == 19
    images = [found[index] for index in range(3)]
    assert [image.getpixel((0, 0))[0] for image, _ in images] == [0, 2, 1]  # by city, then by number
    _, mask_HW = images[0]
    assert found.classes[mask_HW[0, 0]] == "road" and found.classes[mask_HW[5, 0]] == "bicycle"
    assert (mask_HW[8:] == IGNORE).all() and mask_HW.dtype == np.uint8
    again = pickle.loads(pickle.dumps(found))
    assert again.fingerprint == found.fingerprint and (again[0][1] == mask_HW).all()


def test_voc_is_read_as_it_comes(voc: Path) -> None:
    found = open_masked(f"{voc}#split=train")
    assert [int(found[index][1][5, 5]) for index in range(3)] == [3, 1, 4]  # as the list has them
    assert (found[0][1][0] == IGNORE).all()  # the border
    assert len(found.classes) == 21 and found.classes[3] == "bird"
    assert len(open_masked(f"{voc / 'VOCdevkit/VOC2012'}#split=val")) == 1
    assert len(open_masked(f"{voc}#split=train,rows=2")) == 2


def test_the_mini_world_is_drawn() -> None:
    found = open_masked("miniworld://?rows=20&seed=3#rows=5")
    image, mask_HW = found[1]
    assert len(found) == 5 and found.classes == ("background", "flag", "object")
    assert image.size == mask_HW.shape == (128, 128)
    parts = open_masked("miniworld://?rows=20&seed=3#classes=parts")
    assert len(parts) == 20 and "mug" in parts.classes
    fingerprints = {one.fingerprint for one in (found, parts, open_masked("miniworld://?rows=20&seed=4#rows=5"))}
    assert len(fingerprints) == 3


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("#splitt=val", r"'splitt=val' is no option. Did you mean 'split'"),
        ("#split=trian", r"has no split 'trian'. Did you mean 'train'\? Known: test, train, val"),
        ("", r"has several splits: name one. Known: test, train, val"),
        ("#split=val,rows=x", "rows=x must be a whole number"),
        ("#split=val,classes=parts", "classes= is of miniworld"),
        ("#split=test", r"SegmentationClass/2007_000009.png is missing, which .*JPEGImages/2007_000009.jpg needs"),
    ],
)
def test_an_address_that_fits_nothing_is_refused(voc: Path, options: str, said: str) -> None:
    with pytest.raises(RaylabError, match=said):
        open_masked(f"{voc}{options}")


def test_other_folders_and_worlds_are_refused(tmp_path: Path) -> None:
    save(tmp_path / "a/b.png", picture(0))
    for address, said in (
        (str(tmp_path), "neither leftImg8bit/"),
        ("miniworld://?rows=3&seed=1#classes=part", "no classes=part. Did you mean 'parts'"),
        ("miniworld://?rows=3&seed=1#split=val", "split= is of folders"),
    ):
        with pytest.raises(RaylabError, match=said):
            open_masked(address)


@pytest.mark.parametrize(
    ("mask", "mode", "said"),
    [
        (np.full((12, 16), 21, np.uint8), "P", "holds the number 21, which is no class of 21"),
        (np.zeros((12, 12), np.uint8), "P", r"is \(12, 12\), its picture .* is \(16, 12\)"),
        (picture(0), None, "8-bit numbers or a palette, this one is RGB"),
    ],
)
def test_a_bad_mask_is_named(voc: Path, mask: np.ndarray, mode: str | None, said: str) -> None:
    save(voc / "VOCdevkit/VOC2012/SegmentationClass/2007_000002.png", mask, mode)
    found = open_masked(f"{voc}#split=val")
    with pytest.raises(RaylabError, match=rf"2007_000002.png.*{said}"):
        found[0]


def test_a_damaged_picture_is_named(voc: Path) -> None:
    (voc / "VOCdevkit/VOC2012/JPEGImages/2007_000002.jpg").write_bytes(b"no picture")
    with pytest.raises(RaylabError, match=r"2007_000002.jpg: image_format"):
        open_masked(f"{voc}#split=val")[0]
