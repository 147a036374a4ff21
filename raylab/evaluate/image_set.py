"""A labelled set of images: where their bytes lie, and the class of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from raylab.errors import RaylabError, nearest
from raylab.sources.base import Limits

if TYPE_CHECKING:
    from raylab.sources.base import Source

LIMITS = Limits()
"""What is accepted of evaluation images: the same as of the web's."""

OPTIONS = ("label", "title", "image", "rows")
"""What may follow the ``#`` of a data set's address."""


@dataclass(frozen=True)
class Address:
    """A data set as the command line names it: ``val.parquet#label=fine,title=name,rows=500``."""

    uri: str
    """A file, folder, glob, or ``miniworld://?rows=..&seed=..``."""
    label: str = "label"
    """Of a table: the column of the class."""
    title: str = ""
    """Of a table: the column of the class's name in words, or of a list of names; empty: the class itself."""
    image: str = ""
    """Of a table: the column of the image's bytes or path; empty: ``image`` in Parquet, ``file``, ``file_name`` or
    ``image`` in JSON lines."""
    rows: int = 0
    """Take this many images, spread evenly over the set; 0: all."""

    @classmethod
    def parse(cls, text: str) -> Address:
        """Return the parts of an address.

        Raises:
            RaylabError: an option that does not exist, or a value that does not fit.
        """
        uri, _, options = text.partition("#")
        given: dict[str, str] = {}
        for option in filter(None, options.split(",")):
            name, equals, value = option.partition("=")
            if name not in OPTIONS or not equals or not value:
                known = ", ".join(f"{known}=..." for known in OPTIONS)
                raise RaylabError(f"{text}: {option!r} is no option.{nearest(name, OPTIONS)} Known: {known}")
            given[name] = value
        rows = given.pop("rows", "0")
        if not rows.isdecimal():
            raise RaylabError(f"{text}: rows={rows} must be a whole number.")
        return cls(uri, **given, rows=int(rows))


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Images and their classes, in a fixed order. Image bytes are read only when asked for."""

    name: str
    """How tables and messages call it."""
    source: Source
    """Reads the bytes."""
    refs: Sequence[dict]
    """`schema.IMAGE_REF` values."""
    labels: Sequence[str]
    """The class of each image."""
    titles: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Class -> its names in words; a class that is missing has none but itself."""
    domains: Sequence[str] | None = None
    """The part of the set that each image belongs to, where it has parts."""

    def __len__(self) -> int:
        return len(self.refs)

    def take(self, rows: np.ndarray) -> ImageSet:
        """Return the images in these rows, in the order given."""
        domains = None if self.domains is None else [self.domains[row] for row in rows]
        refs, labels = [self.refs[row] for row in rows], [self.labels[row] for row in rows]
        return replace(self, refs=refs, labels=labels, domains=domains)

    def spread(self, rows: int) -> ImageSet:
        """Return `rows` images spread evenly over the set, or the set itself where it has no more, or `rows` is 0."""
        if not 0 < rows < len(self):
            return self
        return self.take(np.arange(rows) * len(self) // rows)

    def names_of(self, label: str) -> tuple[str, ...]:
        """Return a class's names in words."""
        return self.titles.get(label) or (label,)


def class_codes(labels: Sequence[str]) -> tuple[list[str], np.ndarray]:
    """Return the distinct classes, sorted, and int64 [n]: the number of each label's class among them."""
    if not len(labels):
        return [], np.empty(0, np.int64)
    names, codes = np.unique(np.asarray(labels, dtype=object).astype(str), return_inverse=True)
    return names.tolist(), codes.astype(np.int64)
