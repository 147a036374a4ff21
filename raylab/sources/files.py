"""Pairs from files: what the formats have in common."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import chain

import pyarrow as pa

from raylab.errors import RaylabError
from raylab.schema import Reason
from raylab.sources import parquet, tabular, webdataset
from raylab.sources.base import Shard, SourceConfig
from raylab.sources.filesystem import File, absolute, file_name, list_files, read_ranges
from raylab.sources.rows import Record, make_tables

LISTING_THREADS = 16
"""Heads of files (Parquet footers, CSV headers) are read by this many threads."""


@dataclass(frozen=True)
class Format:
    """A kind of input file."""

    name: str
    """How messages call it."""
    suffixes: tuple[str, ...]
    """Endings of its files, in lower case."""
    list_shards: Callable[[File, SourceConfig], list[Shard]]
    """Cut one file into shards; raises `RaylabError` where a needed column is missing."""
    read_records: Callable[[Shard, SourceConfig], Iterator[Record]]
    """Read one shard; raises one of `rows.BROKEN_FILE` where the file cannot be read on."""


FORMATS = (
    Format(
        "WebDataset tars",
        webdataset.SUFFIXES + webdataset.COMPRESSED_SUFFIXES,
        webdataset.list_shards,
        webdataset.read_records,
    ),
    Format("Parquet", parquet.SUFFIXES, parquet.list_shards, parquet.read_records),
    Format("CSV, TSV or JSON Lines", tabular.SUFFIXES, tabular.list_shards, tabular.read_records),
)


class FileSource:
    """Pairs in WebDataset tars, Parquet files or tables beside images; see `sources.base.Source`.

    Args:
        config: its `uri` names a file, a folder or a glob on any filesystem that fsspec or pyarrow knows.
    """

    def __init__(self, config: SourceConfig) -> None:
        self.config = replace(config, uri=absolute(config.uri))
        self._parquet_images: parquet.ImageReader | None = None

    def __reduce__(self) -> tuple[type[FileSource], tuple[SourceConfig]]:
        return FileSource, (self.config,)

    def shards(self) -> list[Shard]:
        """List the shards, sorted by file name; all files must be of one format.

        Raises:
            RaylabError: nothing matches, formats are mixed, a needed column is missing, no access.
        """
        form, files = _of_one_format(list_files(self.config.uri), self.config.uri)
        with ThreadPoolExecutor(LISTING_THREADS) as threads:
            try:
                return list(chain.from_iterable(threads.map(lambda file: form.list_shards(file, self.config), files)))
            except PermissionError as error:
                raise RaylabError(f"{self.config.uri}: no access: {error}") from error

    def read(self, shard: Shard) -> Iterator[pa.Table]:
        """Yield `PAIR` tables of at most `chunk_rows` rows, in file order."""
        form = _format_of(file_name(shard.name))
        if form is None:
            raise RaylabError(f"{shard.uri}: not a kind of file that raylab reads.")
        return make_tables(form.read_records(shard, self.config), shard, self.config)

    def image_bytes(self, refs: Sequence[dict | None]) -> list[bytes | Reason]:
        """Return the bytes behind each reference, or the reason why there are none; files are read range by range."""
        results: list[bytes | Reason] = [Reason.MISSING_IMAGE] * len(refs)
        rows: dict[str, list[int]] = {}
        ranges: list[tuple[int, tuple[str, int, int]]] = []
        limit = self.config.limits.max_image_bytes
        for index, ref in enumerate(refs):
            if not ref or ref["uri"] is None:
                continue
            uri, offset, size = ref["uri"], ref["offset"], ref["size"]
            if size < 0 and uri.lower().endswith(parquet.SUFFIXES):
                rows.setdefault(uri, []).append(index)
            elif size == 0 or size > limit:
                results[index] = Reason.IMAGE_TOO_MANY_BYTES if size else Reason.IMAGE_EMPTY
            else:
                ranges.append((index, (uri, offset, offset + (limit + 1 if size < 0 else size))))
        self._from_parquet(rows, refs, results)
        for (index, _), data in zip(ranges, read_ranges([wanted for _, wanted in ranges]), strict=True):
            results[index] = _checked(data, refs[index]["size"], limit)  # type: ignore[index]
        return results

    def _from_parquet(
        self, rows: dict[str, list[int]], refs: Sequence[dict | None], results: list[bytes | Reason]
    ) -> None:
        self._parquet_images = self._parquet_images or parquet.ImageReader(self.config.columns.image)
        for uri, indices in rows.items():
            numbers = {index: refs[index]["offset"] for index in indices}  # type: ignore[index]
            found = self._parquet_images.read(uri, list(numbers.values()))
            for index, number in numbers.items():
                results[index] = found[number]


def _checked(data: bytes | Exception, size: int, limit: int) -> bytes | Reason:
    if isinstance(data, FileNotFoundError):
        return Reason.MISSING_IMAGE
    if isinstance(data, Exception) and not isinstance(data, OSError):
        raise data  # no credentials, a bug: not the image's fault
    if isinstance(data, OSError) or 0 < len(data) < size:
        return Reason.IMAGE_UNREADABLE
    if len(data) > limit:
        return Reason.IMAGE_TOO_MANY_BYTES
    return data or Reason.IMAGE_EMPTY


def _format_of(name: str) -> Format | None:
    return next((form for form in FORMATS if name.lower().endswith(form.suffixes)), None)


def _of_one_format(files: list[File], uri: str) -> tuple[Format, list[File]]:
    """Return the format that the files share and those that are of it."""
    kinds = {file: form for file in files if (form := _format_of(file.name)) is not None}
    tars = {file.name.partition(".tar")[0] for file, form in kinds.items() if form is FORMATS[0]}
    # img2dataset writes NAME.parquet, its log of the tar, beside NAME.tar
    kinds = {file: form for file, form in kinds.items() if form is FORMATS[0] or not _is_log_of(file.name, tars)}
    counts = Counter(form.name for form in kinds.values())
    if not counts:
        endings = ", ".join(suffix for form in FORMATS for suffix in form.suffixes)
        raise RaylabError(f"{uri}: none of {len(files)} files is of a kind that raylab reads ({endings}).")
    if len(counts) > 1:
        found = ", ".join(f"{count} of {name}" for name, count in counts.items())
        raise RaylabError(
            f"{uri}: files of several kinds ({found}). Name one kind with a glob, such as {uri}/*.parquet"
        )
    return next(iter(kinds.values())), list(kinds)


def _is_log_of(name: str, tars: set[str]) -> bool:
    return name.lower().endswith(parquet.SUFFIXES) and name.rpartition(".")[0] in tars
