"""Models by an address that means the same on every host: inside a package, or in a cloud bucket.

``package://raylab.sources.miniworld/assets/clip`` is the folder ``assets/clip`` of that package, wherever it is
installed: so configs can be compared and sent to other hosts, which a path could not.
"""

from __future__ import annotations

import importlib.resources

SCHEME = "package://"


def locate(name: str) -> str:
    """Return the local path behind a ``package://`` address; any other name as it is."""
    if not name.startswith(SCHEME):
        return name
    package, _, path = name.removeprefix(SCHEME).partition("/")
    return str(importlib.resources.files(package) / path)


def fetch(name: str) -> str:
    """Return the local path behind an address, of this host's copy where it is a cloud's; any other name as it is.

    Raises:
        RaylabError: see `mirror.local_copy`.
    """
    if "://" not in name or name.startswith(SCHEME):
        return locate(name)
    from raylab.mirror import local_copy

    return str(local_copy(name))
