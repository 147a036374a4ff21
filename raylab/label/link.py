"""Step 3: which candidate each mention means, from the text alone (MOFI section 1.3, implementable form).

A mention's candidates start at their priors. Then every mention looks at what the others of its caption probably mean
and is re-weighed, a few times over:

    q_ik  ~  p_ik^a * exp(w cos(e_ik, words_i) + k keywords_ik + c cos(e_ik, others_i) - t clash_ik)

where e_ik is the candidate's context vector, words_i the sum of the caption's words outside the mention, keywords_ik
the rare words that the candidate's description shares with them, others_i the sum over the other mentions' candidates
q_jk e_jk, and clash_ik tells that the recogniser's type and the entity's kind exclude each other. What the priors leave
of 1 belongs to "none of these" and takes part. MOFI has the prior and the coherence term; the others, the weights and
the number of rounds are our choice (`bench/linking_quality.py`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from raylab.errors import RaylabError
from raylab.kb.catalog import Catalog
from raylab.kb.context import INT8_SCALE, KEYWORDS, ContextSpace, Tokens, Words, tokens
from raylab.kb.kinds import NER_KINDS
from raylab.label.evidence import FlatCandidates, flat_candidates, note_model, replace_fields
from raylab.label.step import StepContext
from raylab.schema import Reason, alive, reject, set_column

STEP = "link"


@dataclass(frozen=True)
class LinkConfig:
    """The weights of disambiguation, fitted by hand on the tuning halves of `bench/linking_quality.py`."""

    prior: float = 1.4
    """Exponent of the prior."""
    words: float = 0.3
    """Weight of the cosine between an entity and the words around the mention."""
    keywords: float = 0.7
    """Weight of the shared rare words: their idf over the root of the caption's length in words, because a long text
    shares words with everybody."""
    coherence: float = 1.6
    """Weight of the cosine between an entity and what the other mentions mean (1/tau in MOFI)."""
    clash: float = 0.5
    """Log penalty where the recogniser says person and the entity is a place, and the like."""
    rounds: int = 2
    """Times that the mentions look at each other."""
    neighbour_mass: float = 0.3
    """Probability that the caption as a whole means one of its neighbours in the embedding space."""
    neighbour_temperature: float = 0.05
    """Turns the neighbours' cosines into shares of that probability."""
    common_word: float = 0.3
    """Salience of a common word against a name: one without a capital in a caption that has some, or in proportion one
    that the knowledge base's own text writes small ("Fashion" in Title Case)."""
    one_word: float = 0.9
    """Salience of a name of one word against a longer one."""
    later: float = 0.9
    """Salience lost with each mention before: captions name first what they show."""

    def build(self, context: StepContext) -> Link:
        """Map the knowledge base.

        Raises:
            RaylabError: it cannot be opened, or was built without context vectors.
        """
        catalog = Catalog.open(context.kb)
        if catalog.context is None:
            raise RaylabError(
                f"{context.kb} was built without context vectors, which disambiguation needs: build it again with "
                "--context."
            )
        return Link(self, catalog, catalog.context)


class Groups(NamedTuple):
    """The candidates of a batch's living rows, grouped by mention; the whole caption counts as one mention."""

    at: NDArray[np.int64]
    """[m]: place of each candidate among all of the batch; candidates of a group follow one another."""
    group: NDArray[np.int64]
    """[m], ascending: the group of each candidate."""
    first: NDArray[np.int64]
    """[groups]: where each starts."""
    row: NDArray[np.int64]
    """[groups], ascending: the row of the batch."""
    mention: NDArray[np.int64]
    """[groups]: the mention's number in its row; -1: the whole caption."""


class Link:
    """The step: fills `link_score` of every candidate and the row's `link_entity_id` and `link_score`.

    A candidate's score is its probability within its mention. The row's entity is the candidate whose score times its
    mention's salience is highest, and that product is the row's score. Rows without candidates are rejected.
    """

    def __init__(self, config: LinkConfig, catalog: Catalog, context: ContextSpace) -> None:
        self.config = config
        self._catalog = catalog
        self._context = context
        self._model = f"kb@{catalog.info.fingerprint}"

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Return `batch` disambiguated."""
        flat = flat_candidates(batch)
        groups = _groups(batch, flat)
        scores, best = flat.numbers("link_score"), np.full(batch.num_rows, -1)
        row_score = np.full(batch.num_rows, np.nan)
        if len(groups.at):
            mentions = _GroupMentions.of(batch, groups)
            q = self.probabilities(flat, groups, mentions, batch["caption"])
            scores[groups.at] = q
            value = q * self._salience(groups, mentions, batch["caption"])[groups.group]
            row = groups.row[groups.group]
            order = np.lexsort((-np.arange(len(value)), value, row))  # of equals the first
            last = np.flatnonzero(np.diff(row[order], append=batch.num_rows))
            chosen = order[last]
            best[row[chosen]], row_score[row[chosen]] = groups.at[chosen], value[chosen]
        batch = replace_fields(batch, flat, {"link_score": _float32(scores)})
        batch = self._with_best(batch, flat, best, row_score)
        reasons = [None if at >= 0 else Reason.NO_CANDIDATES for at in best.tolist()]
        return reject(note_model(batch, STEP, self._model), STEP, reasons)

    def probabilities(
        self, flat: FlatCandidates, groups: Groups, mentions: _GroupMentions, captions: pa.ChunkedArray
    ) -> NDArray[np.float64]:
        """Return q of each grouped candidate, float64 [m]: at most 1 in sum per group."""
        entity = self._catalog.rows(flat.field("entity_id").take(pa.array(groups.at)))
        records = np.take(self._context.entities, np.maximum(entity, 0))  # ten times as fast as indexing
        vectors = records["vector"].astype(np.float32) / np.float32(INT8_SCALE)
        prior, rest = self._priors(flat, groups)
        fixed = self.config.prior * np.log(np.maximum(prior, 1e-12))
        fixed += self._word_score(vectors, records["keywords"], groups, mentions, captions)
        fixed -= self.config.clash * mentions.clash(records["kind"], groups)
        rest = self.config.prior * np.log(np.maximum(rest, 1e-12))
        q = _softmax(fixed, rest, groups)
        for _ in range(self.config.rounds if self.config.coherence else 0):
            others = _others(q, vectors, groups)
            coherence = np.einsum("md,md->m", vectors, others[groups.group])
            q = _softmax(fixed + self.config.coherence * coherence, rest, groups)
        return q

    def _priors(self, flat: FlatCandidates, groups: Groups) -> tuple[NDArray, NDArray]:
        """Return each candidate's prior and what is left of 1 in each group; neighbours' cosines become priors too."""
        prior = flat.numbers("prior", 0.0)[groups.at]
        whole = groups.mention[groups.group] < 0
        share = np.exp((prior - 1) / self.config.neighbour_temperature)
        share *= self.config.neighbour_mass / np.add.reduceat(share, groups.first)[groups.group]
        prior = np.where(whole, share, prior)
        return prior, np.clip(1 - np.add.reduceat(prior, groups.first), 0, 1)

    def _word_score(
        self, vectors: NDArray, keywords: NDArray, groups: Groups, mentions: _GroupMentions, captions: pa.ChunkedArray
    ) -> NDArray[np.float64]:
        """Return how well each candidate fits the words outside its mention."""
        context = self._context
        everywhere, within = context.words(captions), context.known(mentions.words, len(mentions.text))
        around = context.centre(context.sums(everywhere)[groups.row] - context.sums(within))
        near = np.einsum("md,md->m", vectors, around[groups.group]).astype(np.float64)
        length = np.bincount(everywhere.row, minlength=everywhere.texts)[groups.row[groups.group]]
        shared = _shared_idf(context, keywords, groups, everywhere, within) / np.sqrt(length + 1)
        return self.config.words * near + self.config.keywords * shared

    def _salience(self, groups: Groups, mentions: _GroupMentions, captions: pa.ChunkedArray) -> NDArray[np.float64]:
        """Return how likely each mention is what the picture shows, before anything is known of it."""
        lower = pc.equal(mentions.text, pc.utf8_lower(mentions.text)).to_numpy(zero_copy_only=False)
        uncased = pc.equal(captions, pc.utf8_lower(captions)).fill_null(True).to_numpy()[groups.row]
        one_word = pc.equal(pc.count_substring(mentions.text, " "), 0).to_numpy(zero_copy_only=False)
        common = np.where(lower & ~uncased, 1.0, self._context.common(mentions.words, len(mentions.text)))
        salience = 1 - (1 - self.config.common_word) * common
        salience *= np.where(one_word, self.config.one_word, 1.0)
        return salience * self.config.later ** np.maximum(groups.mention, 0)

    def _with_best(
        self, batch: pa.Table, flat: FlatCandidates, best: NDArray[np.int64], score: NDArray[np.float64]
    ) -> pa.Table:
        """Return `batch` with each living row's best candidate."""
        place = pa.array(np.maximum(best, 0), mask=best < 0)
        living = alive(batch)
        new = {"link_entity_id": flat.field("entity_id").take(place), "link_score": _float32(score)}
        for name, values in new.items():
            batch = set_column(batch, name, pc.if_else(living, values, batch[name]))
        return batch


class _GroupMentions(NamedTuple):
    """What the mention of each group is."""

    text: pa.Array
    """As it stands in the caption; empty for the whole caption."""
    words: Tokens
    kind: NDArray[np.uint8]
    """`Kind` bits that the recogniser's label stands for; 0: none."""

    @classmethod
    def of(cls, batch: pa.Table, groups: Groups) -> _GroupMentions:
        column = batch["mentions"].combine_chunks()
        begin = np.append(0, np.cumsum(pc.fill_null(pc.list_value_length(column), 0).to_numpy(zero_copy_only=False)))
        whole = groups.mention < 0
        values = column.flatten().take(pa.array(begin[groups.row] + groups.mention, mask=whole))
        encoded = values.field("label").dictionary_encode()
        kinds = np.array([NER_KINDS.get(label, 0) for label in encoded.dictionary.to_pylist()] + [0], np.uint8)
        label = pc.fill_null(encoded.indices, len(kinds) - 1).to_numpy(zero_copy_only=False)
        text = pc.fill_null(values.field("text"), "")
        return cls(text, tokens(text), kinds[label])

    def clash(self, kinds: NDArray[np.uint16], groups: Groups) -> NDArray[np.bool_]:
        """Tell for each candidate whether its kinds are known and exclude what the recogniser saw."""
        wanted = self.kind[groups.group]
        return (wanted > 0) & (kinds > 0) & ((wanted & kinds) == 0)


def _groups(batch: pa.Table, flat: FlatCandidates) -> Groups:
    living = np.flatnonzero(alive(batch).to_numpy()[flat.rows])
    mention = flat.field("mention").to_numpy(zero_copy_only=False).astype(np.int64)[living]
    row = flat.rows[living]
    order = np.lexsort((mention, row))
    row, mention = row[order], mention[order]
    opens = np.ones(len(row), bool)
    opens[1:] = (row[1:] != row[:-1]) | (mention[1:] != mention[:-1])
    first = np.flatnonzero(opens)
    return Groups(living[order], np.cumsum(opens) - 1, first, row[first], mention[first])


def _softmax(logits: NDArray, rest: NDArray, groups: Groups) -> NDArray[np.float64]:
    """Return exp(logits), normalised within each group together with its "none of these"."""
    top = np.maximum(np.maximum.reduceat(logits, groups.first), rest)
    weight = np.exp(logits - top[groups.group])
    total = np.add.reduceat(weight, groups.first) + np.exp(rest - top)
    return weight / total[groups.group]


def _others(q: NDArray, vectors: NDArray[np.float32], groups: Groups) -> NDArray[np.float32]:
    """Return the unit vector of what the other mentions of its row mean, for each group; 0 where there is none."""
    own = _sums(q, vectors, groups.first)
    opens = np.flatnonzero(np.diff(groups.row, prepend=-1))
    size = np.diff(np.append(opens, len(groups.row)))
    others = np.repeat(_sums(np.ones(len(own)), own, opens), size, axis=0) - own
    others[np.repeat(size == 1, size)] = 0  # not the rounding error of a sum less itself
    return others / np.maximum(np.linalg.norm(others, axis=1, keepdims=True), 1e-6)


def _sums(weights: NDArray, vectors: NDArray[np.float32], first: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return the weighted sum of each run of vectors; a sparse product, five times as fast as `np.add.reduceat`."""
    import scipy.sparse as sp

    size = len(vectors)
    runs = (weights.astype(np.float32), np.arange(size), np.append(first, size))
    return sp.csr_array(runs, (len(first), size)) @ vectors


def _shared_idf(
    context: ContextSpace, keywords: NDArray[np.uint16], groups: Groups, everywhere: Words, within: Words
) -> NDArray[np.float64]:
    """Return the summed idf of the keywords that stand in the candidate's caption, but outside its mention."""
    column = np.zeros(1 << 16, np.int64)  # 0: a word of no caption here
    column[everywhere.word] = 1
    used = np.flatnonzero(column)
    column[used] = np.arange(1, len(used) + 1)
    present = np.zeros((everywhere.texts, len(used) + 1), bool)
    present[everywhere.row, column[everywhere.word]] = True
    flat = keywords.ravel()
    hit = np.flatnonzero(column[flat])
    candidate = hit // KEYWORDS
    group = groups.group[candidate]
    found = present[groups.row[group], column[flat[hit]]]
    candidate, group, shared = candidate[found], group[found], flat[hit][found].astype(np.int64)
    outside = ~np.isin(group * len(column) + shared, within.row * len(column) + within.word)
    idf = np.asarray(context.idf)[shared[outside]].astype(np.float64)
    return np.bincount(candidate[outside], idf, minlength=len(keywords)).astype(np.float64)


def _float32(values: NDArray[np.float64]) -> pa.Array:
    return pa.array(values.astype(np.float32), pa.float32(), mask=np.isnan(values))
