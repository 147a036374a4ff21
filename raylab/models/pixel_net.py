"""A network that tells a class for each pixel: an encoder's maps, and a head on them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from torch import Tensor, nn

from raylab.models.pixel_encoder import PixelEncoder

ABOUT = "segmentation.json"
"""In a model's folder: what it is, beside model.safetensors."""


class HeadConfig(Protocol):
    """A frozen dataclass that makes a head. A head takes maps, the finest first, and returns [B, classes, H, W]."""

    def build(self, channels: Sequence[int], strides: Sequence[int], classes: int) -> nn.Module:
        """Return the head for maps of so many channels, each place so many pixels wide.

        Raises:
            RaylabError: it cannot do with these maps.
        """
        ...


class PixelNet(nn.Module):
    """Pictures to scores.

    Args:
        encoder: pictures to maps.
        head: maps to scores.
        frozen: the encoder stays as it is, running statistics included.
    """

    def __init__(self, encoder: PixelEncoder, head: nn.Module, frozen: bool = False) -> None:
        super().__init__()
        self.encoder, self.head, self.frozen = encoder, head, frozen
        encoder.requires_grad_(not frozen)
        self.train()

    def train(self, mode: bool = True) -> PixelNet:
        """See nn.Module."""
        super().train(mode)
        if self.frozen:
            self.encoder.eval()
        return self

    def forward(self, image_BHWC: Tensor) -> dict[str, Tensor]:
        """Return ``logit_BCHW``, float32, coarser than the pictures (uint8)."""
        return {"logit_BCHW": self.head(self.encoder(image_BHWC)).float()}


class MapNet(nn.Module):
    """A head alone: the last map to scores."""

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.head = head

    def forward(self, map_BCHW: Tensor) -> dict[str, Tensor]:
        """Return ``logit_BCHW``, float32."""
        return {"logit_BCHW": self.head([map_BCHW]).float()}


def save_net(net: PixelNet, folder: Path, classes: Sequence[str], about: dict) -> None:
    """Write a trained network; `about`: its task's config, as plain values."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    state = {name: value.cpu().contiguous() for name, value in net.state_dict().items()}
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    text = json.dumps({"classes": list(classes), "task": about}, indent=2)
    (folder / ABOUT).write_text(text, encoding="utf-8")
