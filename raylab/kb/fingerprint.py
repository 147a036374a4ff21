"""A digest of entities that does not depend on how they were chunked or padded."""

from __future__ import annotations

import hashlib
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


class Fingerprint:
    """Digest of tables fed in order; the same rows give the same, however they are cut."""

    def __init__(self) -> None:
        self._columns: dict[str, hashlib.blake2b] = {}

    def add(self, table: pa.Table) -> None:
        """Feed some rows of string, list-of-string and number columns."""
        for name in table.column_names:
            digest = self._columns.setdefault(name, hashlib.blake2b(digest_size=16))
            for chunk in table[name].chunks:
                _feed(digest, chunk)

    def hexdigest(self, *settings: object) -> str:
        """Return 32 hex digits for what was fed, together with `settings`."""
        parts = [f"{name}={digest.hexdigest()}" for name, digest in sorted(self._columns.items())]
        text = "\n".join([*parts, *(repr(setting) for setting in settings)])
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def file_digests(folder: Path) -> dict[str, str]:
    """Return the digest of each file in a folder: so a fingerprint tells indexes apart that other rules made."""
    found = {}
    for path in sorted(folder.iterdir()):
        with path.open("rb") as file:
            found[path.name] = hashlib.file_digest(file, partial(hashlib.blake2b, digest_size=16)).hexdigest()
    return found


def _feed(digest: hashlib.blake2b, column: pa.Array) -> None:
    if pa.types.is_list(column.type):
        digest.update(_numbers(pc.list_value_length(column)))
        column = pc.list_flatten(column)
    if pa.types.is_string(column.type):
        digest.update(_numbers(pc.binary_length(column)))
        data = memoryview(column.buffers()[2] or b"")
        offsets = np.frombuffer(column.buffers()[1] or bytes(4), np.int32)
        digest.update(data[offsets[column.offset] : offsets[column.offset + len(column)]])
    else:
        digest.update(_numbers(column))


def _numbers(values: pa.Array) -> bytes:
    return pc.fill_null(values, -1).to_numpy(zero_copy_only=False).tobytes()
