"""OVEN's published files and folders, made of the mini-world's questions and pictures."""

from __future__ import annotations

import collections
import dataclasses
import io
from pathlib import Path

from sources.source_files import write_jsonl

from raylab.sources.miniworld.make_clip import shrink
from raylab.sources.miniworld.questions import questions
from raylab.sources.miniworld.samples import picture, sample

SPLITS = ("entity_train", "query_train", "entity_val", "query_val")


def write_oven(folder: Path, rows: int, seed: int = 5, table: bool = True, images: Path | None = None) -> None:
    """Write questions about the first `rows` pictures of a world, and their pictures.

    Args:
        folder: where the questions go.
        rows: pictures.
        seed: of the world.
        table: write ovenid2impath.csv.
        images: where the pictures go; none: the same folder.
    """
    lines: dict[str, list[dict]] = collections.defaultdict(list)
    shown = {}
    for one in (one for index in range(rows) for one in questions(sample(seed, index))):
        split = next((split for split in SPLITS if one.data_split.startswith(split)), None)
        if split is not None:
            line = dataclasses.asdict(one)
            shown[one.image_id] = line.pop("image")["offset"]
            lines[split].append(line)
    for split in SPLITS:
        write_jsonl(folder / f"oven_{split}.jsonl", lines[split])
    root = images or folder
    for image_id, index in shown.items():
        path = root / "oven_images" / image_id.rpartition("_")[2][:2] / f"{image_id}.jpeg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(_jpeg(seed, index))
    if table:
        (root / "ovenid2impath.csv").write_text("".join(f"{name},where/it/was/{name}.jpeg\n" for name in shown))


def _jpeg(seed: int, index: int) -> bytes:
    buffer = io.BytesIO()
    shrink(picture(sample(seed, index))).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()
