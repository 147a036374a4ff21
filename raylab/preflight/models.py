"""The check of models: each node can open them, and they are the same."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

from raylab.assets import locate
from raylab.config import fingerprint
from raylab.errors import RaylabError
from raylab.preflight.asked import Asked, Model
from raylab.preflight.base import Check, Finding, Level, Seen, Task, together
from raylab.storage import is_one_hosts

TIMEOUT_S = 5.0
"""For an answer from a server."""
CLIP_TIMEOUT_S = 90.0
"""To import torch and open_clip, which say where a CLIP's weights are."""
NOT_HERE = "is not on this node's disk yet: the job fetches it when it starts"

_FIND_CLIP = "import sys; from raylab.models.weights import find_clip; print(find_clip(*sys.argv[1:3]).revision)"


class Models(Check):
    """Each model is there, or can be fetched, on every node."""

    name = "models"
    patience_s = CLIP_TIMEOUT_S + 25
    way_out = "name an address that all nodes reach (s3://bucket/model, package://), or install or copy the model on " \
        "every node; a model of the hub needs a network or the hub's cache (HF_HOME)"  # fmt: skip

    def applies(self, asked: Asked) -> bool:
        """It uses some."""
        return bool(asked.models)

    def look(self, task: Task) -> dict[str, tuple[Level, str]]:
        """Return flag -> how it is here: there, to be fetched, or not to be had."""
        return {flag: _said(flag, model) for flag, model in task.asked.models.items()}

    def judge(self, seen: Seen) -> Finding:
        """Compare each model host by host, the driver among them."""
        found = [self._judge(flag, seen) for flag in seen.asked.models]
        way_out = next((one.way_out for one in found if one.level is Level.FAIL), "")
        way_out = way_out or next((one.way_out for one in found if one.way_out), "")
        return Finding(
            self.name, Level.worst([one.level for one in found]), "; ".join(one.seen for one in found), way_out
        )

    def _judge(self, flag: str, seen: Seen) -> Finding:
        said = {name: one[flag] for name, one in seen.nodes.items()}
        texts = {name: text for name, (_, text) in said.items()}
        level = Level.worst([level for level, _ in said.values()])
        if level is Level.FAIL:
            return self.fail(together({name: text for name, (one, text) in said.items() if one is level}))
        if level is Level.WARN:
            return self.warn(together(texts), "fetch it once, and keep it in a bucket or in the nodes' image")
        return self.ok(next(iter(texts.values()))) if len(set(texts.values())) == 1 else self.fail(together(texts))


def _said(flag: str, model: Model) -> tuple[Level, str]:
    called = f"{flag} {_short(model.name)}"
    try:
        found = _see(model)
    except (RaylabError, OSError) as error:
        return Level.FAIL, f"{called}: {error}"
    return (Level.WARN if found == NOT_HERE else Level.OK), f"{called} {found}"


def _short(name: str) -> str:
    return name.rstrip("/").rsplit("/", 1)[-1] if "://" in name or name.startswith("/") else name


def _see(model: Model) -> str:
    """Say what is to be seen of a model on this host.

    Raises:
        RaylabError: it is not here, and will not be.
    """
    if model.name.startswith(("http://", "https://")):
        return _ask(model.name)
    if "://" in model.name and not is_one_hosts(model.name) and locate(model.name) == model.name:
        return _listed(model.name)
    place = Path(locate(model.name.removeprefix("local-dir:")))
    if place.is_dir():
        return f"@{_of_folder(place)}"
    if place.is_file():
        return f"@{fingerprint([place.name, place.stat().st_size])[:8]}"
    if place.is_absolute() or model.name.count("/") > 1:  # more than a name of the hub has
        raise RaylabError(f"{model.name}: no such file or folder")
    return _by_name(model)


def _ask(address: str) -> str:
    """Ask a server for its models; that it wants a key is an answer too."""
    try:
        with urllib.request.urlopen(f"{address.rstrip('/')}/models", timeout=TIMEOUT_S):
            return "answers"
    except urllib.error.HTTPError as error:
        if error.code in (401, 403):
            return "answers"
        raise RaylabError(f"{address}/models: {error}") from error
    except OSError as error:
        raise RaylabError(f"{address} does not answer from here: {error}") from error


def _listed(uri: str) -> str:
    from raylab.sources.filesystem import list_files

    return f"@{fingerprint([(file.name, file.version) for file in list_files(uri)])[:8]}"


def _of_folder(place: Path) -> str:
    """Return a digest of a folder's files by name and size: reading gigabytes would take long."""
    sizes = [
        (path.relative_to(place).as_posix(), path.stat().st_size) for path in sorted(place.rglob("*")) if path.is_file()
    ]
    return fingerprint(sizes)[:8]


def _by_name(model: Model) -> str:
    if model.kind == "spacy":
        if importlib.util.find_spec(model.name) is None:
            raise RaylabError(f"spaCy's {model.name} is not installed: python -m spacy download {model.name}")
        return "is installed"
    found = _find_clip(model) if model.kind == "clip" else _in_hubs_cache(model.name)
    if found:
        return found
    _ask_hub(model.name)
    return NOT_HERE


def _find_clip(model: Model) -> str | None:
    """Return the revision of a CLIP whose weights are here; asked in a process of its own, the hub switched off."""
    line = [sys.executable, "-c", _FIND_CLIP, model.name, *([model.pretrained] if model.pretrained else [])]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    try:
        done = subprocess.run(
            line, env=environment, capture_output=True, text=True, timeout=CLIP_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise RaylabError(f"{model.name}: importing open_clip took longer than {CLIP_TIMEOUT_S:g} s") from error
    if done.returncode == 0:
        return f"@{done.stdout.split()[-1]}"
    if "cannot be fetched" in done.stderr:
        return None
    raise RaylabError(done.stderr.strip().splitlines()[-1][:300])


def _in_hubs_cache(name: str) -> str | None:
    from huggingface_hub import try_to_load_from_cache

    found = (
        try_to_load_from_cache(name, file) for file in ("config.json", "tokenizer_config.json", "model.safetensors")
    )
    return next((f"@{Path(one).parent.name[:8]}" for one in found if isinstance(one, str)), None)


def _ask_hub(name: str) -> None:
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        raise RaylabError(f"{name} is not on this node's disk, and HF_HUB_OFFLINE forbids to fetch it")
    try:
        urllib.request.urlopen(urllib.request.Request(constants.ENDPOINT, method="HEAD"), timeout=TIMEOUT_S).close()
    except OSError as error:
        raise RaylabError(
            f"{name} is not on this node's disk, and {constants.ENDPOINT} is not to be reached"
        ) from error
