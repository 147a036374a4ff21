"""CSV and TSV (RFC 4180) read so that one broken line costs one row.

A quote that is opened and never closed makes a CSV reader take the lines behind it for one field, up to the next
quote or the end of the file. Here a row that spans lines and has not as many fields as the header is given up with
its first line alone, and reading goes on with the second.

TSV comes in two dialects: quoted like CSV, and without any quoting (IANA text/tab-separated-values). A TSV line whose
strictly quoted reading fails or does not fit the header is taken as it stands.
"""

from __future__ import annotations

import csv
import io
from collections import deque
from collections.abc import Iterator
from typing import IO

import pyarrow as pa
import pyarrow.csv as pa_csv

from raylab.errors import RaylabError

MAX_LINE_BYTES = 64 * 2**20
"""A longer line is a broken one; the rest of it is passed over."""

MAX_ROW_CHARS = 16 * 2**20
"""A row may have this many characters; an open quote is searched for its end as far."""

_Parsed = tuple[list[str] | None, str | None]
"""A row's fields, or None and what is wrong."""


def read_lines(stream: IO[bytes], span: int | None = None) -> Iterator[bytes]:
    """Yield the lines of `stream`, or those that begin in its next `span` bytes.

    Of a line above the cap, the first `MAX_LINE_BYTES` + 1 bytes come.
    """
    buffered = io.BufferedReader(stream, 2**20)  # type: ignore[type-var]  # fsspec's own readline has no limit
    position = 0
    while (span is None or position < span) and (line := buffered.readline(MAX_LINE_BYTES + 1)):
        position += len(line)
        rest = line
        while len(rest) > MAX_LINE_BYTES and not rest.endswith(b"\n"):
            rest = buffered.readline(MAX_LINE_BYTES + 1)
            position += len(rest)
        yield line


class CsvLines:
    """The rows of one CSV or TSV stream.

    Args:
        stream: bytes, UTF-8; what is not UTF-8 is kept as lone surrogates.
        delimiter: ``","`` or a tab.
        name: the file's name, for messages.

    Attributes:
        header: the names in the first line; empty for an empty stream.

    Raises:
        RaylabError: the header is not UTF-8, cannot be read, or names a column twice.
    """

    def __init__(self, stream: IO[bytes], delimiter: str, name: str) -> None:
        self._stream = read_lines(stream)
        self._delimiter = delimiter
        self._given_back: deque[str] = deque()
        self.header: list[str] = []
        self.header = self._read_header(name)

    def _read_header(self, name: str) -> list[str]:
        header = next((fields for fields, _ in self._parsed()), [])
        if header is None or "\0" in "".join(header):  # UTF-16 is full of NULs
            raise RaylabError(f"{name}: the first line is no CSV header in UTF-8. Save the table as UTF-8.")
        if header:
            header[0] = header[0].removeprefix("\ufeff")
        for column in header:
            if header.count(column) > 1:
                raise RaylabError(f"{name}: the header names {column!r} twice. Rename one of them.")
        return header

    def __iter__(self) -> Iterator[tuple[dict[str, str], str | None]]:
        """Yield each row as column -> cell, or an empty one and what is wrong with its line."""
        for fields, error in self._parsed():
            yield (dict(zip(self.header, fields)) if fields is not None else {}), error

    def _parsed(self) -> Iterator[tuple[list[str] | None, str | None]]:
        while (line := self._next()) is not None:
            if not line.strip("\r\n"):
                continue
            lines = [line]
            fields, error = self._fields(lines)
            if self.header and fields is not None and len(fields) != len(self.header):
                error = f"{len(fields)} fields where the header has {len(self.header)}: {line[:80]!r}"
                fields = None
            if fields is None:
                self._given_back.extendleft(reversed(lines[1:]))
            yield fields, error

    def _fields(self, lines: list[str]) -> _Parsed:
        """Parse the row that begins with `lines[0]`; further lines that it takes are added to `lines`."""
        line = lines[0]
        if len(line) > MAX_ROW_CHARS:
            return None, f"a line of more than {MAX_ROW_CHARS} characters: {line[:80]!r}"
        plain = line.rstrip("\r\n").split(self._delimiter)
        if '"' not in line:
            return plain, None
        if self._delimiter == ",":
            return self._quoted_fields(lines)
        if not any(field.startswith('"') for field in plain):
            return plain, None
        fields, error = self._quoted_fields(lines)
        if fields is not None and len(fields) == (len(self.header) or len(fields)):
            return fields, error
        self._given_back.extendleft(reversed(lines[1:]))
        del lines[1:]
        return plain, None

    def _next(self) -> str | None:
        if self._given_back:
            return self._given_back.popleft()
        line = next(self._stream, None)
        return None if line is None else line.decode("utf-8", "surrogateescape")

    def _quoted_fields(self, lines: list[str]) -> _Parsed:
        try:
            # strict where there is a plain reading to fall back to
            reader = csv.reader(self._pull(lines), delimiter=self._delimiter, strict=self._delimiter != ",")
            return next(reader), None
        except csv.Error as error:
            if "field limit" in str(error):
                return self._large_fields(lines)
            return None, f"{error}: {lines[0][:80]!r}"

    def _pull(self, lines: list[str]) -> Iterator[str]:
        """Yield the first of `lines`, then further ones of the stream, which are added to `lines`."""
        yield lines[0]
        size = len(lines[0])
        while size <= MAX_ROW_CHARS and (line := self._next()) is not None:
            lines.append(line)
            size += len(line)
            yield line
        raise csv.Error("a quote is never closed")

    def _large_fields(self, lines: list[str]) -> _Parsed:
        """Parse a row with a field above the csv module's limit, which is the whole process's and so stays."""
        size, quotes = sum(map(len, lines)), sum(line.count('"') for line in lines)
        while quotes % 2 and size <= MAX_ROW_CHARS and (line := self._next()) is not None:
            lines.append(line)
            size, quotes = size + len(line), quotes + line.count('"')
        if quotes % 2:
            return None, f"a quote is never closed: {lines[0][:80]!r}"
        try:
            return _parse_with_arrow("".join(lines), self._delimiter, len(self.header)), None
        except (pa.ArrowException, ValueError) as error:
            return None, f"{error}: {lines[0][:80]!r}"


def _parse_with_arrow(row: str, delimiter: str, width: int) -> list[str]:
    """Parse one row with pyarrow, which has no limit on a field's length.

    Raises:
        ValueError, pa.ArrowException: it is not one row of `width` fields.
    """
    data = row.encode("utf-8", "surrogateescape")
    table = pa_csv.read_csv(
        pa.BufferReader(data),
        pa_csv.ReadOptions(use_threads=False, block_size=len(data) + 1, autogenerate_column_names=True),
        pa_csv.ParseOptions(delimiter=delimiter, newlines_in_values=True),
        pa_csv.ConvertOptions(check_utf8=False, column_types={f"f{index}": pa.binary() for index in range(width)}),
    )
    if table.shape != (1, width):
        raise ValueError(f"{table.num_rows} rows of {table.num_columns} fields")
    return [column[0].as_py().decode("utf-8", "surrogateescape") for column in table.columns]
