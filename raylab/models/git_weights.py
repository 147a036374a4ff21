"""GiT from other people's models: open_clip's towers as encoders, and Hugging Face's GIT checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from raylab.errors import RaylabError
from raylab.models.git import Git, GitConfig

if TYPE_CHECKING:
    import transformers

_PARTS = {
    "git.embeddings.word_embeddings.": "token.",
    "git.embeddings.position_embeddings.": "position.",
    "git.embeddings.LayerNorm.": "norm.",
    "git.visual_projection.visual_projection.": "project.",
    "git.image_encoder.": "encoder.model.",
    "output.": "output.",
}
"""Where the parts of Hugging Face's GIT are in ours, by the beginnings of their parameters' names."""
_LAYER = "git.encoder.layer."
_LAYER_PARTS = {
    "attention.output.dense.": "out.",
    "attention.output.LayerNorm.": "norm_attention.",
    "intermediate.dense.": "rise.",
    "output.dense.": "fall.",
    "output.LayerNorm.": "norm_mlp.",
}
_QKV = tuple(f"attention.self.{part}." for part in ("query", "key", "value"))


class OpenClipTokens(nn.Module):
    """A vision tower of open_clip (VisionTransformer, ModifiedResNet or a timm model) as an encoder of tokens.

    All tokens behind the final norm, the class token among them. Of a ModifiedResNet what its attention pooling would
    look at: the mean of the last map and a token a place, with the positions that the tower learnt. Of other
    convolutional towers the last map, a token a place. What the tower has behind that (pooling, projection) is taken
    off: a parameter without gradient would make distributed training wait for it.

    Args:
        tower: ``model.visual``; it is changed.

    Attributes:
        width: of the tokens.
    """

    def __init__(self, tower: Any) -> None:
        import open_clip
        from open_clip.modified_resnet import ModifiedResNet
        from open_clip.timm_model import TimmModel

        super().__init__()
        self.tower = tower
        if isinstance(tower, open_clip.transformer.VisionTransformer):
            if tower.attn_pool is not None:
                raise RaylabError("GiT: a tower with attentional pooling (CoCa) is not supported; take its plain twin.")
            tower.proj = None
            self.width, self._tokens = tower.ln_post.normalized_shape[0], self._of_transformer
        elif isinstance(tower, ModifiedResNet):
            self.width, self._tokens = tower.layer4[-1].bn3.num_features, self._of_resnet
            self.position_ND = tower.attnpool.positional_embedding
            tower.attnpool = nn.Identity()
        elif isinstance(tower, TimmModel):
            tower.trunk.reset_classifier(0, global_pool="")
            for behind in ("fc_norm", "head"):
                if hasattr(tower.trunk, behind):
                    setattr(tower.trunk, behind, nn.Identity())
            tower.head = nn.Identity()
            self.width, self._tokens = tower.trunk.num_features, self._of_timm
        else:
            raise RaylabError(f"GiT: no way to the tokens of a {type(tower).__name__}; give an encoder of your own.")

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Hand the switch on to the tower; open_clip's ModifiedResNet has none and keeps its activations."""
        self.tower.set_grad_checkpointing(enable)

    def forward(self, image_BCHW: torch.Tensor) -> torch.Tensor:
        """Return token_BND."""
        return self._tokens(image_BCHW)

    def _of_transformer(self, image_BCHW: torch.Tensor) -> torch.Tensor:
        return self.tower.ln_post(self.tower.transformer(self.tower._embeds(image_BCHW)))

    def _of_resnet(self, image_BCHW: torch.Tensor) -> torch.Tensor:
        x = self.tower.stem(image_BCHW)
        for stage in (self.tower.layer1, self.tower.layer2, self.tower.layer3, self.tower.layer4):
            x = stage(x)
        x_BND = x.flatten(2).transpose(1, 2)
        return torch.cat([x_BND.mean(1, keepdim=True), x_BND], 1) + self.position_ND

    def _of_timm(self, image_BCHW: torch.Tensor) -> torch.Tensor:
        x = self.tower.trunk.forward_features(image_BCHW)
        if x.ndim == 3:
            return x
        channels_first = x.shape[1] == self.width  # convolutional nets; windowed transformers have them last
        return x.flatten(2).transpose(1, 2) if channels_first else x.flatten(1, 2)


class HuggingFaceTokens(nn.Module):
    """The image encoder of Hugging Face's GIT: a CLIP vision transformer, all tokens behind its final norm.

    Attributes:
        width: of the tokens.
    """

    def __init__(self, config: transformers.GitVisionConfig) -> None:
        from transformers import GitVisionModel

        super().__init__()
        self.model = GitVisionModel(config)
        self.width = config.hidden_size

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Hand the switch on to the model."""
        if enable:
            self.model.gradient_checkpointing_enable({"use_reentrant": False})
        else:
            self.model.gradient_checkpointing_disable()

    def forward(self, image_BCHW: torch.Tensor) -> torch.Tensor:
        """Return token_BND."""
        return self.model(pixel_values=image_BCHW).last_hidden_state


def from_hugging_face(config: Any, state: Mapping[str, torch.Tensor], context: int = 32, target: int = 32) -> Git:
    """Return a GiT with the weights of a `transformers.GitForCausalLM`; its logits are the same.

    There question and answer are one text after one start token. So a caption is a target without a context; of a
    question, the start token and all tokens but the last are the context, and the last one starts the target.

    Args:
        config: the checkpoint's, a `transformers.GitConfig`.
        state: its state dict.
        context: tokens of a question at most.
        target: tokens of an answer at most.

    Raises:
        RaylabError: a video checkpoint, an activation or dropout that ours does not have, weights that do not fit.
    """
    _check_supported(config)
    ours = GitConfig(
        image_width=config.vision_config.hidden_size,
        vocab=config.vocab_size,
        width=config.hidden_size,
        layers=config.num_hidden_layers,
        heads=config.num_attention_heads,
        mlp_ratio=config.intermediate_size / config.hidden_size,
        dropout=config.hidden_dropout_prob,
        context=context,
        target=target,
        positions=config.max_position_embeddings,
        norm_eps=config.layer_norm_eps,
        project_eps=config.vision_config.layer_norm_eps,
        pad=config.pad_token_id,
        bos=config.bos_token_id,
        eos=config.eos_token_id,
    )
    git = Git(ours, HuggingFaceTokens(config.vision_config))
    try:
        git.load_state_dict(_renamed(state))
    except (RuntimeError, KeyError) as error:
        raise RaylabError(f"GIT of Hugging Face: these weights do not fit their config ({error}).") from error
    return git


def _check_supported(config: Any) -> None:
    unlike = {
        "num_image_with_embedding": config.num_image_with_embedding is not None,
        "hidden_act": config.hidden_act != "gelu",
        "eos_token_id": isinstance(config.eos_token_id, list),
        "tie_word_embeddings": config.tie_word_embeddings,
        "attention_probs_dropout_prob": config.attention_probs_dropout_prob != config.hidden_dropout_prob,
    }
    for setting in (setting for setting, differs in unlike.items() if differs):
        raise RaylabError(
            f"GIT of Hugging Face: {setting}={getattr(config, setting)!r} is not supported; ours reads one picture, "
            "has GELU, one end token, an output table of its own and one dropout."
        )


def _renamed(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the state dict under our names; names that are none of a GIT stay, and the loader complains of them."""
    renamed, qkv = {}, {}
    for name, tensor in state.items():
        if name.endswith("position_ids"):  # checkpoints of older versions hold these counts
            continue
        if not name.startswith(_LAYER):
            start = next((part for part in _PARTS if name.startswith(part)), "")
            renamed[_PARTS.get(start, "") + name.removeprefix(start)] = tensor
            continue
        number, part = name.removeprefix(_LAYER).split(".", 1)
        start = part[: part.rindex(".") + 1]
        kind = part.removeprefix(start)
        if start in _QKV:
            qkv[number, kind, start] = tensor
        else:
            renamed[f"layers.{number}.{_LAYER_PARTS.get(start, start)}{kind}"] = tensor
    for number, kind in {key[:2] for key in qkv}:
        renamed[f"layers.{number}.qkv.{kind}"] = torch.cat([qkv[number, kind, start] for start in _QKV])
    return renamed
