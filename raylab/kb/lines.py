"""Lines of big text files, in pieces that tasks read side by side: plain ones by bytes, bzip2 by streams."""

from __future__ import annotations

import bz2
from collections.abc import Iterator
from itertools import pairwise
from typing import IO

import fsspec

from raylab.errors import RaylabError
from raylab.kb.records import Piece

PIECE_BYTES = 64 * 2**20
_STREAM = b"BZh91AY&SY"  # a bzip2 stream of 900 kB blocks: how pbzip2, lbzip2 and Wikidata cut their files
_READ = 2**20


def pieces(path: str, piece_bytes: int = PIECE_BYTES) -> list[Piece]:
    """Cut a file into pieces of about `piece_bytes` compressed bytes; ``.gz`` and other packed files stay whole.

    Raises:
        RaylabError: there is no such file, or it cannot be opened.
    """
    try:
        with fsspec.open(path, "rb") as file:
            size = file.seek(0, 2)
    except (OSError, ValueError, ImportError) as error:
        raise RaylabError(
            f"{path} cannot be read ({error}). Check the path; remote ones need their fsspec package."
        ) from error
    if size <= piece_bytes or path.endswith((".gz", ".xz", ".zst", ".zip")):
        return [Piece(path, size=size)]
    cuts = [*range(0, size, piece_bytes), size]
    return [Piece(path, start, end, end - start) for start, end in pairwise(cuts)]


def lines(piece: Piece) -> Iterator[bytes]:
    """Yield the lines that begin in a piece, each with its line end.

    Raises:
        RaylabError: a packed file is damaged; the message names it.
    """
    try:
        if piece.end < 0:
            with fsspec.open(piece.path, "rb", compression="infer") as file:
                yield from file
        elif piece.path.endswith(".bz2"):
            yield from _bz2_lines(piece)
        else:
            yield from _plain_lines(piece)
    except (EOFError, OSError) as error:
        raise RaylabError(f"{piece.path} is damaged or cut short ({error}): fetch it again.") from error


def _plain_lines(piece: Piece) -> Iterator[bytes]:
    with fsspec.open(piece.path, "rb") as file:
        if piece.start:
            file.seek(piece.start - 1)
            file.readline()
        position = file.tell()
        for line in file:
            if position >= piece.end:
                return
            position += len(line)
            yield line


def _bz2_lines(piece: Piece) -> Iterator[bytes]:
    """Yield the lines that begin in the streams that begin in the piece."""
    rest = b""
    skip_first = piece.start > 0  # it belongs to the piece before, which reads on for it
    with fsspec.open(piece.path, "rb") as file:
        for owned, text in _bz2_text(file, piece):
            parts = (rest + text).split(b"\n")
            if not owned:
                if len(parts) > 1 and not skip_first:
                    yield parts[0] + b"\n"
                    return
                rest = b"\n".join(parts)
                continue
            if skip_first and len(parts) > 1:
                parts, skip_first = parts[1:], False
            rest = parts.pop()
            for part in parts:
                yield part + b"\n"
    if rest and not skip_first:
        yield rest


def _bz2_text(file: IO[bytes], piece: Piece) -> Iterator[tuple[bool, bytes]]:
    """Yield the text of the streams from the piece's first on, and whether the stream begins inside the piece."""
    position = _next_stream(file, piece.start)
    if position < 0 or position >= piece.end:
        return
    file.seek(position)
    data = b""
    while True:
        unpack = bz2.BZ2Decompressor()
        owned = position < piece.end
        while not unpack.eof:
            data = data or file.read(_READ)
            if not data:
                raise EOFError("the last bzip2 stream does not end")
            position += len(data)
            text = unpack.decompress(data)
            data = b""
            if text:
                yield owned, text
        data = unpack.unused_data
        position -= len(data)
        data = data or file.read(_READ)
        if not data:
            return


def _next_stream(file: IO[bytes], start: int) -> int:
    """Return where the first stream at or after `start` begins, -1 if there is none."""
    file.seek(start)
    seen = b""
    while True:
        block = file.read(_READ)
        found = (seen + block).find(_STREAM)
        if found >= 0:
            return start - len(seen) + found
        if not block:
            return -1
        start += len(block)
        seen = (seen + block)[-len(_STREAM) + 1 :]
