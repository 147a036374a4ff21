"""Pictures with a class for every pixel, in the layouts that data sets come in.

    DIR with leftImg8bit/ and gtFine/            Cityscapes as it is downloaded: 19 classes
    DIR with JPEGImages/ and SegmentationClass/  PASCAL VOC (or VOCdevkit above it): 20 classes and background
    miniworld://?rows=600&seed=901               drawn, with exact masks

Options follow a ``#``: ``split=val`` (of the folders), ``rows=100`` (so many, spread evenly), ``classes=parts`` (of the
mini-world: see `miniworld.masks`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import numpy as np
from PIL import Image

from raylab.config import fingerprint
from raylab.errors import RaylabError, nearest
from raylab.sources.base import Limits
from raylab.sources.filesystem import File, absolute, list_files, open_file
from raylab.sources.images import ImageRefused, open_image, open_indices

IGNORE = 255
"""In a mask: what pixels show that do not count."""
LIMITS = Limits()
"""What is accepted of pictures and masks."""
OPTIONS = ("split", "rows", "classes")
CITYSCAPES = {
    7: "road",
    8: "sidewalk",
    11: "building",
    12: "wall",
    13: "fence",
    17: "pole",
    19: "traffic light",
    20: "traffic sign",
    21: "vegetation",
    22: "terrain",
    23: "sky",
    24: "person",
    25: "rider",
    26: "car",
    27: "truck",
    28: "bus",
    31: "train",
    32: "motorcycle",
    33: "bicycle",
}
"""The label ids that are scored, in the order of their train ids (cityscapesScripts, labels.py); others are ignored."""
VOC = (
    "background aeroplane bicycle bird boat bottle bus car cat chair cow diningtable dog horse motorbike person "
    "pottedplant sheep sofa train tvmonitor"
)
"""In the order of their numbers (the VOC2012 development kit)."""


class MaskedImages(Protocol):
    """Pictures and their masks, in a fixed order. Cheap to pickle: a picture is read, or drawn, when asked for."""

    @property
    def name(self) -> str:
        """Return how tables and messages call it."""
        ...

    @property
    def classes(self) -> tuple[str, ...]:
        """Return the names of the classes; a mask holds places in it, or `IGNORE`."""
        ...

    @property
    def fingerprint(self) -> str:
        """Return 16 hex digits that change with what is in it."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> tuple[Image.Image, np.ndarray]:
        """Return an RGB picture, and uint8 [height, width]: the class of each pixel.

        Raises:
            RaylabError: one of its files is missing or damaged, or they do not fit each other.
        """
        ...


def open_masked(text: str) -> MaskedImages:
    """Open a data set by its address; see the module.

    Raises:
        RaylabError: an unknown option, no known layout, a split that is not there (those present are listed).
    """
    uri, _, rest = text.partition("#")
    options = _options(text, rest)
    rows = options.pop("rows", "0")
    if not rows.isdecimal():
        raise RaylabError(f"{text}: rows={rows} must be a whole number.")
    if uri.startswith("miniworld:"):
        return _miniworld(text, uri, options, int(rows))
    if "classes" in options:
        raise RaylabError(f"{text}: classes= is of miniworld:// addresses; a folder has its own.")
    return _folder(text, uri, options.get("split", ""), int(rows))


def _options(text: str, rest: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for option in filter(None, rest.split(",")):
        name, _, value = option.partition("=")
        if name not in OPTIONS or not value:
            known = ", ".join(f"{known}=..." for known in OPTIONS)
            raise RaylabError(f"{text}: {option!r} is no option.{nearest(name, OPTIONS)} Known: {known}")
        found[name] = value
    return found


@dataclass(frozen=True)
class DrawnScenes:
    """Rows of the mini-world with exact masks."""

    name: str
    seed: int
    indices: tuple[int, ...]
    """Rows of the world."""
    kind: str
    """Of `miniworld.masks.CLASS_SETS`."""

    @property
    def classes(self) -> tuple[str, ...]:
        """See `MaskedImages`."""
        from raylab.sources.miniworld.masks import CLASS_SETS

        return CLASS_SETS[self.kind]

    @property
    def fingerprint(self) -> str:
        """See `MaskedImages`."""
        from raylab.sources.miniworld.source import world_version

        return fingerprint([world_version(), self.seed, self.indices, self.kind])

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> tuple[Image.Image, np.ndarray]:
        """See `MaskedImages`."""
        from raylab.sources.miniworld.masks import mask
        from raylab.sources.miniworld.samples import painting, sample

        painted = painting(sample(self.seed, self.indices[index]))
        return painted.image, mask(painted, self.kind)


def _miniworld(text: str, uri: str, options: Mapping[str, str], rows: int) -> DrawnScenes:
    from raylab.sources.miniworld.masks import CLASS_SETS
    from raylab.sources.miniworld.source import parse_uri

    if "split" in options:
        raise RaylabError(f"{text}: split= is of folders; worlds of other seeds are other splits.")
    kind = options.get("classes", "default")
    if kind not in CLASS_SETS:
        raise RaylabError(f"{text}: no classes={kind}.{nearest(kind, CLASS_SETS)} Known: {', '.join(CLASS_SETS)}.")
    world = parse_uri(uri)
    return DrawnScenes(text, world["seed"], tuple(_spread(range(world["rows"]), rows)), kind)


@dataclass(frozen=True)
class MaskedFiles:
    """Pictures and masks in files."""

    name: str
    classes: tuple[str, ...]
    pairs: tuple[tuple[str, str], ...]
    """Address of a picture, and of its mask."""
    versions: str
    """Changes with the files."""
    numbers: tuple[int, ...]
    """For each value of a mask's file: the class, or `IGNORE`; -1: there must be none."""

    @property
    def fingerprint(self) -> str:
        """See `MaskedImages`."""
        return fingerprint([self.versions, self.numbers])

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> tuple[Image.Image, np.ndarray]:
        """See `MaskedImages`."""
        image_uri, mask_uri = self.pairs[index]
        try:
            image = open_image(_read(image_uri), LIMITS)
        except ImageRefused as refused:
            raise RaylabError(f"{image_uri}: {refused}") from refused
        try:
            numbers = open_indices(_read(mask_uri), LIMITS)
        except ImageRefused as refused:
            raise RaylabError(f"{mask_uri}: {refused}") from refused
        if numbers.size != image.size:
            raise RaylabError(
                f"{mask_uri} is {numbers.size}, its picture {image_uri} is {image.size}: they must agree."
            )
        class_HW = np.array(self.numbers)[np.asarray(numbers)]
        if (class_HW < 0).any():
            unknown = int(np.asarray(numbers)[class_HW < 0][0])
            raise RaylabError(f"{mask_uri} holds the number {unknown}, which is no class of {len(self.classes)}.")
        return image, class_HW.astype(np.uint8)


def _read(uri: str) -> bytes:
    try:
        with open_file(uri) as stream:
            return stream.read()
    except OSError as error:
        raise RaylabError(f"{uri} cannot be read: {error}") from error


def _folder(text: str, uri: str, split: str, rows: int) -> MaskedFiles:
    files = {file.name: file for file in list_files(absolute(uri))}
    for find, classes, numbers in _LAYOUTS:
        splits = find(files)
        if not splits:
            continue
        if split not in splits:
            known = ", ".join(sorted(splits))
            said = f"has no split {split!r}.{nearest(split, splits)}" if split else "has several splits: name one."
            raise RaylabError(f"{uri} {said} Known: {known}. Write {uri}#split={sorted(splits)[0]}")
        pairs = _spread(splits[split](), rows)
        if not pairs:
            raise RaylabError(f"{text}: no picture in its split {split!r}.")
        for image, mask in pairs:
            for name, other in ((image, mask), (mask, image)):
                if name not in files:
                    raise RaylabError(f"{uri}: {name} is missing, which {other} needs.")
        versions = fingerprint([(name, files[name].version) for pair in pairs for name in pair])
        return MaskedFiles(
            text, classes, tuple((files[one].uri, files[two].uri) for one, two in pairs), versions, numbers
        )
    raise RaylabError(
        f"{uri}: neither leftImg8bit/ and gtFine/ (Cityscapes) nor JPEGImages/ and SegmentationClass/ (VOC)."
    )


def _spread(found: Sequence, rows: int) -> Sequence:
    """Return `rows` of them, spread evenly; all where there are no more, or `rows` is 0."""
    return [found[row * len(found) // rows] for row in range(rows)] if 0 < rows < len(found) else found


Pairs = list[tuple[str, str]]
"""Names of pictures and of their masks."""
Files = Mapping[str, File]
"""Of a folder, by name."""
_VOC_SPLIT = re.compile(r"(.*/)?ImageSets/Segmentation/([^/]+)\.txt")


def _cityscapes(files: Files) -> dict[str, Callable[[], Pairs]]:
    """Return what lists each split's pairs; none where it is not this layout."""
    found: dict[str, Pairs] = {}
    if not any(name.startswith("gtFine/") for name in files):
        return {}
    for name in files:
        if name.startswith("leftImg8bit/") and name.endswith("_leftImg8bit.png") and name.count("/") == 3:
            _, split, city, picture = name.split("/")
            stem = picture.removesuffix("_leftImg8bit.png")
            found.setdefault(split, []).append((name, f"gtFine/{split}/{city}/{stem}_gtFine_labelIds.png"))
    return {split: partial(sorted, pairs) for split, pairs in found.items()}


def _voc(files: Files) -> dict[str, Callable[[], Pairs]]:
    """Likewise; its splits are lists of names."""
    lists = {match[2]: (match[1] or "", name) for name in files if (match := _VOC_SPLIT.fullmatch(name))}
    return {split: partial(_listed, files, *found) for split, found in lists.items()}


def _listed(files: Files, root: str, name: str) -> Pairs:
    stems = _read(files[name].uri).decode("utf-8", "replace").split()
    return [(f"{root}JPEGImages/{stem}.jpg", f"{root}SegmentationClass/{stem}.png") for stem in stems]


def _numbers(classes: Mapping[int, int], others: int) -> tuple[int, ...]:
    return tuple(classes.get(value, others) for value in range(256))


_LAYOUTS = (
    (_cityscapes, tuple(CITYSCAPES.values()), _numbers({value: n for n, value in enumerate(CITYSCAPES)}, IGNORE)),
    (_voc, tuple(VOC.split()), _numbers({**{n: n for n in range(21)}, IGNORE: IGNORE}, -1)),
)
