"""OVEN's questions as pairs: the caption is a question about the picture, the truth its answer (arXiv 2302.11154).

oven:///data/oven                        oven_entity_train.jsonl and oven_query_train.jsonl of that folder
oven:///data/oven?splits=query_val       another split, or several joined by commas; only the two above are for training
oven:///data/oven?images=/data/pictures  the pictures lie elsewhere
oven:///data/own/questions.jsonl         one file of such lines, which may name their pictures in ``file``
oven://s3://bucket/oven                  on any filesystem that fsspec or pyarrow knows
oven://miniworld://?rows=2000&seed=7     the questions about the mini-world's pictures

The layout of questions and pictures is the published one; `evaluate.oven_files` describes the fields. A large file is
cut into shards of 16 MiB, and each shard looks its pictures up in the table ``ovenid2impath.csv``.
"""

from __future__ import annotations

import csv
import io
import posixpath
import re
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import parse_qsl, urlencode

import pyarrow as pa

from raylab.errors import RaylabError, nearest
from raylab.schema import Reason
from raylab.sources import tabular
from raylab.sources.base import Columns, Shard, SourceConfig
from raylab.sources.files import FileSource
from raylab.sources.filesystem import IO_ERRORS, file_name, list_files, open_file
from raylab.sources.rows import BROKEN_FILE, Record, Refusal, as_key, image_in_file, make_tables

SCHEME = "oven://"
PATHS = "ovenid2impath.csv"
"""The table of pictures: oven_id, path in the set that it was taken from."""
IMAGES = "oven_images"
"""The folder of pictures: ``<first two digits>/<oven_id><ext>``."""
TRAIN = ("entity_train", "query_train")
SPLITS = (*TRAIN, "entity_val", "query_val", "entity_test", "query_test", "human")
_LINES = Columns(image="", caption="question", key="data_id")
_IMAGE_ID = re.compile(r"[\w.-]+")


@dataclass(frozen=True)
class Address:
    """What stands in an ``oven://`` address."""

    place: str
    """A folder, a file of questions, or a ``miniworld://`` address."""
    splits: tuple[str, ...] = TRAIN
    """Of a folder or a mini-world: which questions."""
    images: str = ""
    """The folder of `PATHS` and `IMAGES`."""

    @classmethod
    def parse(cls, uri: str) -> Address:
        """Return an address's parts.

        Raises:
            RaylabError: an option that does not exist or comes twice, a split that does not exist, a relative path.
        """
        place, _, query = uri.removeprefix(SCHEME).partition("?")
        world = place.startswith("miniworld:")
        known = ("splits", "rows", "seed") if world else ("splits", "images")
        given: dict[str, str] = {}
        for name, value in parse_qsl(query, keep_blank_values=True):
            if name not in known or name in given:
                said = "is given twice" if name in given else f"is no option.{nearest(name, known)}"
                raise RaylabError(f"{uri}: {name!r} {said} Known: {', '.join(known)}.")
            given[name] = value
        splits = _splits(uri, given.pop("splits", ",".join(TRAIN)))
        if world:
            return cls(f"{place}?{urlencode(given)}", splits)
        is_file = place.lower().endswith(tabular.SUFFIXES)
        images = given.get("images") or (place.rpartition("/")[0] if is_file else place).rstrip("/")
        for path in (place, images):
            if not path.startswith("/") and "://" not in path:
                raise RaylabError(f"{uri}: {path!r} is no whole path: write {SCHEME}/data/oven, or {SCHEME}s3://...")
        return cls(place if is_file else place.rstrip("/"), splits, images)

    @property
    def files(self) -> list[str]:
        """The addresses of the files of questions."""
        if self.place.lower().endswith(tabular.SUFFIXES):
            return [self.place]
        return [f"{self.place}/oven_{split}.jsonl" for split in self.splits]


def _splits(uri: str, text: str) -> tuple[str, ...]:
    splits = tuple(text.split(","))
    for one in splits:
        if one not in SPLITS:
            raise RaylabError(f"{uri}: there is no split {one!r}.{nearest(one, SPLITS)} Known: {', '.join(SPLITS)}.")
    if len(set(splits)) < len(splits):
        raise RaylabError(f"{uri}: a split is named twice.")
    return splits


class OvenSource:
    """Questions in OVEN's files; see `sources.base.Source`.

    Args:
        config: its `uri` is described above; its `columns` are not looked at.
    """

    def __init__(self, config: SourceConfig) -> None:
        self.config = config
        self.address = Address.parse(config.uri)
        self._pictures = FileSource(replace(config, uri=self.address.images, columns=_LINES))

    def shards(self) -> list[Shard]:
        """List the shards, file after file in the order of the splits.

        Raises:
            RaylabError: a file is missing, or its lines have no ``question``.
        """
        files = [file for uri in self.address.files for file in list_files(uri)]
        lines = replace(self.config, columns=_LINES)
        return [shard for file in files for shard in tabular.list_shards(file, lines)]

    def read(self, shard: Shard) -> Iterator[pa.Table]:
        """Yield `PAIR` tables of at most `chunk_rows` rows, in file order; `truth` holds the answer's id."""
        return make_tables(self._records(shard), shard, replace(self.config, columns=replace(_LINES, image="image_id")))

    def _records(self, shard: Shard) -> Iterator[Record]:
        wanted = set()
        with suppress(*BROKEN_FILE):  # the second pass says what is wrong with the file
            wanted = {str(row.get("image_id")) for row, _ in tabular.read_rows(shard) if not row.get("file")}
        found = find_images(self.address.images, wanted) if wanted else {}
        for number, (row, problem) in enumerate(tabular.read_rows(shard)):
            yield self._record(row, problem, number, shard=shard, found=found)

    def _record(
        self, row: dict[str, Any], problem: Refusal | None, number: int, *, shard: Shard, found: dict[str, str]
    ) -> Record:
        if problem := problem or self._of_another_split(row, shard):
            return Record(f"line {number}", row.get("question"), problem=problem)
        if row.get("file"):
            image, problem = image_in_file(row["file"], shard)
        else:
            image, problem = _official(row.get("image_id"), found)
        answer = as_key(row.get("entity_id"))
        truth = None if answer is None else [answer]
        return Record(
            as_key(row.get("data_id")) or str(number), row.get("question"), image, problem=problem, truth=truth
        )

    def _of_another_split(self, row: dict[str, Any], shard: Shard) -> Refusal | None:
        """A line that calls itself another split's must not be trained on by mistake."""
        split = posixpath.basename(file_name(shard.name)).removeprefix("oven_").removesuffix(".jsonl")
        said = row.get("data_split")
        if split not in SPLITS or not said or str(said).startswith(split):
            return None
        return Reason.BAD_ROW, f"data_split {said!r} in the file of {split}"

    def image_bytes(self, refs: Sequence[dict | None]) -> list[bytes | Reason]:
        """See `files.FileSource.image_bytes`."""
        return self._pictures.image_bytes(refs)


def _official(image_id: object, found: dict[str, str]) -> tuple[tuple[str, int, int] | None, Refusal | None]:
    uri = found.get(str(image_id))
    if uri is None:
        return None, (Reason.MISSING_IMAGE, f"{image_id!r} is neither in {PATHS} nor, without it, in {IMAGES}")
    return (uri, 0, -1), None


def find_images(root: str, wanted: Collection[str]) -> dict[str, str]:
    """Return the address of each picture in the published layout, from the table of paths or by looking.

    Args:
        root: the folder that holds `IMAGES`, or that folder itself; best with `PATHS`: millions of files are slow to
            list.
        wanted: image ids; those that are not there are left out.

    Raises:
        RaylabError: neither the table nor the folder is there.
    """
    base = f"{root}/{IMAGES}" if not root.rstrip("/").endswith(IMAGES) else root.rstrip("/")
    wanted = {image_id for image_id in wanted if _IMAGE_ID.fullmatch(image_id)}
    try:
        stream = open_file(f"{root}/{PATHS}")
    except IO_ERRORS:
        stems = {posixpath.splitext(posixpath.basename(file.name))[0]: file.uri for file in list_files(base)}
        return {image_id: stems[image_id] for image_id in wanted if image_id in stems}
    with stream, io.TextIOWrapper(stream, encoding="utf-8", newline="") as text:
        return {
            row[0]: f"{base}/{row[0].rpartition('_')[2][:2]}/{row[0]}{posixpath.splitext(row[1])[1]}"
            for row in csv.reader(text)
            if len(row) == 2 and row[0] in wanted
        }


class MiniworldQuestions:
    """The questions about the mini-world's pictures, a shard for each split and each of the world's shards."""

    def __init__(self, config: SourceConfig) -> None:
        from raylab.sources.miniworld.source import MiniworldSource

        address = Address.parse(config.uri)
        self.config, self._splits = config, address.splits
        self._world = MiniworldSource(replace(config, uri=address.place))

    def shards(self) -> list[Shard]:
        """List the shards, split after split; see `miniworld.source.MiniworldSource`."""
        shards = self._world.shards()
        return [replace(one, name=f"{split}-{one.name}") for split in self._splits for one in shards]

    def read(self, shard: Shard) -> Iterator[pa.Table]:
        """Yield `PAIR` tables of at most `chunk_rows` rows; `truth` holds the answer's id."""
        return make_tables(_drawn(shard), shard, self.config)

    def image_bytes(self, refs: Sequence[dict]) -> list[bytes | Reason]:
        """Draw the pictures."""
        return self._world.image_bytes(refs)


def _drawn(shard: Shard) -> Iterator[Record]:
    from raylab.sources.miniworld.questions import questions
    from raylab.sources.miniworld.samples import sample
    from raylab.sources.miniworld.source import LICENCE, parse_uri

    split, *_, start, stop = shard.name.split("-")
    seed = parse_uri(shard.uri)["seed"]
    for index in range(int(start), int(stop)):
        row = sample(seed, index)
        for one in questions(row) if split.endswith(f"_{row.split}") else ():  # to lay out a picture takes a while
            if one.data_split.startswith(split):
                image = (one.image["uri"], one.image["offset"], one.image["size"])
                yield Record(one.data_id, one.question, image, licence=LICENCE, truth=[one.entity_id])
