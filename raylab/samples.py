"""Pictures that a training run does not learn from and what its model says of them, in the run's folder.

    samples.json     [{"picture": "samples/00.png", "said": ...}, ...], as they were when the run last looked
    samples/         the pictures; of tasks that paint, what was painted beside them

Training writes them, evaluation shows them in its report: decoders that only training needs are not in the model.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

from raylab.storage import Folder

if TYPE_CHECKING:
    import numpy as np

SAMPLES = "samples.json"


def write_samples(out: Folder, samples: Sequence[tuple[np.ndarray, str]]) -> None:
    """Write what a run shows, in place of what it showed before.

    Args:
        out: the run's folder.
        samples: uint8 [H, W, 3], and what is said of it.
    """
    from PIL import Image

    told = []
    for number, (picture_HWC, said) in enumerate(samples):
        buffer = io.BytesIO()
        Image.fromarray(picture_HWC).save(buffer, "PNG")
        told.append({"picture": f"samples/{number:02d}.png", "said": said})
        out.write_bytes(told[-1]["picture"], buffer.getvalue())
    out.write_json(SAMPLES, told)


def read_samples(out: Folder) -> list[tuple[bytes, str]]:
    """Return the pictures (PNG) of a run and what is said of each; none where a folder has none."""
    told = out.read_json(SAMPLES) if out.exists(SAMPLES) else []
    return [(out.read_bytes(one["picture"]), one["said"]) for one in told]
