"""WebDataset tars as img2dataset writes them: ``key.jpg``, ``key.txt``, ``key.json`` one after the other.

Only headers and the small text members are read; image data are passed over. A member's key is its path up to the first
dot of its last part, as in the webdataset package, and members with one key that follow each other are one row.

* Image: the member whose extension is an image's (``jpg``, ``png``, ``webp``...); a plain extension goes before a
  longer one (``x.jpg`` before ``x.thumb.jpg``), the first before later ones.
* Caption: the JSON member's caption key; where that is absent or null, the ``txt`` (or ``caption``) member. JSON goes
  first because it also holds the URL and the licence, so that all of a row comes from one member.
* Key: the members', not the JSON's, so that the image can be found in the tar again.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from typing import IO, Any

from raylab.errors import RaylabError
from raylab.schema import Reason
from raylab.sources.base import Columns, Shard, SourceConfig
from raylab.sources.filesystem import File, open_file
from raylab.sources.rows import Record, Refusal, as_key, parse_object

SUFFIXES = (".tar",)
COMPRESSED_SUFFIXES = (".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".tar.zst", ".tar.lz4")
IMAGE_EXTENSIONS = frozenset(("jpg", "jpeg", "jfif", "png", "webp", "gif", "bmp", "tif", "tiff", "avif", "heic"))
TEXT_EXTENSIONS = ("txt", "caption")

MAX_TEXT_BYTES = 16 * 2**20
"""A text or JSON member above this is not read."""


def list_shards(file: File, config: SourceConfig) -> list[Shard]:
    """Return the tar as one shard.

    Raises:
        RaylabError: the tar is compressed, so that images could not be read one by one.
    """
    if file.name.lower().endswith(COMPRESSED_SUFFIXES):
        raise RaylabError(
            f"{file.uri}: a compressed tar has no positions to read single images from, and images do not get smaller. "
            "Decompress it first (gunzip, bunzip2, unxz, zstd -d)."
        )
    return [Shard(name=file.name, uri=file.uri, version=file.version, size=file.size)]


def read_records(shard: Shard, config: SourceConfig) -> Iterator[Record]:
    """Yield one record for each key of the tar.

    A member whose data are cut off makes its row a `TRUNCATED_SHARD` record, and the tar ends there.

    Raises:
        tarfile.ReadError: no tar, or one that breaks off between two members; the rows before it were yielded.
    """
    if not shard.size:
        return
    with open_file(shard.uri) as stream:
        group: _Group | None = None
        for member in _members(stream):
            if isinstance(member, tarfile.ReadError):
                if group is not None:
                    yield group.record(config.columns)
                raise member
            key, extension = _split(member.name)
            if group is not None and (group.key != key or extension in group.members):
                yield group.record(config.columns)
                group = None
            if member.offset_data + member.size > shard.size:
                yield Record(key, problem=(Reason.TRUNCATED_SHARD, f"{shard.uri} ends inside {member.name}"))
                return
            group = group or _Group(key, shard.uri)
            group.add(extension, member, stream)
        if group is not None:
            yield group.record(config.columns)


def _split(name: str) -> tuple[str, str]:
    """Return a member's key and its extension in lower case."""
    folder, slash, base = name.rpartition("/")
    stem, _, extension = base.partition(".")
    return folder + slash + stem, extension.lower()


def _members(stream: IO[bytes]) -> Iterator[tarfile.TarInfo | tarfile.ReadError]:
    """Yield the regular files of a tar, or of several put one after the other; at a break, why there are no more.

    tarfile takes a damaged header for the end of the tar, and so would drop the rest without a word: the place where it
    stops is looked at here.
    """
    start: int | None = 0
    try:
        while start is not None:
            stream.seek(start)
            archive = tarfile.TarFile(fileobj=stream, encoding="utf-8", errors="backslashreplace")
            while (member := archive.next()) is not None:
                archive.members = []  # type: ignore[attr-defined]  # or tarfile keeps every header it has seen
                hidden = member.name.rpartition("/")[2].startswith(".")
                if member.isreg() and not member.issparse() and not hidden:
                    yield member
            start = _after_end(stream, archive.offset)
    except tarfile.ReadError as error:
        yield error
    except (tarfile.TarError, ValueError, OverflowError) as error:
        yield tarfile.ReadError(f"bad header: {error}")


def _after_end(stream: IO[bytes], offset: int) -> int | None:
    """Check the end-of-archive mark at `offset`; return where another tar starts behind it, None where none does.

    Raises:
        tarfile.ReadError: there is no such mark.
    """
    stream.seek(offset)
    block = stream.read(tarfile.BLOCKSIZE)
    if not block:
        raise tarfile.ReadError(f"ends at byte {offset} without an end-of-archive mark")
    if block.strip(b"\0") or len(block) < tarfile.BLOCKSIZE:
        raise tarfile.ReadError(f"no valid header at byte {offset}")
    while chunk := stream.read(2**20):
        padding = len(chunk) - len(chunk.lstrip(b"\0"))
        if padding < len(chunk):
            position = stream.tell() - len(chunk) + padding
            return offset + (position - offset) // tarfile.BLOCKSIZE * tarfile.BLOCKSIZE
    return None


class _Group:
    """The members that share a key."""

    def __init__(self, key: str, uri: str) -> None:
        self.key = key
        self.members: set[str] = set()
        self._uri = uri
        self._image: tarfile.TarInfo | None = None
        self._image_is_plain = False
        self._text: bytes | None = None
        self._json: bytes | None = None
        self._problem: Refusal | None = None

    def add(self, extension: str, member: tarfile.TarInfo, stream: IO[bytes]) -> None:
        self.members.add(extension)
        if extension == "json":
            self._json = self._read(member, stream)
        elif extension in TEXT_EXTENSIONS:
            self._text = self._read(member, stream)
        elif extension.rpartition(".")[2] in IMAGE_EXTENSIONS:
            plain = extension in IMAGE_EXTENSIONS
            if self._image is None or (plain and not self._image_is_plain):
                self._image, self._image_is_plain = member, plain

    def _read(self, member: tarfile.TarInfo, stream: IO[bytes]) -> bytes | None:
        if member.size > MAX_TEXT_BYTES:
            self._problem = (Reason.BAD_ROW, f"{member.name} has {member.size} bytes, at most {MAX_TEXT_BYTES}")
            return None
        stream.seek(member.offset_data)
        return stream.read(member.size)

    def record(self, columns: Columns) -> Record:
        """Return the group as one record."""
        fields, problem = self._fields()
        caption = fields.get(columns.caption)
        if caption is None and self._text is not None:
            caption = self._text.decode("utf-8", "surrogateescape")
        image = None
        if self._image is not None and columns.image:
            image = (self._uri, self._image.offset_data, self._image.size)
        url, licence = as_key(fields.get(columns.url)), as_key(fields.get(columns.licence))
        return Record(self.key, caption, image, url, licence, problem)

    def _fields(self) -> tuple[dict[str, Any], Refusal | None]:
        if self._json is None or self._problem:
            return {}, self._problem
        fields, problem = parse_object(self._json)
        return fields, problem
