"""Maps of a frozen encoder, computed once and kept in files that are memory-mapped. Knows no Ray.

features/<set>/about.json      what is in it; written last
features/<set>/00000.maps.npy  float16 [64, C, H, W]: the encoder's last map of some pictures
features/<set>/00000.masks.npy uint8 [64, crop, crop]: what is to be told
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch

from raylab.config import fingerprint, to_dict
from raylab.dense.batches import rows_at
from raylab.dense.pixels import training_view
from raylab.dense.plan import PixelsConfig
from raylab.errors import RaylabError
from raylab.models.pixel_encoder import PixelEncoderConfig
from raylab.sources.segmentation import MaskedImages
from raylab.storage import Folder
from raylab.tasks.base import Arrays
from raylab.train.order import generator
from raylab.train.reader import REPLACED

PART_ROWS = 64
ABOUT = "about.json"
BATCH = 16
"""Pictures that go through the encoder at once."""


@dataclass(frozen=True)
class FeaturePlan:
    """What is computed."""

    images: MaskedImages
    encoder: PixelEncoderConfig
    pixels: PixelsConfig
    seed: int
    folder: str
    """Of the set."""

    @property
    def parts(self) -> int:
        """How many files of each kind there are."""
        return -(-len(self.images) // PART_ROWS)

    @property
    def fingerprint(self) -> str:
        """Return what it depends on."""
        return fingerprint([self.images.fingerprint, to_dict(self.encoder), to_dict(self.pixels), self.seed])

    def is_done(self) -> bool:
        """Tell whether all of it is there.

        Raises:
            RaylabError: what is there was made of something else.
        """
        folder = Folder(self.folder)
        if not folder.exists(ABOUT):
            return False
        if folder.read_json(ABOUT)["fingerprint"] != self.fingerprint:
            raise RaylabError(f"{self.folder} holds maps of other pictures or another encoder: remove it, and go on.")
        return True

    def missing(self) -> list[int]:
        """Return the numbers of the parts that are not there."""
        folder = Folder(self.folder)
        return [part for part in range(self.parts) if not folder.exists(_masks(part))]

    def finish(self) -> None:
        """Write down what is there."""
        channels, height, width = FeatureMaps.part(self.folder, 0, "maps").shape[1:]
        Folder(self.folder).write_json(
            ABOUT,
            {
                "fingerprint": self.fingerprint,
                "rows": len(self.images),
                "classes": list(self.images.classes),
                "map": [channels, height, width],
                "stride": round(self.pixels.crop / height),
            },
        )


def _maps(part: int) -> str:
    return f"{part:05d}.maps.npy"


def _masks(part: int) -> str:
    return f"{part:05d}.masks.npy"


class Extractor:
    """Computes parts of plans in this process.

    Args:
        encoder: of all plans.
        seed: of its weights, where it has no others.
        device: it is on.

    Raises:
        RaylabError: the encoder cannot be had.
    """

    def __init__(self, encoder: PixelEncoderConfig, seed: int, device: str = "cpu") -> None:
        self._device = torch.device(device)
        torch.manual_seed(seed)
        self._encoder = encoder.build().eval().requires_grad_(False).to(self._device)

    def __call__(self, plan: FeaturePlan, part: int) -> None:
        """Write a part: its maps, then its masks, which say that it is there.

        Raises:
            RaylabError: a picture cannot be had.
        """
        rows = range(part * PART_ROWS, min((part + 1) * PART_ROWS, len(plan.images)))
        # each row is seen once, as its number alone decides: nothing is enlarged or mirrored
        still = replace(plan.pixels, scales=(1.0, 1.0), flip=False)
        views = [training_view(*plan.images[row], still, generator(plan.seed, row)) for row in rows]
        image_BHWC = np.stack([image for image, _ in views])
        maps = [self._encode(image_BHWC[start : start + BATCH]) for start in range(0, len(views), BATCH)]
        folder = Folder(plan.folder)
        _write(folder, _maps(part), np.concatenate(maps))
        _write(folder, _masks(part), np.stack([mask for _, mask in views]))

    @torch.inference_mode()
    def _encode(self, image_BHWC: np.ndarray) -> np.ndarray:
        map_BCHW = self._encoder(torch.from_numpy(image_BHWC).to(self._device))[-1]
        return map_BCHW.to(torch.float16).cpu().numpy()


def _write(folder: Folder, name: str, values: np.ndarray) -> None:
    buffer = io.BytesIO()
    np.save(buffer, values)
    folder.write_bytes(name, buffer.getbuffer())


class FeatureMaps:
    """The maps of a set, read where they lie.

    Args:
        folder: the set's.

    Raises:
        RaylabError: they are not there, or not all of them.
    """

    def __init__(self, folder: str) -> None:
        self.folder = folder
        if not Folder(folder).exists(ABOUT):
            raise RaylabError(f"{folder} holds no maps, or not all: {ABOUT} is missing.")
        about: dict[str, Any] = Folder(folder).read_json(ABOUT)
        self.rows: int = about["rows"]
        self.classes = tuple(about["classes"])
        self.channels: int = about["map"][0]
        self.stride: int = about["stride"]

    def __len__(self) -> int:
        return self.rows

    @staticmethod
    def part(folder: str, part: int, kind: str) -> np.ndarray:
        """Return a file's array, mapped into memory."""
        path = Folder(folder).path(_maps(part) if kind == "maps" else _masks(part))
        try:
            return np.load(path, mmap_mode="r")
        except (OSError, ValueError) as error:
            raise RaylabError(f"{path} cannot be read: {error}. Remove {folder}: it is made again.") from error

    @cached_property
    def _parts(self) -> list[tuple[np.ndarray, np.ndarray]]:
        parts = range(-(-self.rows // PART_ROWS))
        return [(self.part(self.folder, part, "maps"), self.part(self.folder, part, "masks")) for part in parts]

    def take(self, rows: Sequence[int]) -> Arrays:
        """Return ``map_BCHW`` (float16) and ``mask_BHW`` (uint8) of some rows."""
        places = [(self._parts[row // PART_ROWS], row % PART_ROWS) for row in rows]
        return {
            "map_BCHW": np.stack([maps[at] for (maps, _), at in places]),
            "mask_BHW": np.stack([masks[at] for (_, masks), at in places]),
            REPLACED: np.zeros(len(rows), np.uint8),
        }

    def training_batches(self, batch: int, seed: int, steps: range) -> Iterator[Arrays]:
        """Yield the batches of some steps: all rows, shuffled anew each epoch."""
        for step in steps:
            yield self.take(rows_at(range(step * batch, (step + 1) * batch), self.rows, seed))

    def whole_batches(self, batch: int) -> Iterator[Arrays]:
        """Yield all rows in order."""
        for start in range(0, self.rows, batch):
            yield self.take(range(start, min(start + batch, self.rows)))
