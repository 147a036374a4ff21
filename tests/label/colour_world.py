"""A world of plain colours, small enough to know every answer: for the steps that compare images and texts."""

from __future__ import annotations

import io
import json
import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
from PIL import Image

from raylab.kb.build import BuildConfig, build
from raylab.kb.catalog import Catalog
from raylab.schema import CANDIDATE, FLOW, Reason, widen

COLOURS = {
    "red": (255, 0, 0),
    "green": (0, 255, 0),
    "blue": (0, 0, 255),
    "yellow": (255, 255, 0),
    "cyan": (0, 255, 255),
    "magenta": (255, 0, 255),
    "crimson": (235, 10, 30),
}


def make_kb(folder: Path) -> Catalog:
    """Build a knowledge base of one flag for each colour."""
    rows = [
        {"id": f"c:{name}", "title": f"{name} flag", "aliases": [name], "description": f"a flag that is {name}"}
        for name in COLOURS
    ]
    path = folder / "colours.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows))
    build(BuildConfig(str(folder / "kb"), (str(path),), workers=1, context=False))
    return Catalog.open(folder / "kb")


class ColourEncoder:
    """Embeds an image as its mean colour and a text as the colour that it names, both around grey."""

    id, revision, dim, image_side, logit_scale, batch = "colours", "1", 3, 8, 10.0, 16

    def preprocess(self, image: Image.Image) -> np.ndarray:
        return np.asarray(image.resize((8, 8)))

    def encode_images(self, images) -> np.ndarray:
        return self._unit([image.reshape(-1, 3).mean(axis=0) for image in images])

    def encode_texts(self, texts) -> np.ndarray:
        found = [re.search("|".join(COLOURS), text) for text in texts]
        return self._unit([COLOURS[name.group()] if name else (127.5, 127.5, 128) for name in found])

    @staticmethod
    def _unit(colours) -> np.ndarray:
        colours = np.array(colours, np.float32).reshape(-1, 3) - 127.5
        return colours / np.linalg.norm(colours, axis=1, keepdims=True)


@dataclass
class MemorySource:
    """A source whose images lie in memory; remembers which were asked for."""

    images: dict[str, bytes | Reason]
    asked: list[str] = field(default_factory=list)

    def image_bytes(self, refs):
        self.asked += [ref["uri"] for ref in refs]
        return [self.images[ref["uri"]] for ref in refs]


def picture(*colours: str, size: int = 16) -> bytes:
    """Return a PNG with one stripe for each colour."""
    stripes = [np.full((size, size, 3), COLOURS[colour], np.uint8) for colour in colours]
    data = io.BytesIO()
    Image.fromarray(np.concatenate(stripes, axis=1)).save(data, "PNG")
    return data.getvalue()


def candidate(colour: str, link_score: float | None = None, mention: int = 0) -> dict:
    """Return a candidate as the link step leaves it."""
    return {"entity_id": f"c:{colour}", "mention": mention, "source": "alias", "prior": 0.5, "link_score": link_score}


def make_rows(*rows: dict) -> pa.Table:
    """Return rows in flight; `image` is a key of the source, `candidates` a list of `candidate`."""
    full = []
    for i, row in enumerate(rows):
        image = row.get("image", str(i))
        ref = None if image is None else {"uri": image, "offset": 0, "size": -1}
        full.append({"row_id": f"{i:032x}", "shard": "s", "key": str(i)} | row | {"image": ref})
    columns = {f.name: pa.array([row.get(f.name) for row in full], f.type) for f in FLOW}
    assert columns["candidates"].type.value_type == CANDIDATE
    return widen(pa.table(columns))
