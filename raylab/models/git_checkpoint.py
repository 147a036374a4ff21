"""Hugging Face's GIT checkpoints as they lie on disk: network, what its pictures look like, tokenizer."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from raylab.assets import fetch
from raylab.errors import RaylabError
from raylab.models.git import Git
from raylab.models.git_weights import from_hugging_face

CONFIG_FILE, PIXELS_FILE = "config.json", "preprocessor_config.json"
CLIP_MEAN, CLIP_STD = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
"""Of the pixels, where a checkpoint does not say; all published GITs have CLIP's."""


def is_checkpoint(folder: Path) -> bool:
    """Tell whether a folder holds a GIT of Hugging Face, by its config."""
    try:
        return json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8")).get("model_type") == "git"
    except (OSError, ValueError, AttributeError):
        return False


@dataclass(frozen=True)
class GitCheckpoint:
    """A GIT of Hugging Face, or its architecture alone; nothing is read before it is asked for.

    Args:
        name: a folder, ``microsoft/git-base`` or another name on the hub, or a cloud's address.
    """

    name: str

    @cached_property
    def config(self) -> Any:
        """A `transformers.GitConfig`.

        Raises:
            RaylabError: it is not to be had, or is another model's.
        """
        from transformers import AutoConfig

        try:
            found = AutoConfig.from_pretrained(fetch(self.name))
        except Exception as error:  # the hub's client, the network and the files each raise their own kinds
            raise self._missing(error) from error
        if found.model_type != "git":
            raise RaylabError(f"{self.name} is a {found.model_type} and no GIT of Hugging Face (model_type git).")
        return found

    @cached_property
    def preprocess(self) -> dict[str, Any]:
        """Side, mean and deviation of the pictures, by open_clip's names: ``size``, ``mean``, ``std``."""
        from transformers.utils import cached_file

        place = cached_file(
            fetch(self.name), PIXELS_FILE, _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
        )  # fmt: skip
        told = json.loads(Path(place).read_text(encoding="utf-8")) if place else {}
        mean, std = told.get("image_mean", CLIP_MEAN), told.get("image_std", CLIP_STD)
        return {"size": self.config.vision_config.image_size, "mean": tuple(mean), "std": tuple(std)}

    def build(self, context: int, target: int, *, weights: bool) -> Git:
        """Return the network.

        Args:
            context: tokens of a question at most.
            target: tokens of an answer at most.
            weights: the checkpoint's; otherwise random ones, for a state that will be loaded.

        Raises:
            RaylabError: the weights are not to be had, or do not fit; see `from_hugging_face`.
        """
        from transformers import GitForCausalLM

        try:
            model = GitForCausalLM.from_pretrained(fetch(self.name), dtype=torch.float32) if weights else None
        except Exception as error:  # as above
            raise self._missing(error) from error
        state = (model or GitForCausalLM(self.config)).state_dict()
        return from_hugging_face(self.config, state, context, target)

    def save_architecture(self, folder: Path, preprocess: dict[str, Any]) -> None:
        """Write what `config` and `preprocess` read."""
        self.config.save_pretrained(folder)
        pixels = {"image_mean": list(preprocess["mean"]), "image_std": list(preprocess["std"])}
        (folder / PIXELS_FILE).write_text(json.dumps(pixels) + "\n", encoding="utf-8")

    def _missing(self, error: Exception) -> RaylabError:
        return RaylabError(
            f"GIT of Hugging Face {self.name}: cannot be loaded ({type(error).__name__}: {str(error)[:200]}). Give a "
            "folder with config.json and the weights, or fetch it where there is a network and copy HF_HOME."
        )
