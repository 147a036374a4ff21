"""A run's folder, on a local disk or in a cloud bucket, with writes that are whole or not there at all."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterable, Mapping
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
        """Tell whether the file or folder is there now: what another host wrote is seen, whatever was listed before."""
        self.fs.invalidate_cache()
        return bool(self.fs.exists(self.path(name)))

    def names(self, below: str) -> list[str]:
        """List the files directly below a sub-folder, sorted, relative to this folder; empty where it is missing."""
        if not self.exists(below):
            return []
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

    def put(self, file: Path, name: str) -> None:
        """Copy a file of this host here, whole or not at all; it is not held in memory on its way to a bucket."""
        if self.is_local:
            self.write_bytes(name, file.read_bytes())
            return
        try:
            self.fs.put_file(str(file), self.path(name))
        except OSError as error:
            raise RaylabError(f"Cannot write {self.uri}/{name}: {error.strerror or error}.") from error

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


def is_one_hosts(address: str) -> bool:
    """Tell whether a path or address means what lies on the disks of the host that opens it."""
    address = address.removeprefix("oven://")  # see `sources.oven`: an address follows
    return address.startswith(("file:", "local:")) or (bool(address) and "://" not in address)


def refuse_local(places: Mapping[str, str], nodes: int, shared_disk: bool, elsewhere: bool = False) -> None:
    """Refuse paths that the nodes of a cluster would each look up on a disk of their own.

    Args:
        places: flag -> path or address, empty where it is not given.
        nodes: of the cluster, now.
        shared_disk: the user says that these paths lie on a disk that all nodes mount at the same place.
        elsewhere: the work will be done by nodes that are not there yet.

    Raises:
        RaylabError: a path of one host, and several nodes.
    """
    local = {flag: place for flag, place in places.items() if is_one_hosts(place)}
    if (nodes < 2 and not elsewhere) or shared_disk or not local:
        return
    named = ", ".join(f"{flag} {place}" for flag, place in local.items())
    has = f"has {nodes} nodes" if nodes > 1 else "starts more nodes for the work"
    raise RaylabError(
        f"This cluster {has}, and each would look on its own disk for {named}. Give an address that all "
        "reach (s3://bucket/..., gs://, abfs://); or, where the path is a disk that every node mounts at the same "
        "place (NFS, Lustre, FSx), say so with --shared-disk."
    )


def check_seen(folder: Folder, name: str, host: str) -> None:
    """Refuse to work in a local folder that does not hold what the run's driver wrote there: it is another disk.

    A node that joins a running cluster is found out by this.

    Raises:
        RaylabError: `name` is missing.
    """
    if folder.is_local and not folder.exists(name):
        raise RaylabError(
            f"Node {host} does not see {folder.uri}/{name}, which the driver wrote: not all nodes share the path. "
            "Give an address that all reach (s3://bucket/...), or mount the disk on every node."
        )


def check_listed(paths: Iterable[str], host: str) -> None:
    """Refuse to work where files that the driver listed are not to be seen: it is another disk, and they are not lost.

    Args:
        paths: files of the input; addresses that all hosts reach are passed over.
        host: this one.

    Raises:
        RaylabError: one is missing.
    """
    for path in filter(is_one_hosts, paths):
        if not Folder(path).exists(""):
            raise RaylabError(
                f"Node {host} does not see {path}, which the driver listed: not all nodes share the path, or it was "
                "removed. Give --source an address that all reach (s3://bucket/...), or mount the disk on every node."
            )
