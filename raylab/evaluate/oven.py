"""OVEN: which of all entities a question about a picture asks for (arXiv 2302.11154).

Accuracy is exact match of the entity id, for each split and for seen and unseen entities; a split's score is the
harmonic mean of the two, and the final score that of both splits. Here every question counts: one without an answer,
or with an answer that names no entity, is wrong. `official_scores` does as the public scorer does instead.
"""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

from raylab.errors import RaylabError
from raylab.evaluate.base import Outcome, Recognised, Score, Subject
from raylab.evaluate.oven_files import Prediction, Question, Titles, write_predictions
from raylab.sources.base import Source

logger = logging.getLogger(__name__)

TASKS = ("entity", "query")
PORTIONS = ("seen", "unseen")
SMALLEST = 1e-12
"""What the public scorer puts in the place of an accuracy of 0 before it takes a harmonic mean."""


def harmonic_mean(values: Sequence[float]) -> float:
    """Return the harmonic mean of numbers of 0 and above; 0 where one of them is."""
    return 0.0 if min(values) == 0 else len(values) / sum(1 / value for value in values)


def score_predictions(
    questions: Sequence[Question], predictions: Sequence[Prediction], ks: Sequence[int] = (1,), benchmark: str = "oven"
) -> list[Score]:
    """Score predictions over all questions.

    Args:
        questions: what was asked.
        predictions: what was answered. Questions without one count as wrong.
        ks: an answer counts as right if it is among the first k, for each of these.
        benchmark: the name that the scores get.

    Returns:
        For each k: accuracy of each split's seen and unseen questions (or of all, where the files tell no split), the
        harmonic mean of a split that has both, and the final score where both splits have one.

    Raises:
        RaylabError: two predictions for a question, or one for a question that was not asked.
    """
    answered = _by_id(questions, predictions)
    groups: dict[str, list[Question]] = defaultdict(list)
    for question in questions:
        groups["/".join(question.part) if question.part else question.data_split or "all"].append(question)
    return [score for k in ks for score in _scores_at(k, groups, answered, benchmark)]


def _by_id(questions: Sequence[Question], predictions: Sequence[Prediction]) -> dict[str, tuple[str | None, ...]]:
    known = {question.data_id for question in questions}
    for data_id, count in Counter(one.data_id for one in predictions).items():
        if data_id not in known:
            raise RaylabError(f"A prediction for {data_id!r}, which is none of the {len(known)} questions asked.")
        if count > 1:
            raise RaylabError(f"{count} predictions for {data_id!r}: one a question, with further answers in its list.")
    return {one.data_id: one.entity_ids for one in predictions}


def _scores_at(
    k: int, groups: Mapping[str, list[Question]], answered: Mapping[str, tuple[str | None, ...]], benchmark: str
) -> list[Score]:
    def score(part: str, metric: str, value: float, count: int) -> Score:
        return Score(benchmark, "every-question", part, f"{metric}{f'@{k}' if k > 1 else ''}", value, count)

    accuracy = {
        part: sum(one.entity_id in answered.get(one.data_id, ())[:k] for one in asked) / len(asked)
        for part, asked in groups.items()
    }
    scores = [score(part, "accuracy", value, len(groups[part])) for part, value in sorted(accuracy.items())]
    means: dict[str, tuple[float, int]] = {}
    for task in TASKS:
        parts = [f"{task}/{portion}" for portion in PORTIONS]
        if all(part in accuracy for part in parts):
            count = sum(len(groups[part]) for part in parts)
            means[task] = harmonic_mean([accuracy[part] for part in parts]), count
    scores += [score(task, "HM", *mean) for task, mean in means.items()]
    if len(means) == len(TASKS):
        values, counts = zip(*means.values())
        scores.append(score("final", "HM", harmonic_mean(values), sum(counts)))
    return scores


def official_scores(questions: Sequence[Question], predictions: Sequence[Prediction]) -> dict[str, Any]:
    """Score predictions exactly as the public scorer does, in percent, with its rounding.

    Its rules: the mean is over predictions, not over questions, so missing ones do not count and repeated ones count
    again; each accuracy is rounded to two decimals before the harmonic mean; 0 becomes 1e-12; seen and unseen are
    needed in both splits.

    Args:
        questions: of the entity and the query split together.
        predictions: for both.

    Returns:
        ``query_score``, ``entity_score``, ``final_score``, and ``query_result`` and ``entity_result`` with ``seen``
        and ``unseen``: the public scorer's own keys.

    Raises:
        RaylabError: a prediction for an unknown question, a split without a seen or an unseen prediction.
    """
    asked = {question.data_id: question for question in questions}
    hits: dict[tuple[str, str], list[bool]] = defaultdict(list)
    for one in predictions:
        if one.data_id not in asked:
            raise RaylabError(f"A prediction for {one.data_id!r}, which is none of the {len(asked)} questions asked.")
        question = asked[one.data_id]
        if question.part:
            hits[question.part].append(bool(one.entity_ids) and one.entity_ids[0] == question.entity_id)
    results: dict[str, dict[str, float]] = {}
    for task in TASKS:
        for portion in PORTIONS:
            found = hits.get((task, portion))
            if not found:
                raise RaylabError(f"The public scorer needs predictions for {task} {portion}; there is none.")
            results.setdefault(task, {})[portion] = round(sum(found) / len(found) * 100, 2)
    query, entity = (_official_mean(results[task].values()) for task in ("query", "entity"))
    return {
        "query_score": round(query, 2),
        "entity_score": round(entity, 2),
        "final_score": round(_official_mean([query, entity]), 2),
        "query_result": results["query"],
        "entity_result": results["entity"],
    }


def _official_mean(values: Iterable[float]) -> float:
    safe = [value or SMALLEST for value in values]
    return len(safe) / sum(1 / value for value in safe)


@dataclass(frozen=True)
class OvenConfig:
    """OVEN's questions."""

    questions: str = ""
    """Question files, joined by commas; or ``miniworld://?rows=..&seed=..``."""
    images: str = ""
    """The folder that holds ``oven_images`` and ``ovenid2impath.csv``, where the files do not name their images."""
    predictions: str = ""
    """Score this file of predictions instead of a model."""
    official: bool = False
    """Score as the public scorer does, besides."""
    rows: int = 0
    """Ask so many, as evenly from each split as they go, the same ones each time; 0: all."""
    top: int = 10
    """Answers taken from the model; scored are the first, and the first `top`."""


class Oven:
    """See `base.Benchmark`.

    Args:
        config: its settings.
        questions: what is asked, images filled in.
        source: reads the images; None where predictions are given.
        predictions: score these instead of asking the model.
        titles: returns what finds the entity for a model's own words; called where a model gives words alone. By
            default it knows the titles of the questions' own answers only, which flatters a model: give it the whole
            catalogue's where there is one.
    """

    name = "oven"
    protocols: ClassVar = {
        "every-question": "exact match of the entity id over all questions; a missing answer is wrong; HM of seen and "
        "unseen, final = HM of the entity and query splits (arXiv 2302.11154, section 4)",
        "official": "as the public scorer: over prediction rows, accuracy in percent rounded to two decimals before HM",
    }

    def __init__(
        self,
        config: OvenConfig,
        questions: Sequence[Question],
        source: Source | None = None,
        predictions: Sequence[Prediction] | None = None,
        titles: Callable[[], Titles] | None = None,
    ) -> None:
        self._config, self._questions, self._source = config, questions, source
        self._predictions = predictions
        self._make_titles = titles

    def __call__(self, subject: Subject) -> Outcome:
        """Ask the model, or take the predictions given, and score."""
        refused: Counter[str] = Counter()
        predictions = self._predictions
        if predictions is None:
            said = subject.answers(self._questions, self._source, self._config.top)
            refused.update(f"oven: {one}" for one in said if isinstance(one, str))
            predictions = [self._prediction(*pair) for pair in zip(self._questions, said)]
        notes = [f"oven: {sum(refused.values())} images refused, their questions count as wrong"] if refused else []
        if missing := len(self._questions) - len({one.data_id for one in predictions}):
            notes.append(f"oven: {missing} questions without a prediction count as wrong")
        scores = self._scores(predictions, notes)
        files = {"oven_predictions.jsonl": write_predictions(predictions)}
        return Outcome(tuple(scores), refused=dict(refused), notes=tuple(notes), files=files)

    def _scores(self, predictions: Sequence[Prediction], notes: list[str]) -> list[Score]:
        """Score; what the public scorer takes and we do not becomes a note, where its scores are asked for."""
        longest = max(
            (len(one.entity_ids) for one in predictions), default=1
        )  # of a file: it may have one answer a row
        ks = sorted({1, max(1, min(self._config.top, longest))})
        try:
            scores = score_predictions(self._questions, predictions, ks)
        except RaylabError as error:
            if not self._config.official:
                raise
            notes.append(f"oven: official scores alone: {error}")
            scores = []
        return scores + self._official(predictions) if self._config.official else scores

    @cached_property
    def _titles(self) -> Titles:
        if self._make_titles:
            return self._make_titles()
        logger.warning("oven: without --kb, a model's words are compared with the titles of right answers alone")
        return Titles({one.entity_id: one.entity_text for one in self._questions})

    def _prediction(self, question: Question, said: list[Recognised] | str) -> Prediction:
        if isinstance(said, str):
            return Prediction(question.data_id, ())
        ids = [one.entity_id if one.entity_id is not None else self._titles(one.text) for one in said]
        return Prediction(question.data_id, tuple(ids))

    def _official(self, predictions: Sequence[Prediction]) -> list[Score]:
        figures = official_scores(self._questions, predictions)
        part_of = {one.data_id: one.part for one in self._questions}
        counts = Counter(part_of[one.data_id] for one in predictions)
        scores = []
        for task in TASKS:
            for portion, percent in figures[f"{task}_result"].items():
                count = counts[task, portion]
                scores.append(Score(self.name, "official", f"{task}/{portion}", "accuracy", percent / 100, count))
        for part, key in (("query", "query_score"), ("entity", "entity_score"), ("final", "final_score")):
            count = sum(n for pair, n in counts.items() if pair and part in (pair[0], "final"))
            scores.append(Score(self.name, "official", part, "HM", figures[key] / 100, count))
        return scores
