"""Linear probe: multinomial logistic regression on frozen features, its L2 strength chosen on a validation part.

As in CLIP's evaluation (arXiv 2103.00020, appendix A.3), which MOFI follows: L-BFGS of at most 1,000 iterations, the
strength swept on a validation part, then fitted again on all of the training set.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from raylab.errors import RaylabError
from raylab.evaluate import ranking
from raylab.evaluate.base import Outcome, Score, Subject
from raylab.evaluate.confusion import worst_pairs
from raylab.evaluate.image_set import ImageSet, class_codes
from raylab.evaluate.zero_shot import mean_per_class

STRENGTHS = (1e-1, 1.0, 1e1, 1e2, 1e3, 1e4, 1e5)
"""Values of scikit-learn's C: the weight of the sum of losses against L2. Features of length 1 need large ones."""


@dataclass(frozen=True)
class ProbeConfig:
    """The linear probe."""

    train: str = ""
    """The training images' address."""
    test: str = ""
    """The test images' address; empty: that of --data."""
    strengths: tuple[float, ...] = STRENGTHS
    """Values of C to try, rising."""
    validation_share: float = 0.2
    """Share of each class's training images that chooses C."""
    max_iterations: int = 1000
    """Of L-BFGS."""
    seed: int = 0
    """Draws the validation part."""


@dataclass(frozen=True, eq=False)
class Fitted:
    """A probe and how its strength was chosen."""

    model: Any
    """`sklearn.linear_model.LogisticRegression`, fitted on all training rows."""
    strength: float
    validation: Mapping[float, float]
    """C -> accuracy on the validation part."""
    unfinished: tuple[float, ...]
    """Values of C at which L-BFGS ran into its limit."""


def validation_rows(class_N: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Draw the rows that choose the strength: the same share of every class, and never all of one.

    Args:
        class_N: integer [n], from 0.
        share: 0..1.
        seed: of the draw.

    Returns:
        bool [n]; of a class with one image, none; of any other, at least one.
    """
    rng = np.random.default_rng(seed)
    chosen = np.zeros(len(class_N), bool)
    for rows in ranking.members_of(class_N):
        wanted = min(len(rows) - 1, max(1, round(share * len(rows))))
        chosen[rng.permutation(rows)[: max(0, wanted)]] = True
    return chosen


def fit_probe(train_ND: np.ndarray, class_N: np.ndarray, config: ProbeConfig) -> Fitted:
    """Choose the strength on a validation part, then fit on all rows.

    Of equally good strengths the strongest regularisation wins: the smallest C.

    Args:
        train_ND: float32 [n, d].
        class_N: integer [n], from 0, at least two classes.
        config: the sweep.

    Raises:
        RaylabError: one class only, or no class with two images.
    """
    held = validation_rows(class_N, config.validation_share, config.seed)
    if len(np.unique(class_N[~held])) < 2 or not held.any():
        raise RaylabError("The probe needs at least two classes, and a class with two images, in --probe.train.")
    validation: dict[float, float] = {}
    unfinished: list[float] = []
    model = _classifier(config, warm_start=True)  # each weaker one starts where the stronger one ended
    for strength in sorted(config.strengths):
        finished = _fit(model.set_params(C=strength), train_ND[~held], class_N[~held])
        validation[strength] = float((model.predict(train_ND[held]) == class_N[held]).mean())
        unfinished += [] if finished else [strength]
    best = max(validation, key=lambda strength: (validation[strength], -strength))
    model = _classifier(config, C=best)
    finished = _fit(model, train_ND, class_N)
    unfinished += [] if finished or best in unfinished else [best]
    return Fitted(model, best, validation, tuple(unfinished))


def _classifier(config: ProbeConfig, **settings: Any) -> Any:
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(solver="lbfgs", max_iter=config.max_iterations, **settings)


def _fit(model: Any, train_ND: np.ndarray, class_N: np.ndarray) -> bool:
    """Fit in place; return whether L-BFGS came to an end before its limit."""
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        model.fit(train_ND, class_N)
    return not any(issubclass(one.category, ConvergenceWarning) for one in said)


class Probe:
    """See `base.Benchmark`.

    Args:
        train: labelled images to fit on.
        test: labelled images to score on.
        config: the sweep.

    Raises:
        RaylabError: the two sets share no class.
    """

    name = "probe"
    protocols: ClassVar = {
        "linear": "L2-regularised multinomial logistic regression (L-BFGS) on frozen features of length 1; C swept on "
        "a validation part of the training set, then fitted on all of it; accuracy on the test set",
    }

    def __init__(self, train: ImageSet, test: ImageSet, config: ProbeConfig) -> None:
        self._train, self._test, self._config = train, test, config
        known = set(train.labels)
        if not known & set(test.labels):
            raise RaylabError(
                f"--probe.train {train.name} and its test set {test.name} share no class: {sorted(known)[:3]} ... "
                f"and {sorted(set(test.labels))[:3]} ..."
            )

    def __call__(self, subject: Subject) -> Outcome:
        """Fit and score."""
        train_ND, train = _vectors(subject, self._train)
        test_ND, test = _vectors(subject, self._test)
        ranking.check_dims(test_ND, train_ND)
        names, class_N = class_codes(train.labels)
        fitted = fit_probe(train_ND, class_N, self._config)
        said = [names[code] for code in fitted.model.predict(test_ND)]
        hit_N = np.array([one == true for one, true in zip(said, test.labels)], bool)
        _, true_N = class_codes(test.labels)
        values = {"top-1": float(hit_N.mean()), "mean per class": mean_per_class(true_N, hit_N)}
        scores = tuple(Score(self.name, "linear", "all", metric, value, len(test)) for metric, value in values.items())
        figures = (worst_pairs("probe: class said", test, said),)
        refused = {name: n for one in (self._train, self._test) for name, n in _refused(subject, one).items()}
        return Outcome(scores, figures, refused, self._notes(fitted, train.labels, test.labels))

    def _notes(self, fitted: Fitted, train: Sequence[str], test: Sequence[str]) -> tuple[str, ...]:
        swept = ", ".join(f"{strength:g}: {100 * value:.2f}" for strength, value in fitted.validation.items())
        notes = [f"probe: C = {fitted.strength:g}; on the validation part, by C: {swept}"]
        if fitted.strength in (min(self._config.strengths), max(self._config.strengths)):
            notes.append("probe: the chosen C is at the end of the sweep: widen --probe.strengths")
        if fitted.unfinished:
            values = ", ".join(f"{one:g}" for one in fitted.unfinished)
            notes.append(f"probe: L-BFGS ran into its limit at C = {values}: raise --probe.max-iterations")
        if unknown := sum(label not in set(train) for label in set(test)):
            notes.append(f"probe: {unknown} test classes are not in the training set, their images count as wrong")
        return tuple(notes)


def _refused(subject: Subject, images: ImageSet) -> dict[str, int]:
    return subject.features(images).refused(images.name)


def _vectors(subject: Subject, images: ImageSet) -> tuple[np.ndarray, ImageSet]:
    """Return the vectors of the images that have one, and these images."""
    features = subject.features(images)
    return ranking.unit(features.vectors[features.usable], images.name), images.take(np.flatnonzero(features.usable))
