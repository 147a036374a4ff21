"""Encoders whose maps of features dense prediction starts from: any network of timm, or one that was trained here.

Axes: B pictures, H x W pixels or places of a map, C channels.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from raylab.errors import RaylabError, nearest

STRIDES = (8, 16, 32)


@dataclass(frozen=True)
class PixelEncoderConfig:
    """Which network, and which of its maps."""

    name: str = "mobilenetv2_100"
    """A network of timm, or the folder of one, such as the model of a run of MUG, MAE, SimCLR."""
    pretrained: bool = False
    """Of a name: timm's weights. A folder brings its own."""
    weights: str = ""
    """The folder of a segmentation model (`jobs/segment.py` writes RUN/model): the weights of its encoder."""
    stride: int = 16
    """Pixels a place of the last map, where the network is convolutional: 8, 16 or 32 (its strides become rates)."""
    levels: tuple[int, ...] = ()
    """Which maps, from the finest on: a convolutional network's stages, a transformer's blocks (-1: the last). None:
    all stages; of a transformer the last block of each quarter."""
    image_size: int = 0
    """Pixels a side for which a transformer's positions are made; 0: the network's own. Pictures may have others."""

    def __post_init__(self) -> None:
        """Refuse a stride that no network has."""
        if self.stride not in STRIDES:
            raise RaylabError(f"encoder.stride {self.stride}: {', '.join(map(str, STRIDES))}.")

    def build(self) -> PixelEncoder:
        """Return the network, random weights by torch's present seed where it has no others.

        Raises:
            RaylabError: no such network (the nearest is named), a folder that is damaged, maps that it does not have,
                weights that do not fit.
        """
        found = PixelEncoder(self._create())
        if self.weights:
            found.take(read_weights(Path(self.weights), "encoder."), self.weights)
        return found

    def _create(self) -> nn.Module:
        import timm

        folder = Path(self.name)
        known = timm.list_models()
        if not folder.is_dir() and self.name.partition(".")[0] not in known:
            raise RaylabError(
                f"encoder.name {self.name!r}: no folder, and no network of timm.{nearest(self.name, known)}"
            )
        name = f"local-dir:{folder}" if folder.is_dir() else self.name
        try:
            return timm.create_model(
                name, pretrained=self.pretrained or folder.is_dir(), features_only=True, **self._shape(folder)
            )
        except Exception as error:  # timm, safetensors and torch each raise their own kinds
            raise RaylabError(
                f"encoder.name {self.name}: timm makes no maps of it with {self._shape(folder)} "
                f"({type(error).__name__}: {str(error)[:200]})."
            ) from error

    def _shape(self, folder: Path) -> dict[str, Any]:
        """Return what timm is told."""
        levels = {"out_indices": list(self.levels)} if self.levels else {}
        if not _is_transformer(_architecture(folder) if folder.is_dir() else self.name):
            return {"output_stride": self.stride, **levels}
        size = {"img_size": self.image_size} if self.image_size else {}
        return {
            "dynamic_img_size": True,
            **size,
            **({} if levels else {"out_indices": _quarters(self.name, folder)}),
        } | levels


def _architecture(folder: Path) -> str:
    try:
        return str(json.loads((folder / "config.json").read_text(encoding="utf-8"))["architecture"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RaylabError(
            f"encoder.name {folder}: no model of timm there ({type(error).__name__}: {error})."
        ) from error


def _is_transformer(name: str) -> bool:
    import timm

    return name.partition(".")[0] in timm.list_models(module="vision_transformer")


def _quarters(name: str, folder: Path) -> list[int]:
    """Return the last block of each quarter of a vision transformer's."""
    import timm

    name = f"local-dir:{folder}" if folder.is_dir() else name
    with torch.device("meta"):
        transformer: Any = timm.create_model(name, pretrained=False)
    depth = len(transformer.blocks)
    return sorted({max(0, depth * quarter // 4 - 1) for quarter in (1, 2, 3, 4)})


class PixelEncoder(nn.Module):
    """Pictures to maps of features, the finest first.

    Attributes:
        channels: of each map.
        strides: pixels a place of each map.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        from timm.data import resolve_model_data_config

        self.network = network
        about: Any = network.feature_info
        self.channels: list[int] = list(about.channels())
        self.strides: list[int] = [int(stride) for stride in about.reduction()]
        pixels = resolve_model_data_config(network)
        for name in ("mean", "std"):
            self.register_buffer(name, torch.tensor(pixels[name]).view(1, 3, 1, 1) * 255, persistent=False)

    def forward(self, image_BHWC: Tensor) -> list[Tensor]:
        """Return float [B, C, H / stride, W / stride] for each map.

        Args:
            image_BHWC: uint8.
        """
        image_BCHW = image_BHWC.permute(0, 3, 1, 2).to(self.mean.dtype)
        return list(self.network((image_BCHW - self.mean) / self.std))

    def take(self, state: dict[str, Tensor], where: str) -> None:
        """Take weights.

        Args:
            state: of a `PixelEncoder`.
            where: they come from, for people.

        Raises:
            RaylabError: they are of another network.
        """
        try:
            self.load_state_dict(state)
        except RuntimeError as error:
            said = " ".join(str(error).split())[:300]
            raise RaylabError(f"encoder.weights {where}: they are of another network: {said}") from error


def read_weights(folder: Path, prefix: str) -> dict[str, Tensor]:
    """Return those weights of a segmentation model whose names begin with `prefix`, which is taken off.

    Raises:
        RaylabError: no model there, or it has none of these.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    file = folder / "model.safetensors"
    try:
        state = load_file(file)
    except (OSError, SafetensorError) as error:
        raise RaylabError(
            f"{file} cannot be read ({error}): give the model folder of a run of jobs/segment.py."
        ) from error
    found = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    if not found:
        raise RaylabError(f"{file} has no weights named {prefix}*: give the model folder of a run of jobs/segment.py.")
    return found
