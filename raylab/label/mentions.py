"""Step 1: the spans of a caption that may name an entity (MOFI section 1.2).

Two finders are joined. spaCy's named-entity recogniser sees names that no catalogue holds; the alias index sees what a
catalogue holds, whatever the case or the grammar of an alt-text. Where their spans meet:

* the same span is one mention, ``ner+alias``, with the recogniser's label;
* spans that cross: the longer one stays, of two equally long ones the alias;
* an alias that contains recognised spans swallows them (*University of* [*Chicago*]);
* a recognised span that contains aliases stays, and so do the aliases, because recognisers take whole Title Case
  captions for one name; but not inside a person, where a known surname within an unknown full name is somebody else.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from raylab.assets import fetch
from raylab.errors import RaylabError
from raylab.kb.catalog import Catalog
from raylab.kb.kinds import NER_KINDS, Kind
from raylab.label.evidence import note_model
from raylab.label.step import StepContext
from raylab.schema import MENTION, alive, set_column

if TYPE_CHECKING:
    from spacy.language import Language
    from spacy.tokens import Doc, Span

STEP = "mentions"
_DETERMINERS = frozenset({"the", "a", "an"})
_POSSESSIVES = ("'s", "’s", "'", "’")


@dataclass(frozen=True)
class MentionsConfig:
    """How mentions are found."""

    spacy: str = "en_core_web_sm"
    """An installed spaCy pipeline or the path of one; it must hold a named-entity recogniser."""
    aliases_only: bool = False
    """Do without spaCy: the alias index alone, ten times as fast."""
    skip_labels: tuple[str, ...] = ("CARDINAL", "DATE", "MONEY", "ORDINAL", "PERCENT", "QUANTITY", "TIME")
    """Recognised spans with these labels are not mentions (numbers and dates name no entity that a picture shows)."""
    max_mentions: int = 100
    """More mentions than this in one caption are cut off at its end."""
    spacy_batch: int = 256
    """Captions in one call of the recogniser."""

    def build(self, context: StepContext) -> Mentions:
        """Load the pipeline and map the alias index.

        Raises:
            RaylabError: the pipeline is not installed, or recognises no entities; the knowledge base cannot be opened.
        """
        catalog = Catalog.open(context.kb)
        return Mentions(self, catalog, None if self.aliases_only else Recogniser.load(self.spacy, self))


class Spans(NamedTuple):
    """Spans of a batch in reading order, one entry each."""

    row: NDArray[np.int64]
    """The caption's number in the batch."""
    start: NDArray[np.int64]
    end: NDArray[np.int64]
    """Character offsets into the caption, end exclusive."""
    label: NDArray[np.object_]
    """The recogniser's type, or None."""
    source: NDArray[np.object_]
    """``ner``, ``alias`` or ``ner+alias``."""

    def take(self, which: NDArray) -> Spans:
        """Return the spans at these places, or where this mask holds."""
        return Spans(*(column[which] for column in self))


class Mentions:
    """The step: fills `mentions` with spans in reading order."""

    def __init__(self, config: MentionsConfig, catalog: Catalog, recogniser: Recogniser | None) -> None:
        self.config = config
        self._catalog = catalog
        self._recogniser = recogniser
        self._model = f"kb@{catalog.info.fingerprint}"
        if recogniser is not None:
            self._model = f"{recogniser.name} {self._model}"

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Return `batch` with the mentions of every caption still in the flow; an empty list where there are none."""
        rows = np.flatnonzero(alive(batch).to_numpy())
        captions = pc.fill_null(batch["caption"].take(pa.array(rows)), "").combine_chunks()
        spans = self._alias_spans(captions)
        if self._recogniser is not None:
            spans = join(self._recogniser(captions.to_pylist()), spans)
        place = np.arange(len(spans.row)) - np.searchsorted(spans.row, spans.row)
        spans = spans.take(place < self.config.max_mentions)
        return note_model(_with_mentions(batch, rows, _lists(captions, spans)), STEP, self._model)

    def _alias_spans(self, captions: pa.Array) -> Spans:
        found = self._catalog.aliases.match(captions)
        size = len(found.row)
        return Spans(
            found.row.astype(np.int64),
            found.start.astype(np.int64),
            found.end.astype(np.int64),
            _repeat(None, size),
            _repeat("alias", size),
        )


class Recogniser:
    """A spaCy pipeline, cut down to what its named-entity recogniser needs.

    Attributes:
        name: ``spacy:<pipeline>-<version>@<hash of its files>``.
    """

    def __init__(self, nlp: Language, name: str, config: MentionsConfig) -> None:
        self.name = name
        self._nlp = nlp
        self._config = config

    @classmethod
    def load(cls, pipeline: str, config: MentionsConfig) -> Recogniser:
        """Load an installed pipeline by name, or one in a folder.

        Raises:
            RaylabError: it is not installed, or has no component that recognises entities.
        """
        import spacy

        try:
            nlp = spacy.load(fetch(pipeline))
        except (OSError, ValueError) as error:
            raise RaylabError(_missing(pipeline, error)) from error
        needed = _needed(nlp)
        if not needed:
            raise RaylabError(
                f"the spaCy pipeline {pipeline!r} recognises no entities (components: {', '.join(nlp.pipe_names)}): "
                "set mentions.spacy to one with an `ner` component, or mentions.aliases_only to do without."
            )
        for component in nlp.component_names:
            if component not in needed:
                nlp.remove_pipe(component)
        meta = nlp.meta
        title = f"spacy:{meta['lang']}_{meta['name']}-{meta['version']}@{_files_hash(Path(nlp.path))}"
        return cls(nlp, title, config)

    def __call__(self, captions: list[str]) -> Spans:
        """Return the recognised spans, trimmed of determiners and possessives."""
        docs = self._nlp.pipe(captions, batch_size=self._config.spacy_batch)
        found = [(row, *span) for row, doc in enumerate(docs) for span in self._spans(doc)]
        offsets = np.array([span[:3] for span in found], np.int64).reshape(-1, 3)
        labels = np.array([span[3] for span in found], dtype=object)
        row, start, end = offsets.T
        return Spans(row, start, end, labels, _repeat("ner", len(found)))

    def _spans(self, doc: Doc) -> Iterator[tuple[int, int, str]]:
        for span in doc.ents:
            if span.label_ not in self._config.skip_labels:
                start, end = _trimmed(span)
                if end > start:
                    yield start, end, span.label_


def join(ner: Spans, alias: Spans) -> Spans:
    """Join recognised and alias spans by the rules at the head of this module.

    Args:
        ner: in reading order, not overlapping one another.
        alias: likewise.
    """
    n, a = _overlaps(ner, alias)
    same = (ner.start[n] == alias.start[a]) & (ner.end[n] == alias.end[a])
    n_longer = (ner.end[n] - ner.start[n]) > (alias.end[a] - alias.start[a])
    n_contains = (ner.start[n] <= alias.start[a]) & (alias.end[a] <= ner.end[n]) & ~same
    person = np.array([NER_KINDS.get(label) == Kind.PERSON for label in ner.label], bool)
    keep_ner, keep_alias = np.ones(len(ner.row), bool), np.ones(len(alias.row), bool)
    keep_alias[a[n_longer & (~n_contains | person[n])]] = False
    keep_ner[n[~n_longer & keep_alias[a]]] = False
    label, source = alias.label.copy(), alias.source.copy()
    label[a[same]], source[a[same]] = ner.label[n[same]], "ner+alias"
    left, right = ner.take(keep_ner), alias._replace(label=label, source=source).take(keep_alias)
    joined = Spans(*(np.concatenate(columns) for columns in zip(left, right, strict=True)))
    return joined.take(np.lexsort((-joined.end, joined.start, joined.row)))


def _repeat(value: str | None, size: int) -> NDArray[np.object_]:
    return np.array([value] * size, dtype=object)


def _overlaps(ner: Spans, alias: Spans) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the pairs (recognised span, alias span) that share a character."""
    width = 1 + max(int(ner.end.max(initial=0)), int(alias.end.max(initial=0)))
    first = np.searchsorted(ner.row * width + ner.end, alias.row * width + alias.start, side="right")
    last = np.searchsorted(ner.row * width + ner.start, alias.row * width + alias.end, side="left")
    count = np.maximum(last - first, 0)
    a = np.repeat(np.arange(len(alias.row)), count)
    n = np.repeat(first, count) + np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
    return n, a


def _lists(captions: pa.Array, spans: Spans) -> pa.ListArray:
    """Return one list of `MENTION` a caption."""
    texts = captions.to_pylist()
    names = [
        texts[r][s:e] for r, s, e in zip(spans.row.tolist(), spans.start.tolist(), spans.end.tolist(), strict=True)
    ]
    columns = [
        pa.array(spans.start, pa.int32()),
        pa.array(spans.end, pa.int32()),
        pa.array(names, pa.string()),
        pa.array(spans.label, pa.string()),
        pa.array(spans.source, pa.string()),
    ]
    values = pa.StructArray.from_arrays(columns, fields=list(MENTION))
    offsets = np.concatenate([[0], np.cumsum(np.bincount(spans.row, minlength=len(texts)))]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), values, type=pa.list_(MENTION))


def _with_mentions(batch: pa.Table, rows: NDArray[np.int64], mentions: pa.ListArray) -> pa.Table:
    """Return `batch` with the mentions of `rows` replaced; rejected rows keep what they had."""
    if len(rows) == batch.num_rows:
        return set_column(batch, "mentions", mentions)
    place = np.arange(batch.num_rows)
    place[rows] = batch.num_rows + np.arange(len(rows))
    old = batch["mentions"]
    both = pa.chunked_array([*old.chunks, mentions], old.type)
    return set_column(batch, "mentions", both.take(pa.array(place)))


def _trimmed(span: Span) -> tuple[int, int]:
    """Return the span's character offsets without a leading determiner and a trailing possessive."""
    start, end = span.start_char, span.end_char
    if len(span) > 1 and span[0].lower_ in _DETERMINERS:
        start = span[1].idx
    text = span.doc.text[start:end]
    mark = next((mark for mark in _POSSESSIVES if text.endswith(mark)), "")
    return start, start + len(text.removesuffix(mark).rstrip())


def _needed(nlp: Language) -> set[str]:
    """Return the components that write `doc.ents` and those whose output they listen to."""
    writers = {name for name in nlp.pipe_names if "doc.ents" in nlp.get_pipe_meta(name).assigns}
    upstream: set[str] = set()
    for name in writers:
        model = getattr(nlp.get_pipe(name), "model", None)
        for node in model.walk() if model is not None else ():
            heard = getattr(node, "upstream_name", None)
            upstream |= {heard} if heard in nlp.pipe_names else set()
            if heard == "*":
                upstream |= {other for other in nlp.pipe_names if other in ("tok2vec", "transformer")}
    return writers | upstream


def _files_hash(folder: Path) -> str:
    """Return 12 hex digits that depend on the name and content of every file in `folder`."""
    digest = hashlib.blake2b(digest_size=6)
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts):
        digest.update(path.relative_to(folder).as_posix().encode() + b"\0")
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "blake2b").digest())
    return digest.hexdigest()


def _missing(pipeline: str, error: Exception) -> str:
    import spacy

    installed = ", ".join(sorted(spacy.util.get_installed_models())) or "none"
    return (
        f"the spaCy pipeline {pipeline!r} cannot be loaded ({str(error).splitlines()[0]}). Install it with "
        f"`python -m spacy download {pipeline}`, or set mentions.spacy to the name or path of another one (installed: "
        f"{installed}), or set mentions.aliases_only to find mentions by the alias index alone."
    )
