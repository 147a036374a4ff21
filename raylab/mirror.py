"""Copies of cloud folders on a host's own disk, for what has to be mapped or is opened by its path.

A knowledge base is mapped into memory and a model's library wants a path: each host fetches them once, and all its
processes share the copy. What changed at the address is another copy.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from raylab.config import fingerprint
from raylab.errors import RaylabError

if TYPE_CHECKING:
    from raylab.sources.filesystem import File


def cache() -> Path:
    """Return the folder of all copies: ``raylab`` in the user's cache (``XDG_CACHE_HOME``, ``~/.cache`` by default)."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "raylab"


def local_copy(uri: str) -> Path:
    """Return a local folder that holds what lies below an address, fetching it where this host has no copy yet.

    Processes that come at once wait for the first. Nothing half-fetched is ever seen.

    Args:
        uri: of a folder on any filesystem that fsspec or pyarrow knows. Hidden files are left out.

    Raises:
        RaylabError: there is nothing, it cannot be read, or the disk is full.
    """
    from filelock import FileLock

    from raylab.sources.filesystem import list_files

    files = list_files(uri)
    place = copy_of(uri, files)
    if place.exists():
        return place
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{place}.lock"):
            if not place.exists():
                _fetch(uri, files, place)
    except OSError as error:
        size = sum(file.size for file in files) / 2**20
        raise RaylabError(
            f"{uri} cannot be copied to {place} ({error}): {size:,.0f} MiB are needed there. "
            "Free some space, or set XDG_CACHE_HOME to a larger disk on every node."
        ) from error
    return place


def copy_of(uri: str, files: list[File]) -> Path:
    """Return where the copy of a folder with these files is, or will be."""
    key = fingerprint([uri.rstrip("/"), *([file.name, file.version] for file in files)])
    return cache() / key / uri.rstrip("/").rsplit("/", 1)[-1]


def _fetch(uri: str, files: list[File], place: Path) -> None:
    from raylab.sources.filesystem import open_filesystem

    part = place.with_name(f"{place.name}.part")
    shutil.rmtree(part, ignore_errors=True)  # of a process that was killed: the lock is ours
    filesystem, root = open_filesystem(uri)
    targets = [part / file.name for file in files]
    for target in targets:
        target.parent.mkdir(parents=True, exist_ok=True)
    filesystem.get([f"{root.rstrip('/')}/{file.name}" for file in files], [str(target) for target in targets])
    part.rename(place)
