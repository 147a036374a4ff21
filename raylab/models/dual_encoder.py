"""A dual encoder to be trained: any open_clip model, from its weights or from scratch, and back into its form."""

from __future__ import annotations

import contextlib
import json
import logging
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn
from torch.nn.functional import normalize

from raylab.assets import fetch
from raylab.errors import RaylabError, nearest
from raylab.models.weights import HUB, find_clip, hub_file

if TYPE_CHECKING:
    from torch import Tensor

CONFIG_FILE, WEIGHTS_FILE = "open_clip_config.json", "open_clip_model.safetensors"


@dataclass(frozen=True)
class DualEncoderConfig:
    """Which open_clip model, and what it starts from."""

    name: str = "ViT-B-16"
    """An open_clip architecture, ``hf-hub:owner/model``, or a folder that holds open_clip_config.json."""
    pretrained: str | None = None
    """For an architecture: the tag of its weights or a checkpoint's path; null starts from random weights."""
    from_scratch: bool = False
    """For a folder or the hub: take architecture and tokenizer, and start from random weights."""

    def model_config(self) -> dict[str, Any]:
        """Return open_clip's description of the model, ``{"model_cfg": ..., "preprocess_cfg": ...}``.

        Raises:
            RaylabError: an unknown architecture (the nearest is named), a folder without the file, a model of the hub
                that is not to be had.
        """
        name = fetch(self.name)
        place = hub_file(name, CONFIG_FILE) if name.startswith(HUB) else Path(name) / CONFIG_FILE
        if place.is_file():
            return json.loads(place.read_text(encoding="utf-8"))
        import open_clip

        found = open_clip.get_model_config(name)
        if found is None:
            hint = nearest(name, open_clip.list_models())
            raise RaylabError(
                f"model {name!r} is neither an open_clip architecture nor a folder with {CONFIG_FILE}.{hint}"
            )
        return {"model_cfg": found, "preprocess_cfg": {}}

    def build(self) -> DualEncoder:
        """Return the model, random weights by torch's present seed.

        Raises:
            RaylabError: the model or its weights are not to be had.
        """
        import open_clip

        name = self._open_clip_name()
        if self.pretrained or (name.startswith(("local-dir:", "hf-hub:")) and not self.from_scratch):
            origin = find_clip(self.name, self.pretrained)
            with _of(origin.id):
                model = open_clip.create_model(origin.name, pretrained=origin.pretrained, require_pretrained=True)
        else:
            self.model_config()  # names the nearest architecture where there is none
            with _of(self.name), _quiet():
                model = open_clip.create_model(name, load_weights=False, pretrained_text=False)
        return DualEncoder(model)

    def tokenizer(self) -> Any:
        """Return open_clip's tokenizer: texts -> int64 [n, context length].

        Raises:
            RaylabError: it is not to be had.
        """
        import open_clip

        with _of(f"{self.name}, its tokenizer"):
            return open_clip.get_tokenizer(self._open_clip_name())

    def _open_clip_name(self) -> str:
        name = fetch(self.name)
        return f"local-dir:{name}" if Path(name).is_dir() else name

    def save_architecture(self, folder: Path, preprocess: dict[str, Any]) -> None:
        """Write all of an open_clip folder but the weights.

        Args:
            folder: made where it is missing.
            preprocess: open_clip's settings of the built tower.
        """
        folder.mkdir(parents=True, exist_ok=True)
        source = Path(fetch(self.name))
        if source.is_dir():  # its tokenizer
            for path in source.iterdir():
                if path.suffix in (".json", ".txt", ".model"):
                    shutil.copy(path, folder / path.name)
        config = {"model_cfg": self.model_config()["model_cfg"], "preprocess_cfg": preprocess}
        (folder / CONFIG_FILE).write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")

    def save(self, module: DualEncoder, folder: Path) -> None:
        """Write a trained model as open_clip reads it from ``local-dir:``, so that `ClipConfig` loads it by its folder.

        Args:
            module: what `build` returned; its weights are kept in float32.
            folder: made where it is missing.
        """
        from safetensors.torch import save_file

        self.save_architecture(folder, dict(module.clip.visual.preprocess_cfg))
        self._save_tokenizer(folder)
        state = {name: value.detach().cpu().contiguous() for name, value in module.clip.state_dict().items()}
        save_file(state, folder / WEIGHTS_FILE, metadata={"format": "pt"})

    def _save_tokenizer(self, folder: Path) -> None:
        """Write the tokenizer where it is Hugging Face's: open_clip looks for it in a model's own folder alone."""
        named = self.model_config()["model_cfg"]["text_cfg"].get("hf_tokenizer_name")
        if named and not Path(fetch(self.name)).is_dir():  # a folder's was copied
            self.tokenizer().tokenizer.save_pretrained(folder)


@contextlib.contextmanager
def _of(model: str) -> Iterator[None]:
    """Say which model it is that cannot be built: otherwise workers would be begun again, as if they had died."""
    try:
        yield
    except Exception as error:  # open_clip, safetensors, torch and transformers each raise their own kinds
        said = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise RaylabError(
            f"CLIP {model}: cannot be built ({said}). Its files may be damaged or of another architecture. What it has "
            "of the hub (texts' networks, tokenizers) has to be in the hub's cache folder, HF_HOME, where there is no "
            "network."
        ) from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence open_clip's warning that weights are random: here they are meant to be."""
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


class DualEncoder(nn.Module):
    """An open_clip model that takes raw pixels and returns unit vectors.

    What has no part in that rests: it is not trained, and stays as it was. So a SigLIP's ``logit_bias`` (a softmax is
    the same with any bias) and a CoCa's text decoder.

    Args:
        clip: the open_clip model.

    Attributes:
        image_size: pixels a side.
        dim: length of a vector.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, clip: Any) -> None:
        super().__init__()
        import torch

        self.clip: Any = clip
        self.image_size = image_side(clip.visual.preprocess_cfg)
        for name in ("mean", "std"):
            values = torch.tensor(clip.visual.preprocess_cfg[name]).view(1, -1, 1, 1)
            self.register_buffer(name, values, persistent=False)
        self.dim, without_a_part = _traced(self)
        for parameter in without_a_part:
            parameter.requires_grad_(False)

    def pixels(self, image_BHWC: Tensor) -> Tensor:
        """Return uint8 [B, H, W, 3] as the network's input, float [B, 3, H, W]."""
        return normalised(image_BHWC, self.mean, self.std)

    def forward(self, image_BHWC: Tensor, token_BL: Tensor | None = None) -> dict[str, Tensor]:
        """Embed images and, where they are given, texts.

        Args:
            image_BHWC: uint8 [B, H, W, 3].
            token_BL: int64 [B, L].

        Returns:
            ``image_BD`` and, with texts, ``text_BD`` (float32, rows of length 1) and ``scale`` (1 / temperature).
        """
        outputs = {"image_BD": normalize(self.clip.encode_image(self.pixels(image_BHWC)).float(), dim=-1)}
        if token_BL is not None:
            outputs["text_BD"] = normalize(self.clip.encode_text(token_BL).float(), dim=-1)
            outputs["scale"] = self.clip.logit_scale.exp()
        return outputs

    def shard_units(self) -> list[nn.Module]:
        """Return the towers' blocks: what FSDP shards one by one."""
        return blocks(self)

    def checkpoint_activations(self) -> None:
        """Keep block inputs alone for the backward pass, and compute the rest again."""
        self.clip.set_grad_checkpointing(True)


BLOCKS = ("Block", "Bottleneck", "BertLayer", "RobertaLayer", "EncoderLayer")
"""Words in the names of their classes."""


def blocks(module: nn.Module) -> list[nn.Module]:
    """Return the blocks of which towers are made, by the names of their classes; none that lies within another.

    open_clip's are ``ResidualAttentionBlock``, ``CustomResidualAttentionBlock`` and ``Bottleneck``, timm's ``Block``,
    ``EvaBlockPostNorm`` and the like, those of Hugging Face ``BertLayer``, ``XLMRobertaLayer``, ``T5Block``,
    ``GitVisionEncoderLayer``.
    """
    found: list[nn.Module] = []
    for child in module.children():
        is_block = any(word in type(child).__name__ for word in BLOCKS)
        found += [child] if is_block and any(True for _ in child.parameters()) else blocks(child)
    return found


def _traced(module: DualEncoder) -> tuple[int, list[nn.Parameter]]:
    """Return the length of a vector, and the parameters that no output depends on.

    Both are found with tensors that have shapes and no values: nothing is computed.
    """
    import torch
    from torch.func import functional_call

    named, side = dict(module.named_parameters()), module.image_size
    with _without_values(module.clip) as device:
        stand_in = {name: torch.empty_like(value, device=device).requires_grad_() for name, value in named.items()}
        buffers = {name: torch.empty_like(value, device=device) for name, value in module.named_buffers()}
        image_BHWC = torch.zeros(2, side, side, 3, dtype=torch.uint8, device=device)
        token_BL = torch.zeros(2, module.clip.context_length, dtype=torch.int64, device=device)
        outputs = functional_call(module, stand_in | buffers, (image_BHWC, token_BL))
        total = torch.stack([value.sum() for value in outputs.values()]).sum()
        gradients = torch.autograd.grad(total, list(stand_in.values()), allow_unused=True)
    resting = [parameter for parameter, gradient in zip(named.values(), gradients) if gradient is None]
    return outputs["image_BD"].shape[1], resting


@contextlib.contextmanager
def _without_values(clip: Any) -> Iterator[str]:
    """Yield a device on which tensors made meanwhile have no values.

    That is torch's meta device; but a text tower of Hugging Face looks at values unless its tensors are torch's fake
    ones, of which each operation takes much longer.
    """
    if not hasattr(getattr(clip, "text", None), "config"):
        yield "meta"
        return
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.fx.experimental.symbolic_shapes import ShapeEnv

    with FakeTensorMode(shape_env=ShapeEnv(), allow_non_fake_inputs=True):
        yield "cpu"


def image_side(preprocess: dict[str, Any]) -> int:
    """Return the pixels a side that open_clip's settings of a tower ask for."""
    size = preprocess["size"]
    return size if isinstance(size, int) else max(size)


def normalised(image_BHWC: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Return uint8 [B, H, W, 3] as float [B, 3, H, W]; mean and deviation are [1, 3, 1, 1]."""
    return (image_BHWC.permute(0, 3, 1, 2).float().div(255) - mean) / std


def unnormalised(image_BCHW: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Undo `normalised`; what is beyond black and white becomes either."""
    return (image_BCHW * std + mean).mul(255).round().clamp(0, 255).permute(0, 2, 3, 1).byte()
