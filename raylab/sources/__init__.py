"""Where pairs of image and caption come from."""

from __future__ import annotations

from raylab.sources.base import Columns, Limits, Shard, Source, SourceConfig

__all__ = ["Columns", "Limits", "Shard", "Source", "SourceConfig", "open_source"]


def open_source(config: SourceConfig) -> Source:
    """Return the source that `config.uri` names; nothing is opened before it is asked.

    Args:
        config: ``miniworld://`` addresses give the embedded mini-world, ``oven://`` ones OVEN's questions (`oven`), all
            others files: see `files.FileSource`.
    """
    if config.uri.startswith("miniworld:"):
        from raylab.sources.miniworld.source import MiniworldSource

        return MiniworldSource(config)
    if config.uri.startswith("oven:"):
        from raylab.sources import oven

        is_world = config.uri.startswith(f"{oven.SCHEME}miniworld:")
        return oven.MiniworldQuestions(config) if is_world else oven.OvenSource(config)
    from raylab.sources.files import FileSource

    return FileSource(config)
