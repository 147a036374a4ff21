"""Costs of what the mini-world does not have: tars, a CLIP of the web's size; and bytes a row."""

from __future__ import annotations

import os
import time
from pathlib import Path
from statistics import median
from typing import Any


def parts(folder: Path, kb: str) -> dict[str, Any]:
    """Return the costs of what the mini-world does not have: tars, a CLIP of the web's size; and bytes a row."""
    return {"tar": tar(folder), "clip_vit_b32": clip(), "flow_bytes": flow_bytes(kb)}


def tar(folder: Path, rows: int = 5_000, image: int = 40_000) -> dict[str, float]:
    """Read the captions of a tar with pictures of 40 kB."""
    import io
    import tarfile

    from raylab.sources import open_source
    from raylab.sources.base import SourceConfig

    path = folder / "pairs.tar"
    with tarfile.open(path, "w") as archive:
        for row in range(rows):
            for name, data in ((f"{row:06d}.jpg", os.urandom(image)), (f"{row:06d}.txt", b"a red flag on a pole")):
                member = tarfile.TarInfo(name)
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
    source = open_source(SourceConfig(uri=str(path)))
    started = time.process_time()
    read = sum(table.num_rows for shard in source.shards() for table in source.read(shard))
    spent = time.process_time() - started
    path.unlink()
    return {"rows": read, "cpu_s_a_row": spent / read}


def clip(images: int = 64) -> dict[str, float]:
    """Encode pictures by a ViT-B/32 with random weights on one thread."""
    import open_clip
    import torch

    torch.set_num_threads(1)
    model = open_clip.create_model("ViT-B-32", load_weights=False).eval()
    image_BCHW = torch.zeros(images, 3, 224, 224)
    seconds = []
    with torch.no_grad():
        model.encode_image(image_BCHW)
        for _ in range(3):
            started = time.process_time()
            model.encode_image(image_BCHW)
            seconds.append(time.process_time() - started)
    return {"cpu_s_a_row": median(seconds) / images, "images": images}


def flow_bytes(kb: str, rows: int = 1_024) -> dict[str, float]:
    """Return the bytes of a row in the object store before each step."""
    from raylab.label.step import StepContext
    from raylab.recipes.label import miniworld
    from raylab.schema import widen
    from raylab.sources import open_source
    from raylab.sources.base import SourceConfig

    config = SourceConfig(uri=f"miniworld://?rows={rows}&seed=301")
    source = open_source(config)
    batch = widen(next(source.read(source.shards()[0])))
    found = {}
    for name, step in miniworld().step_configs().items():
        found[name] = batch.nbytes / batch.num_rows
        batch = step.build(StepContext(kb=kb, source=config))(batch)
    return found | {"end": batch.nbytes / batch.num_rows}
