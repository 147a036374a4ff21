"""Opens a labelled set of images by its address, in any of the layouts that benchmarks come in.

    folder/<class>/<image>                    a folder of classes
    folder/<category>_<original>.jpg          flat, as GPR1200: ordered by category number
    folder/metadata.jsonl, or any .jsonl      a line an image: file, and the class
    *.parquet                                 a row an image: bytes or path, and the class
    miniworld://?rows=2000&seed=7             drawn; the class is the one entity of single-entity pictures

Options follow a ``#``: see `image_set.Address`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from raylab.errors import RaylabError, nearest
from raylab.evaluate.image_set import LIMITS, Address, ImageSet
from raylab.evaluate.lines import read_lines
from raylab.sources.base import Columns, Source, SourceConfig
from raylab.sources.filesystem import File, absolute, list_files, open_file, resolve_inside

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp")
PARQUET_SUFFIXES = (".parquet", ".pq")

GPR1200_IMAGES = 12_000
GPR1200_DOMAINS = ("landmarks", "inaturalist", "sketch", "instre", "sop", "faces")
"""Google Landmarks v2, iNaturalist, ImageNet-Sketch, INSTRE, Stanford Online Products, IMDB-WIKI: 2,000 rows each, in
the order of the category numbers (arXiv 2111.13122; the rows as its published code has them)."""

_FLAT_NAME = re.compile(r"(\d+)_[^/]*")


def open_images(text: str) -> ImageSet:
    """Open a labelled set of images.

    Args:
        text: its address, see `image_set.Address`.

    Raises:
        RaylabError: nothing is there, a column is missing (the message lists those present), no image is labelled.
    """
    address = Address.parse(text)
    if address.uri.startswith("miniworld:"):
        found = _miniworld(address)
    else:
        files = list_files(absolute(address.uri))
        found = _layout(files)(address, files)
    if not len(found):
        raise RaylabError(f"{text}: no labelled image there.")
    return found.spread(address.rows)


def _layout(files: list[File]) -> Callable[[Address, list[File]], ImageSet]:
    names = [file.name for file in files]
    if any(name.lower().endswith(PARQUET_SUFFIXES) for name in names):
        return _parquet
    if any(name.lower().endswith(".jsonl") for name in names):
        return _jsonl
    pictures = [name for name in names if name.lower().endswith(IMAGE_SUFFIXES)]
    if pictures and all(_FLAT_NAME.fullmatch(name) for name in pictures):
        return _flat
    return _classes


def _classes(address: Address, files: list[File]) -> ImageSet:
    pictures = [file for file in files if file.name.lower().endswith(IMAGE_SUFFIXES)]
    loose = [file.name for file in pictures if "/" not in file.name]
    if not pictures or loose:
        found = f"{loose[0]} lies in no class's folder" if loose else f"none of {len(files)} files is an image"
        raise RaylabError(f"{address.uri}: {found}. Wanted: <class>/<image>, a .parquet or a .jsonl file.")
    labels = [file.name.partition("/")[0] for file in pictures]
    titles = {label: (label.replace("_", " "),) for label in labels}
    return ImageSet(address.uri, _files(address.uri), [_whole(file.uri) for file in pictures], labels, titles)


def _flat(address: Address, files: list[File]) -> ImageSet:
    pictures = [file for file in files if file.name.lower().endswith(IMAGE_SUFFIXES)]
    pictures.sort(key=lambda file: (_category(file), file.name))
    labels = [str(_category(file)) for file in pictures]
    domains = None
    if len(pictures) == GPR1200_IMAGES:
        part = GPR1200_IMAGES // len(GPR1200_DOMAINS)
        domains = [GPR1200_DOMAINS[row // part] for row in range(GPR1200_IMAGES)]
    refs = [_whole(file.uri) for file in pictures]
    return ImageSet(address.uri, _files(address.uri), refs, labels, domains=domains)


def _category(file: File) -> int:
    found = _FLAT_NAME.fullmatch(file.name)
    assert found  # `_layout` looked
    return int(found[1])


def _parquet(address: Address, files: list[File]) -> ImageSet:
    image = address.image or "image"
    refs: list[dict] = []
    labels: list[str] = []
    titles: dict[str, tuple[str, ...]] = {}
    for file in (file for file in files if file.name.lower().endswith(PARQUET_SUFFIXES)):
        with open_file(file.uri, read_ahead=0) as stream:
            reader = _open_parquet(stream, file.uri)
            has_paths = _is_text(_column(reader.schema_arrow, image, "image", file.uri).type)
            wanted = dict.fromkeys([address.label, address.title or address.label, *([image] if has_paths else [])])
            for name in wanted:
                _column(reader.schema_arrow, name, "title" if name == address.title else "label", file.uri)
            rows = reader.read(columns=list(wanted)).to_pylist()
        root = file.uri.removesuffix(file.name)
        for number, row in enumerate(rows):
            if row[address.label] is not None:
                in_file = {"uri": file.uri, "offset": number, "size": -1}
                refs.append(_named(row[image], file.uri, root) if has_paths else in_file)
                labels.append(str(row[address.label]))
                _note_title(titles, labels[-1], row.get(address.title))
    return ImageSet(address.uri, _files(address.uri, image), refs, labels, titles)


def _open_parquet(stream: Any, uri: str) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(stream)
    except (pa.ArrowException, OSError) as error:
        raise RaylabError(f"{uri}: no Parquet file that can be read: {error}") from error


def _column(schema: pa.Schema, name: str, option: str, uri: str) -> pa.Field:
    if name not in schema.names:
        raise _no_column(uri, name, option, schema.names)
    return schema.field(name)


def _no_column(uri: str, name: str, option: str, present: Iterable[str]) -> RaylabError:
    names = list(present)
    return RaylabError(
        f"{uri}: no {name!r} for the {option}; present: {', '.join(names)}.{nearest(name, names)} "
        f"Name it behind the address: {uri}#{option}=COLUMN"
    )


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _jsonl(address: Address, files: list[File]) -> ImageSet:
    refs: list[dict] = []
    labels: list[str] = []
    titles: dict[str, tuple[str, ...]] = {}
    for file in (file for file in files if file.name.lower().endswith(".jsonl")):
        root = file.uri.removesuffix(file.name)
        for where, row in read_lines(file.uri):
            image = address.image or next((key for key in ("file", "file_name", "image") if key in row), "file")
            for name, option in ((image, "image"), (address.label, "label"), (address.title or image, "title")):
                if name not in row:
                    raise _no_column(where, name, option, row)
            if row[address.label] is not None:
                refs.append(_named(row[image], file.uri, root))
                labels.append(str(row[address.label]))
                _note_title(titles, labels[-1], row.get(address.title))
    return ImageSet(address.uri, _files(address.uri), refs, labels, titles)


def _note_title(titles: dict[str, tuple[str, ...]], label: str, value: object) -> None:
    if label not in titles and value:
        names = value if isinstance(value, list) else [value]
        titles[label] = tuple(str(name) for name in names)


def _named(path: object, table_uri: str, root: str) -> dict:
    """Return the reference to the image that a table names; one without a place inside the root leads nowhere."""
    uri = resolve_inside(path, table_uri, root) if isinstance(path, str) and path else None
    return _whole(uri)


def _whole(uri: str | None) -> dict:
    return {"uri": uri, "offset": 0, "size": -1}


def _files(uri: str, image: str = "image") -> Source:
    from raylab.sources.files import FileSource

    return FileSource(SourceConfig(uri=uri, columns=Columns(image=image), limits=LIMITS))


def _miniworld(address: Address) -> ImageSet:
    from raylab.sources.miniworld.entities import BY_ID
    from raylab.sources.miniworld.samples import sample
    from raylab.sources.miniworld.source import MiniworldSource, parse_uri

    world = parse_uri(address.uri)
    samples = [sample(world["seed"], index) for index in range(world["rows"])]
    single = [one for one in samples if len(one.entity_ids) == 1]
    labels = [one.entity_ids[0] for one in single]
    titles: Mapping[str, tuple[str, ...]] = {label: (BY_ID[label].title,) for label in labels}
    source = MiniworldSource(SourceConfig(uri=address.uri))
    return ImageSet(address.uri, source, [one.image_ref for one in single], labels, titles)
