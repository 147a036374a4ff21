"""Where a CLIP's weights are, and what revision they are."""

from __future__ import annotations

import functools
import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from raylab.assets import fetch
from raylab.errors import RaylabError, nearest

_CONFIG_FILE = "open_clip_config.json"
_LOCAL, HUB = "local-dir:", "hf-hub:"
_CONTENT_ADDRESS = re.compile(r"[0-9a-f]{64}")
_REVISION_DIGITS = 12


@dataclass(frozen=True)
class ClipFiles:
    """A CLIP's files on this machine, and the words by which open_clip loads them."""

    id: str
    """The model's name without any local path."""
    name: str
    """What open_clip calls ``model_name``."""
    pretrained: str | None
    """What open_clip calls ``pretrained``."""
    weights: Path
    files: tuple[Path, ...]
    """Everything that makes the model what it is: the weights, and what lies beside them in a folder."""

    @property
    def revision(self) -> str:
        """12 hex digits of the hash over `files`."""
        digest = hashlib.blake2b()
        for path in self.files:
            digest.update(_content_hash(path, path.stat().st_size, path.stat().st_mtime_ns).encode())
        return digest.hexdigest()[:_REVISION_DIGITS]


@functools.lru_cache(maxsize=32)
def _content_hash(path: Path, size: int, mtime_ns: int) -> str:
    """Hash a file; `size` and `mtime_ns` make a changed file a new entry of the cache."""
    blob = path.resolve().name
    if _CONTENT_ADDRESS.fullmatch(blob):  # the hub's cache names large files by their hash already
        return blob
    with path.open("rb") as file:
        return hashlib.file_digest(file, "blake2b").hexdigest()


def find_clip(name: str, pretrained: str | None) -> ClipFiles:
    """Return the files of an open_clip model, fetching weights that a tag or a hub's name stands for.

    Args:
        name: an architecture, ``hf-hub:owner/model``, or a folder: its path with or without ``local-dir:``, or a
            ``package://`` address.
        pretrained: for an architecture, the tag of its weights or a checkpoint's path; null otherwise.

    Raises:
        RaylabError: for an unknown name or tag (naming the nearest) and for weights that are not to be had.
    """
    name = fetch(name)
    if name.startswith(HUB):
        return _find_on_hub(name, pretrained)
    folder = Path(name.removeprefix(_LOCAL))
    if name.startswith(_LOCAL) or folder.is_dir():
        return _find_in_folder(folder, pretrained)
    return _find_architecture(name, pretrained)


def _find_in_folder(folder: Path, pretrained: str | None) -> ClipFiles:
    if pretrained:
        raise RaylabError(f"CLIP {folder}: the folder brings its own weights; set pretrained to null.")
    if not (folder / _CONFIG_FILE).is_file():
        raise RaylabError(
            f"CLIP {folder}: no {_CONFIG_FILE} there. Such a folder holds {_CONFIG_FILE}, the weights "
            "(open_clip_model.safetensors) and, where the model needs its own, the tokenizer."
        )
    files = sorted(path for path in folder.iterdir() if path.is_file())
    weights = [path for path in files if path.suffix in (".safetensors", ".bin", ".pth")]
    if not weights:
        raise RaylabError(f"CLIP {folder}: no weights there (.safetensors, .bin or .pth).")
    return ClipFiles(folder.resolve().name, f"{_LOCAL}{folder}", None, weights[0], tuple(files))


def _find_on_hub(name: str, pretrained: str | None) -> ClipFiles:
    if pretrained:
        raise RaylabError(f"CLIP {name}: a model of the hub brings its own weights; set pretrained to null.")
    config, weights = hub_file(name, _CONFIG_FILE), hub_file(name)
    return ClipFiles(name.removeprefix(HUB), name, None, weights, (config, weights))


def hub_file(name: str, file: str | None = None) -> Path:
    """Return a file of a model on the hub, fetched where it is not in the hub's cache; null: its weights.

    Raises:
        RaylabError: it is not to be had.
    """
    from open_clip.pretrained import download_pretrained_from_hf

    try:
        return Path(download_pretrained_from_hf(name.removeprefix(HUB), filename=file))
    except Exception as error:  # whatever the hub's client, the network and the disk raise
        raise _unavailable(name, f"open_clip.create_model({name!r})", error) from error


def _find_architecture(name: str, pretrained: str | None) -> ClipFiles:
    import open_clip

    known = open_clip.list_models()
    if name.replace("/", "-") not in known:
        raise RaylabError(
            f"CLIP {name!r} is neither an open_clip architecture nor a folder.{nearest(name, known)} "
            "All names: python -c 'import open_clip; print(open_clip.list_models())'"
        )
    tags = open_clip.list_pretrained_tags_by_model(name.replace("/", "-"))
    if not pretrained:
        raise RaylabError(f"CLIP {name}: weights are needed. Set pretrained to a checkpoint's path or one of {tags}.")
    if Path(pretrained).is_file():
        weights = Path(pretrained)
        return ClipFiles(f"{name}/{weights.name}", name, pretrained, weights, (weights,))
    config = open_clip.get_pretrained_cfg(name.replace("/", "-"), pretrained)
    if not config:
        hint = nearest(pretrained, tags)
        raise RaylabError(f"CLIP {name}: pretrained={pretrained!r} is neither a file nor a tag.{hint} Tags: {tags}")
    try:
        weights = Path(open_clip.download_pretrained(config))
    except Exception as error:  # whatever the hub's client, the network and the disk raise
        raise _unavailable(
            f"{name}/{pretrained}", f"open_clip.create_model({name!r}, pretrained={pretrained!r})", error
        ) from error
    return ClipFiles(f"{name}/{pretrained}", name, pretrained, weights, (weights,))


def _unavailable(model: str, call: str, error: Exception) -> RaylabError:
    return RaylabError(
        f"CLIP {model}: its weights are not on this machine and cannot be fetched ({type(error).__name__}: "
        f"{str(error)[:200]}). Either run {call} where there is a network and copy the hub's cache folder "
        "(HF_HOME, ~/.cache/huggingface by default) here, or name a checkpoint's path as pretrained, "
        "or a folder with open_clip_config.json as the model."
    )
