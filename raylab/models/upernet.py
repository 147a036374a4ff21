"""UperNet's head (arXiv 1807.10221) on an encoder's maps, of a plain vision transformer too.

The head is transformers': pyramid pooling of the coarsest map, a feature pyramid of all four. A plain transformer's
maps are all of one size; as in BEiT (arXiv 2106.08254) and MAE they are first brought to four sizes, each half of the
last. The auxiliary head that trainers often add is left out.

Axes: B pictures, C channels, H x W places.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from raylab.errors import RaylabError

LEVELS = 4


@dataclass(frozen=True)
class UperNetConfig:
    """The head; see `models.pixel_net.HeadConfig`."""

    width: int = 512
    """Channels of the pyramid."""
    pools: tuple[int, ...] = (1, 2, 3, 6)
    """Places a side to which the coarsest map is pooled (arXiv 1612.01105)."""

    def build(self, channels: Sequence[int], strides: Sequence[int], classes: int) -> UperNet:
        """Return the head for four maps, of one size or each coarser than the last.

        Raises:
            RaylabError: another number of maps, or sizes of neither kind.
        """
        if len(channels) != LEVELS:
            raise RaylabError(
                f"head: UperNet wants {LEVELS} maps, the encoder has {len(channels)}: set encoder.levels."
            )
        plain = len(set(strides)) == 1
        if not plain and sorted(set(strides)) != list(strides):
            raise RaylabError(f"head: maps of strides {list(strides)} are neither of one size nor each coarser.")
        return UperNet(self, channels, classes, plain)


class UperNet(nn.Module):
    """Four maps in, scores at the finest one's resolution out.

    Args:
        config: see there.
        channels: of each map.
        classes: how many.
        plain: all maps are of one size.
    """

    def __init__(self, config: UperNetConfig, channels: Sequence[int], classes: int, plain: bool) -> None:
        super().__init__()
        from transformers import UperNetConfig as Settings
        from transformers.models.upernet.modeling_upernet import UperNetHead

        settings = Settings(hidden_size=config.width, pool_scales=list(config.pools))
        settings.num_labels = classes
        self.head = UperNetHead(settings, in_channels=list(channels))
        self.scales = nn.ModuleList(_scales(channels) if plain else [nn.Identity() for _ in channels])

    def forward(self, maps: list[Tensor]) -> Tensor:
        """Return logit_BCHW.

        Args:
            maps: float [B, C, H, W], finest first where they differ.
        """
        return self.head([scale(one) for scale, one in zip(self.scales, maps)])


def _scales(channels: Sequence[int]) -> list[nn.Module]:
    """Return what makes maps four times as fine, twice as fine, as they are, and half as fine."""
    first, second, _, _ = channels
    finer = nn.Sequential(_doubled(first), nn.BatchNorm2d(first), nn.GELU(), _doubled(first))
    return [finer, _doubled(second), nn.Identity(), nn.MaxPool2d(2)]


def _doubled(channels: int) -> Any:
    return nn.ConvTranspose2d(channels, channels, 2, stride=2)
