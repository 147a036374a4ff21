"""Files wherever they lie: listing, opening and reading byte ranges, through fsspec and pyarrow.

fsspec's own implementation of a scheme comes first; where the package it needs is not installed (s3fs, gcsfs, adlfs),
pyarrow's built-in filesystem for that scheme takes over. Local files are named by their plain absolute path.
"""

from __future__ import annotations

import io
import os
import posixpath
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

import fsspec
import pyarrow as pa
from fsspec.implementations.arrow import ArrowFSWrapper
from fsspec.implementations.local import LocalFileSystem

from raylab.errors import RaylabError

MAX_GAP = 2**20
"""Ranges of one file that lie at most this many bytes apart are read together: a request costs more than the gap."""

MAX_READ = 32 * 2**20
"""A read that joins several ranges stays below this many bytes."""

IO_ERRORS = (OSError, ImportError, ValueError, pa.ArrowException)
"""What the filesystem libraries raise for a file that is not there, not readable or not addressable."""

READ_AHEAD = 8 * 2**20
"""Bytes that a remote file which is read from start to end fetches with each request."""

_GLOB = "*?["


@dataclass(frozen=True)
class File:
    """One input file."""

    name: str
    """Path relative to the source's root, with forward slashes."""
    uri: str
    """Absolute path or address."""
    size: int
    """Bytes."""
    version: str
    """Size with the etag, checksum or modification time: changes when the content does."""


def open_filesystem(uri: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """Return the filesystem that `uri` lies on and the path on it.

    Raises:
        RaylabError: no installed package knows the scheme.
    """
    try:
        return fsspec.core.url_to_fs(uri)
    except (ImportError, ValueError) as error:
        return _open_arrow_filesystem(uri, error)


def _open_arrow_filesystem(uri: str, cause: Exception) -> tuple[fsspec.AbstractFileSystem, str]:
    from pyarrow.fs import FileSystem

    try:
        filesystem, path = FileSystem.from_uri(uri)
    except (pa.ArrowException, ValueError, OSError, TypeError) as error:
        raise RaylabError(f"No filesystem can open {uri!r}: fsspec says: {cause}; pyarrow says: {error}") from cause
    return _ArrowFilesystem(filesystem), path


class _ArrowFilesystem(ArrowFSWrapper):
    """A pyarrow filesystem as fsspec's, with read-ahead."""

    cachable = False

    def _open(self, path: str, mode: str = "rb", **kwargs: Any) -> Any:
        file = super()._open(path, mode, **kwargs)
        return io.BufferedReader(file, kwargs["block_size"]) if kwargs.get("cache_type") == "readahead" else file

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **kwargs: Any) -> bytes:
        # the parent opens a stream without seek() for ranges from 0, and then seeks (fsspec 2026.9)
        return super().cat_file(path, start, end, seekable=True, **kwargs)


def list_files(uri: str) -> list[File]:
    """List the files that `uri` names, sorted by name.

    A file is itself; a folder is every file below it; a glob (``*``, ``**``, ``?``, ``[...]``) is every match. Files
    and folders whose name starts with a dot or an underscore are left out, as usual in data folders (``_SUCCESS``,
    ``.git``). Names are relative to the source's *root*: the file's folder, the folder, or the glob's part before its
    first special character. Row ids hang on these names and not on where the root lies.

    Raises:
        RaylabError: nothing is there, or it cannot be listed.
    """
    filesystem, path = open_filesystem(uri)
    try:
        filesystem.invalidate_cache()
        found, root = _find(filesystem, path)
    except Exception as error:  # each filesystem package has exceptions of its own; for the user they are one thing
        raise RaylabError(f"{uri}: cannot be listed: {type(error).__name__}: {error}") from error
    files = [_file(filesystem, info, root) for info in found if info["type"] == "file"]
    if len(files) != 1 or files[0].uri != address(filesystem, path):
        files = [file for file in files if not any(part[0] in "._" for part in PurePosixPath(file.name).parts)]
    if not files:
        raise RaylabError(f"{uri}: no such file, or a folder or glob without files. Check the path.")
    for file in files:
        if not is_utf8(file.name):
            raise RaylabError(f"{file.uri!r}: a file name that is not UTF-8. Rename the file.")
    return sorted(files, key=lambda file: file.name)


def is_utf8(text: str) -> bool:
    """Tell whether `text` can be written as UTF-8: no lone surrogates, which stand for undecodable bytes."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def file_name(shard_name: str) -> str:
    """Return the name of a shard's file: without the ``#first-last`` of a part."""
    return re.sub(r"#\d+-\d+$", "", shard_name)


def _find(filesystem: fsspec.AbstractFileSystem, path: str) -> tuple[list[dict[str, Any]], str]:
    """Return the infos of all files at `path` and their root."""
    if any(character in path for character in _GLOB) and not filesystem.exists(path):
        fixed = path[: min(path.index(character) for character in _GLOB if character in path)]
        matches = filesystem.glob(path, detail=True)
        return list(matches.values()), fixed.rpartition("/")[0]
    if filesystem.isdir(path):
        return list(filesystem.find(path, detail=True).values()), path
    return [filesystem.info(path)] if filesystem.exists(path) else [], path.rpartition("/")[0]


def _file(filesystem: fsspec.AbstractFileSystem, info: dict[str, Any], root: str) -> File:
    path = info["name"]
    name = path[len(root) :].lstrip("/") if path.startswith(root) else path
    return File(name=name, uri=address(filesystem, path), size=int(info["size"] or 0), version=_version(info))


def address(filesystem: fsspec.AbstractFileSystem, path: str) -> str:
    """Return the absolute path of a local file, and the address with its scheme of any other."""
    return path if isinstance(filesystem, LocalFileSystem) else str(filesystem.unstrip_protocol(path))


def _version(info: dict[str, Any]) -> str:
    for key in ("ETag", "etag", "md5Hash", "content_md5", "mtime", "LastModified", "last_modified", "created"):
        if info.get(key):
            return f"{info['size']}-{str(info[key]).strip(chr(34))}"
    return str(info["size"])


def open_file(uri: str, compression: str | None = None, read_ahead: int = READ_AHEAD) -> Any:
    """Open `uri` for reading bytes; seekable unless it is decompressed on the way.

    Args:
        uri: a path or address.
        compression: None, or ``"infer"`` to decompress by the name's ending.
        read_ahead: bytes that a remote file fetches with each request; 0 for what is asked for and no more, which
            suits readers that plan their own requests, such as Parquet's.
    """
    filesystem, path = open_filesystem(uri)
    ahead = {"block_size": read_ahead, "cache_type": "readahead"} if read_ahead else {"cache_type": "none"}
    return filesystem.open(path, "rb", compression=compression, **ahead)


@lru_cache(maxsize=4096)
def _folder(uri: str) -> tuple[fsspec.AbstractFileSystem, str]:
    return open_filesystem(uri)


def _locate(uri: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """`open_filesystem`, fast for many files of one folder."""
    folder, slash, name = uri.rpartition("/")
    if not slash:
        return open_filesystem(uri)
    filesystem, path = _folder(folder)
    return filesystem, f"{path}/{name}"


def read_ranges(ranges: Sequence[tuple[str, int, int]]) -> list[bytes | Exception]:
    """Read byte ranges of any number of files.

    Near ranges of one file are read together (see `MAX_GAP` and `MAX_READ`), and remote reads run side by side.

    Args:
        ranges: (address, first byte, end byte exclusive). Bytes past the end of a file are left out.

    Returns:
        One entry a range: its bytes, or the exception that its read ended with.
    """
    results: list[bytes | Exception] = [b""] * len(ranges)
    reads = list(_coalesce(ranges))
    for (_, start, _, members), data in zip(reads, _read_all(reads), strict=True):
        for index in members:
            _, first, end = ranges[index]
            results[index] = data if isinstance(data, Exception) else data[first - start : end - start]
    return results


_Read = tuple[str, int, int, list[int]]


def _coalesce(ranges: Sequence[tuple[str, int, int]]) -> Iterator[_Read]:
    """Yield (address, start, end, indices of the ranges inside)."""
    current: _Read | None = None
    for index in sorted(range(len(ranges)), key=lambda index: ranges[index]):
        uri, start, end = ranges[index]
        if current and current[0] == uri and start - current[2] <= MAX_GAP and end - current[1] <= MAX_READ:
            current = (uri, current[1], max(end, current[2]), [*current[3], index])
            continue
        if current:
            yield current
        current = (uri, start, end, [index])
    if current:
        yield current


def _read_all(reads: Sequence[_Read]) -> list[bytes | Exception]:
    results: list[bytes | Exception] = [b""] * len(reads)
    by_filesystem: dict[int, tuple[fsspec.AbstractFileSystem, list[int], list[str]]] = {}
    for index, (uri, *_) in enumerate(reads):
        try:
            filesystem, path = _locate(uri)
        except RaylabError as error:
            results[index] = error
            continue
        _, indices, paths = by_filesystem.setdefault(id(filesystem), (filesystem, [], []))
        indices.append(index)
        paths.append(path)
    for filesystem, indices, paths in by_filesystem.values():
        starts, ends = [reads[index][1] for index in indices], [reads[index][2] for index in indices]
        for index, data in zip(indices, filesystem.cat_ranges(paths, starts, ends, on_error="return"), strict=True):
            results[index] = data
    return results


def resolve_inside(path: str, table_uri: str, root: str) -> str | None:
    """Return the address of the file that a table names, or None where it lies outside the source's root.

    A table from the web must not make the job read other files of the machine: whether relative (to the table's
    folder), absolute or a full address, the file must lie under `root`. Whoever keeps images beside the tables rather
    than below them names a wider source: ``data/*/table.csv`` has the root ``data``, ``data/tables/table.csv`` has
    not.

    Args:
        path: as written in the table.
        table_uri: the table's address.
        root: the source's root, see `list_files`.
    """
    prefix = root[: root.index("://") + 3] if "://" in root else ""
    folder = root.removeprefix(prefix).rstrip("/")
    path = path if prefix else path.removeprefix("file://")
    if "://" in path:
        if not prefix or not path.startswith(prefix):
            return None
        path = path.removeprefix(prefix)
    elif not path.startswith("/"):
        path = f"{table_uri.removeprefix(prefix).rpartition('/')[0]}/{path}"
    full = posixpath.normpath(path)
    return prefix + full if full.startswith(folder + "/") else None


def absolute(uri: str) -> str:
    """Return `uri` with a relative local path made absolute, so that it means the same on every worker."""
    if "://" in uri:
        return uri
    return os.path.abspath(Path(uri).expanduser())  # noqa: PTH100 - a Path keeps `..`, which no root check can see through
