"""Step 2: the entities that a mention may name, each with a prior p(entity | alias) (MOFI section 1.2).

Three sources, in this order:

1. the mention as it stands, in the alias index; there a person's surname alone is a name too (``partial``);
2. a recognised span that the index does not hold is tried without title, possessive or hyphens, then by its last word:
   what it finds is as likely as `fallback_weight` says, and the rest of the probability stays with "none of these";
3. a one-word mention that is part of a longer mention of the same caption ("Simmons" beside "Phil Simmons") may mean
   what the longer one means.

Where the recogniser has not seen a name, a capital tells little in Title Case: of a word that the knowledge base's own
text writes small ("Stock", "Candy"), owners with a capital get only the part that the text writes large.

A caption whose mentions find nobody is not rejected here: the neighbours step may still bring candidates.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from raylab.kb.aliases import FREE, IN_LOWER, IN_UPPER, LOWER_CASE, TITLE_CASE, UPPER_CASE
from raylab.kb.catalog import Catalog
from raylab.kb.context import Tokens, tokens
from raylab.kb.kinds import Kind
from raylab.label.evidence import append_candidates, note_model
from raylab.label.step import StepContext
from raylab.schema import CANDIDATE, alive

STEP = "candidates"
_ABBREVIATED = Kind.PERSON | Kind.ORGANISATION
"""Of these a text goes on with a part of the name; "York" beside "New York" is another place."""
_TITLES = (
    "a an the mr mrs ms miss dr prof sir dame lord lady st president senator sen governor gov mayor king queen prince "
    "princess emperor pope father sister captain capt general gen colonel col major sgt rev judge coach actor actress"
)
_BEFORE_NAMES = frozenset(_TITLES.split())


@dataclass(frozen=True)
class CandidatesConfig:
    """How entities are looked up."""

    max_per_mention: int = 10
    """The likeliest owners of an alias that are considered."""
    min_share: float = 0.01
    """Owners with less of the prior than this share of the likeliest one's are not: no context makes up for it."""
    fallback_weight: float = 0.3
    """Probability left for what a changed form of a recognised span finds (our choice)."""
    last_word_weight: float = 0.1
    """The same for its last word alone: an unknown full name is mostly somebody unknown (our choice)."""
    case_mismatch: float = 0.2
    """Factor on the prior of an owner whose own spelling has another case ("Apple" for the fruit; our choice)."""
    coreference: float = 0.8
    """Probability that a word of a longer name in the same caption means what the longer name means (our choice)."""

    def build(self, context: StepContext) -> Candidates:
        """Map the knowledge base.

        Raises:
            RaylabError: it cannot be opened.
        """
        return Candidates(self, Catalog.open(context.kb))


class Found(NamedTuple):
    """Candidates of a batch, one entry each."""

    mention: NDArray[np.int64]
    """Number of the mention in the batch."""
    entity: NDArray[np.int64]
    """Row of the catalogue."""
    prior: NDArray[np.float32]
    partial: NDArray[np.bool_]

    def take(self, which: NDArray) -> Found:
        """Return the entries at these places, or where this mask holds."""
        return Found(*(column[which] for column in self))


def concatenate(parts: list[Found]) -> Found:
    """Return the entries of all `parts`, in order."""
    return Found(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))


class Mentioned(NamedTuple):
    """The mentions of a batch's living rows, one entry each, in order."""

    row: NDArray[np.int64]
    """The row of the batch."""
    place: NDArray[np.int64]
    """The mention's number in its row."""
    cased: NDArray[np.bool_]
    """Its caption has capitals and small letters, so that how the mention is written tells something."""
    values: pa.StructArray
    """`schema.MENTION`."""

    def field(self, name: str) -> pa.Array:
        """Return one field of all mentions."""
        return self.values.field(name)


class Candidates:
    """The step: fills `candidates` from the mentions; `prior` of one mention's candidates sums to 1 at most."""

    def __init__(self, config: CandidatesConfig, catalog: Catalog) -> None:
        self.config = config
        self._catalog = catalog
        self._aliases = catalog.aliases
        self._model = f"kb@{catalog.info.fingerprint}"

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Return `batch` with the candidates of every mention of the rows still in the flow."""
        mentions = mentioned(batch)
        found = self.find(mentions)
        owner = mentions.row[found.mention]
        columns = {
            "entity_id": self._catalog.take(found.entity, ("id",))["id"].combine_chunks().cast(pa.string()),
            "mention": pa.array(mentions.place[found.mention], pa.int32()),
            "source": pa.array(["alias", "partial"]).take(pa.array(found.partial.astype(np.int8))),
            "prior": pa.array(found.prior, pa.float32()),
        }
        arrays = [columns.get(field.name, pa.nulls(len(owner), field.type)) for field in CANDIDATE]
        values = pa.StructArray.from_arrays(arrays, fields=list(CANDIDATE))
        return note_model(append_candidates(batch, owner, values), STEP, self._model)

    def find(self, mentions: Mentioned) -> Found:
        """Return the candidates of some mentions, sorted by mention, likeliest first."""
        if not len(mentions.row):
            return Found(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32), np.empty(0, bool))
        surfaces = mentions.field("text")
        alias = self._aliases.lookup(surfaces)
        known = np.flatnonzero(alias >= 0)
        words = tokens(surfaces)
        case = np.where(mentions.cased, _case(surfaces), FREE)
        direct = self._owners(alias[known], known, case[known], self._doubt(mentions, words)[known])
        changed = self._fallbacks(mentions, np.flatnonzero(alias < 0))
        found = concatenate([direct, changed])
        found = self._corefer(mentions, words, found)
        return found.take(np.lexsort((found.entity, -found.prior, found.mention)))

    def _doubt(self, mentions: Mentioned, words: Tokens) -> NDArray[np.float32]:
        """Return how likely each mention is no name but a common word, 0..1; 0 where the recogniser has seen it."""
        if self._catalog.context is None:
            return np.zeros(len(mentions.row), np.float32)
        seen = pc.not_equal(mentions.field("source"), "alias").to_numpy(zero_copy_only=False)
        return np.where(seen, np.float32(0), self._catalog.context.common(words, len(seen)))

    def _owners(self, alias: NDArray, mention: NDArray, case: NDArray, doubt: NDArray) -> Found:
        """Return the likeliest owners of aliases; what the writing leaves in doubt is taken off their sum of 1.

        Args:
            alias: numbers of aliases, [n].
            mention: numbers of the mentions that they stand for, [n].
            case: how these are written, [n]; `FREE` where that tells nothing.
            doubt: how likely each is a common word, [n].
        """
        owners = self._aliases.candidates(alias)
        owner = np.repeat(np.arange(len(alias)), np.diff(owners.indptr))
        first = owners.indptr[owner]
        rank, likeliest = np.arange(len(owner)) - first, owners.priors[first]
        top = (rank < self.config.max_per_mention) & (owners.priors >= self.config.min_share * likeliest)
        top = np.flatnonzero(top)
        owner = owner[top]
        case = case[owner]
        forms = owners.forms[top]
        lower, upper = (forms & IN_LOWER) > 0, (forms & IN_UPPER) > 0
        mismatch = (case == LOWER_CASE) & ~lower | (case == TITLE_CASE) & lower | (case == UPPER_CASE) & ~upper
        prior = owners.priors[top] * np.where(mismatch, np.float32(self.config.case_mismatch), np.float32(1))
        total = np.bincount(owner, prior, minlength=len(alias))
        prior = (prior / total[owner] * np.where(lower, 1, 1 - doubt[owner])).astype(np.float32)
        return Found(mention[owner], owners.entity_rows[top], prior, owners.is_partial[top])

    def _fallbacks(self, mentions: Mentioned, missing: NDArray[np.int64]) -> Found:
        """Look up changed forms of the mentions that the index does not hold; the first form that is known counts."""
        surfaces = mentions.field("text").take(pa.array(missing)).to_pylist()
        forms = [(at, form, last) for at, surface in enumerate(surfaces) for form, last in _forms(surface)]
        at = np.array([form[0] for form in forms], np.int64)
        alias = self._aliases.lookup(pa.array([form[1] for form in forms], pa.string()))
        hits = np.flatnonzero(alias >= 0)
        at, first = np.unique(at[hits], return_index=True)
        hits = hits[first]
        config = self.config
        weights = np.array([config.last_word_weight if forms[hit][2] else config.fallback_weight for hit in hits])
        written = pa.array([forms[hit][1] for hit in hits], pa.string())
        found = self._owners(alias[hits], np.arange(len(hits)), _case(written), np.zeros(len(hits)))
        prior = (found.prior * weights[found.mention]).astype(np.float32)
        return Found(missing[at[found.mention]], found.entity, prior, np.ones(len(prior), bool))

    def _corefer(self, mentions: Mentioned, words: Tokens, found: Found) -> Found:
        """Let one-word mentions share in the candidates of a longer mention of their row that holds the word."""
        found = found.take(np.lexsort((-found.prior, found.mention)))
        short, long = _parts_of(mentions, words, self._may_be_shortened(words, found))
        if not len(short):
            return found
        share = np.float32(self.config.coreference)
        begin, end = np.searchsorted(found.mention, long), np.searchsorted(found.mention, long, side="right")
        count = end - begin
        at = np.repeat(end - np.cumsum(count), count) + np.arange(count.sum())
        borrowed = Found(np.repeat(short, count), found.entity[at], found.prior[at] * share, np.ones(len(at), bool))
        rest = np.ones(len(mentions.row), np.float32)
        rest[short] -= share
        own = found.prior * rest[found.mention]
        return _united(concatenate([found._replace(prior=own), borrowed]), len(self._catalog))

    def _may_be_shortened(self, words: Tokens, found: Found) -> NDArray[np.int64]:
        """Return the mentions of several words whose likeliest candidate a text may go on to call by one of them."""
        if self._catalog.context is None or not len(found.mention):
            return np.empty(0, np.int64)
        best = np.flatnonzero(np.diff(found.mention, prepend=-1))
        count = np.bincount(words.row, minlength=int(found.mention[-1]) + 1)
        best = best[count[found.mention[best]] > 1]
        kind = np.take(self._catalog.context.entities, found.entity[best])["kind"]
        return found.mention[best[(kind & _ABBREVIATED) > 0]]


def mentioned(batch: pa.Table) -> Mentioned:
    """Return the mentions of the rows still in the flow."""
    column = batch["mentions"].combine_chunks()
    row = pc.list_parent_indices(column).to_numpy(zero_copy_only=False).astype(np.int64)
    place = np.arange(len(row)) - np.searchsorted(row, row)
    living = alive(batch).to_numpy()[row]
    values = column.flatten()
    if not living.all():
        values = values.filter(pa.array(living))
    caption = batch["caption"]
    case = (pc.not_equal(caption, fold(caption)).fill_null(False).to_numpy() for fold in (pc.utf8_lower, pc.utf8_upper))
    cased = np.logical_and(*case)
    return Mentioned(row[living], place[living], cased[row[living]], values)


def _parts_of(
    mentions: Mentioned, words: Tokens, named: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return pairs (one-word mention, the first of the longer mentions `named` in its row that holds the word)."""
    if not len(named):
        return named, named
    row = mentions.row[words.row].astype(np.uint64)
    key = words.key + row * np.uint64(0x9E3779B97F4A7C15)  # a word of a caption
    single = np.bincount(words.row, minlength=len(mentions.row)) == 1
    capital = _case(mentions.field("text")) != LOWER_CASE
    several = np.zeros(len(single), bool)
    several[named] = True
    short, long = (single & capital)[words.row], several[words.row]
    keys, first = np.unique(key[long], return_index=True)
    holder = words.row[long][first]
    place = np.minimum(np.searchsorted(keys, key[short]), len(keys) - 1)
    pair = np.flatnonzero(keys[place] == key[short])
    part, whole = words.row[short][pair], holder[place[pair]]
    start, end = (mentions.field(name).to_numpy() for name in ("start", "end"))
    apart = (start[part] >= end[whole]) | (end[part] <= start[whole])
    return part[apart], whole[apart]


def _united(found: Found, entities: int) -> Found:
    """Add up the priors of an entity that a mention has got twice."""
    _, first, number = np.unique(found.mention * entities + found.entity, return_index=True, return_inverse=True)
    prior = np.bincount(number, found.prior, minlength=len(first)).astype(np.float32)
    return found.take(first)._replace(prior=prior)


def _case(surfaces: pa.Array) -> NDArray[np.uint8]:
    """Tell how each surface is written: `LOWER_CASE`, `UPPER_CASE` or `TITLE_CASE`."""
    lower = pc.equal(surfaces, pc.utf8_lower(surfaces)).to_numpy(zero_copy_only=False)
    upper = pc.equal(surfaces, pc.utf8_upper(surfaces)).to_numpy(zero_copy_only=False)
    return np.where(lower, LOWER_CASE, np.where(upper, UPPER_CASE, TITLE_CASE)).astype(np.uint8)


def _forms(surface: str) -> Iterator[tuple[str, bool]]:
    """Yield other forms of an unknown surface, best first, with whether it is the last word alone."""
    words = surface.replace("’", "'").replace("-", " ").replace("'s ", " ").removesuffix("'s").split()
    kept = list(words)
    while len(kept) > 1 and kept[0].strip(".").lower() in _BEFORE_NAMES:
        kept.pop(0)
    for first in range(len(kept)):
        if (form := " ".join(kept[first:])) != surface:
            yield form, first > 0 and first == len(kept) - 1
