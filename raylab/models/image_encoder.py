"""Any model of timm, saved as a folder, as one function: images to unit vectors."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn.functional import normalize

from raylab.errors import RaylabError
from raylab.models.weights import ClipFiles

if TYPE_CHECKING:
    from PIL import Image
    from torch import nn

CONFIG_FILE, ARCHITECTURE = "config.json", "architecture"
"""What tells a folder of timm's; a training run, too, has a config.json."""
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def is_encoder(folder: Path) -> bool:
    """Tell whether a folder holds a model of timm, by its config."""
    try:
        return ARCHITECTURE in json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError):
        return False


def save_encoder(
    model: nn.Module, folder: Path, mean: Sequence[float], std: Sequence[float], names: Mapping[str, str] | None = None
) -> None:
    """Write a timm model as timm reads it (``timm.create_model("local-dir:FOLDER", pretrained=True)``).

    Args:
        model: of `timm.create_model`; its weights are kept in float32.
        folder: made where it is missing.
        mean: of its pixels, a colour each.
        std: likewise. The whole of a picture's middle is looked at.
        names: of the classes of its head, in their order: id -> title.
    """
    from timm.models import save_for_hf

    pixels = {"mean": tuple(mean), "std": tuple(std), "crop_pct": 1.0}
    about: dict[str, Any] = {"pretrained_cfg": {"tag": "", "license": ""}}  # not those that the name stands for
    about |= {"label_names": list(names), "label_descriptions": dict(names)} if names else {}
    model.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    save_for_hf(model, str(folder), model_config=about, safe_serialization=True, data_config=pixels)


class ImageEncoder:
    """A model of timm in evaluation mode, its head taken off. Make one with `ImageEncoder.load`.

    Attributes:
        id: its folder's name, or that of the run that it belongs to.
        revision: 12 hex digits, hashed from its files.
        dim: length of a vector.
        image_side: pixels of the network's input on its longer side.
        batch: images that go through the network at once.
    """

    def __init__(self, model: Any, files: ClipFiles, dtype: torch.dtype, batch: int) -> None:
        from timm.data import create_transform, resolve_model_data_config

        settings = resolve_model_data_config(model)
        self.id, self.revision, self.batch = files.id, files.revision, batch
        self.dim, self.image_side = int(model.num_features), max(settings["input_size"][1:])
        self._model, self._dtype = model, dtype
        self._device = next(model.parameters()).device
        # The last two, "to tensor" and "normalise", are done here for the whole batch on the device
        *self._geometry, _, self._normalise = create_transform(**settings, is_training=False).transforms

    @classmethod
    def load(
        cls, folder: Path, device: str = "cpu", *, threads: int | None = None, precision: str | None = None, batch: int
    ) -> ImageEncoder:
        """Load a model with its weights; arguments as of `clip.ClipEncoder.load`.

        Raises:
            RaylabError: the folder is damaged, or the device is not there.
        """
        import timm

        if torch.device(device).type == "cuda" and not torch.cuda.is_available():
            raise RaylabError(f"device {device!r}: torch sees no GPU here; set the device to 'cpu'.")
        if threads is not None:
            torch.set_num_threads(threads)
        try:
            model = timm.create_model(f"local-dir:{folder}", pretrained=True, num_classes=0)
        except Exception as error:  # timm, safetensors and torch each raise their own kinds
            raise RaylabError(
                f"{folder} is no model of timm, or damaged ({type(error).__name__}: {str(error)[:200]})."
            ) from error
        dtype = DTYPES[precision or ("fp32" if torch.device(device).type == "cpu" else "fp16")]
        model.eval().requires_grad_(False).to(device, dtype)
        name = folder.parent.name if folder.name == "model" else folder.name
        paths = tuple(sorted(path for path in folder.iterdir() if path.is_file()))
        return cls(model, ClipFiles(name, str(folder), None, folder / CONFIG_FILE, paths), dtype, batch)

    def preprocess(self, image: Image.Image) -> np.ndarray:
        """Return an RGB image as uint8 [height, width, 3], resized and cropped as timm does in evaluation."""
        for step in self._geometry:
            image = step(image)
        return np.asarray(image)

    def encode_images(self, images: Sequence[Image.Image | np.ndarray]) -> np.ndarray:
        """Embed RGB images, or what `preprocess` made of them.

        Returns:
            float32 [n, dim], rows of length 1.

        Raises:
            FloatingPointError: the network's output is not finite.
        """
        pixels = [image if isinstance(image, np.ndarray) else self.preprocess(image) for image in images]
        parts = [
            self._encode(torch.from_numpy(np.stack(pixels[start : start + self.batch])))
            for start in range(0, len(pixels), self.batch)
        ]
        return np.concatenate(parts) if parts else np.empty((0, self.dim), np.float32)

    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Refuse: it knows no texts.

        Raises:
            RaylabError: always.
        """
        raise RaylabError(f"{self.id} embeds pictures alone: --suite retrieval, gpr1200, probe and matching score it.")

    def _encode(self, image_BHWC: torch.Tensor) -> np.ndarray:
        with torch.inference_mode():
            image_BCHW = image_BHWC.to(self._device).permute(0, 3, 1, 2).float().div(255)
            feature_BD = self._model(self._normalise(image_BCHW).to(self._dtype))
            vectors = normalize(feature_BD.float(), dim=-1).cpu().numpy()
        if not np.isfinite(vectors).all():
            raise FloatingPointError(f"{self.id}: not finite in {self._dtype}; set precision to bf16 or fp32")
        return vectors
