"""Published weights into a masked autoencoder: facebookresearch/mae's, timm's, and Hugging Face's ViTMAE.

All are brought under the names of facebookresearch/mae first, which for the encoder are timm's.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from timm.models import load_state_dict
from timm.models.vision_transformer import VisionTransformer, checkpoint_filter_fn
from torch import Tensor

from raylab.assets import fetch
from raylab.errors import RaylabError
from raylab.models.image_encoder import is_encoder
from raylab.models.mae import PixelDecoder

OF_TIMM = "timm"
"""Stands for the weights of a timm name's tag."""
_HEADS = ("head.", "head_dist.", "fc_norm.")
"""What a classifier has besides; ours begins anew."""
_DECODER = {
    "decoder_embed.": "embed.",
    "mask_token": "mask",
    "decoder_blocks.": "blocks.",
    "decoder_norm.": "norm.",
    "decoder_pred.": "output.",
}
"""Where the decoder's parts are in ours. Its positions are computed: they are the same sines and cosines."""
_POSITIONS = "decoder_pos_embed"
_HUGGING_FACE = {
    "vit.embeddings.cls_token": "cls_token",
    "vit.embeddings.position_embeddings": "pos_embed",
    "vit.embeddings.patch_embeddings.projection.": "patch_embed.proj.",
    "vit.layers.": "blocks.",
    "vit.layernorm.": "norm.",
    "decoder.decoder_layers.": "decoder_blocks.",
    "decoder.": "",
}
_HUGGING_FACE_BLOCK = {
    ".layernorm_before.": ".norm1.",
    ".layernorm_after.": ".norm2.",
    ".attention.o_proj.": ".attn.proj.",
}
_QKV = tuple(f".attention.{part}_proj." for part in "qkv")


def load_published(name: str, weights: str, vit: VisionTransformer, pixels: PixelDecoder | None) -> None:
    """Load an encoder's weights and, where they come with MAE's decoder and there is one, the decoder's.

    Positions and the patches' map are resampled where pictures or patches have another size.

    Args:
        name: timm's name of the encoder.
        weights: see `mae.VitConfig.weights`.
        vit: the encoder; changed in place.
        pixels: the decoder, if any; changed in place.

    Raises:
        RaylabError: the weights are not to be had, or do not fit.
    """
    load(_state(name, weights), vit, pixels, f"--task.encoder.weights {weights}")


def load(state: Mapping[str, Tensor], vit: VisionTransformer, pixels: PixelDecoder | None, said: str) -> None:
    """Load weights under facebookresearch/mae's names; see `load_published`.

    Args:
        state: name -> tensor.
        vit: the encoder; changed in place.
        pixels: the decoder, if any; changed in place.
        said: what the weights are called in errors.
    """
    decoder = {name: value for name, value in state.items() if name.startswith((*_DECODER, _POSITIONS))}
    ours = vit.state_dict()
    heads = {name: value for name, value in ours.items() if name.startswith(_HEADS)}
    left_out = _HEADS if "norm.weight" in ours else (*_HEADS, "norm.")  # which a classifier has behind the mean instead
    encoder = {name: value for name, value in state.items() if name not in decoder and not name.startswith(left_out)}
    try:
        vit.load_state_dict(checkpoint_filter_fn(encoder, vit) | heads)
    except (RuntimeError, ValueError) as error:
        raise RaylabError(f"{said}: these weights do not fit the encoder ({str(error)[:500]}).") from error
    decoder.pop(_POSITIONS, None)
    if pixels is None or not decoder:
        return
    try:
        pixels.load_state_dict({_renamed(name, _DECODER): value for name, value in decoder.items()})
    except RuntimeError as error:
        raise RaylabError(
            f"{said}: its decoder does not fit --task.pixels ({str(error)[:500]}). Set its shape there, or give "
            "weights of an encoder alone."
        ) from error


def _state(name: str, weights: str) -> Mapping[str, Tensor]:
    import timm

    place = Path(fetch(weights))
    try:
        if weights == OF_TIMM:
            return timm.create_model(
                name, pretrained=True, num_classes=0, global_pool="token", fc_norm=False
            ).state_dict()
        if place.is_file():
            return load_state_dict(str(place))
        if folder := next((one for one in (place, place / "model") if is_encoder(one)), None):
            return load_state_dict(str(folder / "model.safetensors"))
        return from_hugging_face(_vit_mae(str(place) if place.is_dir() else weights))
    except RaylabError:
        raise
    except Exception as error:  # timm, torch, the hub's client, the network and the files each raise their own kinds
        raise RaylabError(
            f"--task.encoder.weights {weights}: cannot be loaded ({type(error).__name__}: {str(error)[:200]}). Give a "
            "training run's folder, a file of MAE's or timm's weights, or a folder of either, or fetch it where there "
            "is a network and copy HF_HOME."
        ) from error


def _vit_mae(name: str) -> Mapping[str, Tensor]:
    """Return the weights of a ViTMAE of Hugging Face."""
    from transformers import AutoConfig, ViTMAEForPreTraining

    config = AutoConfig.from_pretrained(name)
    if config.model_type != "vit_mae":
        raise RaylabError(f"--task.encoder.weights {name} is a {config.model_type} and no ViTMAE (model_type vit_mae).")
    return ViTMAEForPreTraining.from_pretrained(name, dtype=torch.float32).state_dict()


def from_hugging_face(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights of a `transformers.ViTMAEForPreTraining` under facebookresearch/mae's names."""
    found: dict[str, Tensor] = {}
    parts: dict[str, dict[str, Tensor]] = {}
    for name, value in state.items():
        renamed = _renamed(name, _HUGGING_FACE)
        part = next((part for part in _QKV if part in renamed), None)
        if part:
            parts.setdefault(renamed.replace(part, ".attn.qkv."), {})[part] = value
            continue
        for theirs, ours in _HUGGING_FACE_BLOCK.items():
            renamed = renamed.replace(theirs, ours)
        found[renamed] = value
    return found | {name: torch.cat([three[part] for part in _QKV]) for name, three in parts.items()}


def _renamed(name: str, starts: Mapping[str, str]) -> str:
    """Return a name whose beginning is exchanged; the first one that fits."""
    start = next((start for start in starts if name.startswith(start)), "")
    return starts.get(start, "") + name.removeprefix(start)
