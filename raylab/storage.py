"""A run's folder, on a local disk or in a cloud bucket, with writes that are whole or not there at all."""

from __future__ import annotations

import json
import os
import uuid
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from raylab.errors import RaylabError


class Folder:
    """A folder by path or URI. Cheap to pickle; connects when it is used.

    Args:
        uri: a local path, or any URI that fsspec knows (``s3://bucket/run``).
    """

    def __init__(self, uri: str) -> None:
        """Keep the address only."""
        self.uri = uri.rstrip("/") or "/"
        self._fs: Any = None
        self._root = ""

    def __getstate__(self) -> dict[str, Any]:
        return {"uri": self.uri, "_fs": None, "_root": ""}

    @property
    def fs(self) -> Any:
        """The fsspec filesystem."""
        if self._fs is None:
            import fsspec

            try:
                self._fs, self._root = fsspec.core.url_to_fs(self.uri)
            except (ImportError, ValueError) as error:
                raise RaylabError(f"Cannot open {self.uri}: {error}") from error
        return self._fs

    @property
    def is_local(self) -> bool:
        """True where the folder lies on this host's disks."""
        return "file" in _protocols(self.fs)

    def path(self, name: str) -> str:
        """Return the filesystem's own path of a file in the folder."""
        assert self.fs  # connects, and so sets the root
        return f"{self._root}/{name}"

    def exists(self, name: str) -> bool:
        """Tell whether the file or folder is there."""
        return bool(self.fs.exists(self.path(name)))

    def names(self, below: str) -> list[str]:
        """List the files directly below a sub-folder, sorted, relative to this folder; empty where it is missing."""
        if not self.exists(below):
            return []
        self.fs.invalidate_cache()
        found = self.fs.ls(self.path(below), detail=False)
        return sorted(f"{below}/{path.rstrip('/').rsplit('/', 1)[-1]}" for path in found)

    def read_bytes(self, name: str) -> bytes:
        """Return the file's bytes; FileNotFoundError where it is missing."""
        return bytes(self.fs.cat_file(self.path(name)))

    def read_json(self, name: str) -> Any:
        """Return a JSON file's value; RaylabError where it is not JSON."""
        try:
            return json.loads(self.read_bytes(name))
        except ValueError as error:
            raise RaylabError(f"{self.uri}/{name} is damaged: {error}. Remove the folder and start again.") from error

    def write_bytes(self, name: str, data: bytes | memoryview) -> None:
        """Write a whole file: readers see the old content or the new, never a part.

        A local file is written beside its place and renamed; an object store's put is atomic by itself.

        Raises:
            RaylabError: it cannot be written (full disk, no permission, no connection).
        """
        try:
            if self.is_local:
                self._write_local(Path(self.path(name)), data)
            else:
                self.fs.pipe_file(self.path(name), bytes(data))
        except OSError as error:
            raise RaylabError(
                f"Cannot write {self.uri}/{name}: {error.strerror or error}. "
                "What is committed stays; put the cause right and start the same line again."
            ) from error

    @staticmethod
    def _write_local(target: Path, data: bytes | memoryview) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}")
        try:
            with temporary.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(target)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise

    def write_json(self, name: str, value: Any) -> None:
        """Write a JSON file, whole or not at all."""
        self.write_bytes(name, json.dumps(value, indent=1, ensure_ascii=False).encode("utf-8", "replace") + b"\n")

    def write_parquet(self, name: str, table: pa.Table) -> None:
        """Write a Parquet file (zstd), whole or not at all."""
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, compression="zstd")
        self.write_bytes(name, memoryview(sink.getvalue()))

    def read_parquet(self, name: str, columns: list[str] | None = None) -> pa.Table:
        """Read a Parquet file, or some of its columns."""
        with self.fs.open(self.path(name), "rb") as file:
            return pq.ParquetFile(file).read(columns)

    def remove(self, name: str) -> None:
        """Remove a file or a folder with what it holds; nothing happens where it is missing."""
        if self.exists(name):
            self.fs.rm(self.path(name), recursive=True)


def _protocols(fs: Any) -> tuple[str, ...]:
    return (fs.protocol,) if isinstance(fs.protocol, str) else tuple(fs.protocol)
