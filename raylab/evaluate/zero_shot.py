"""Zero-shot classification: the class whose name, in a set of prompts, lies nearest to the picture.

A generative model writes the class's name instead, held to the names of the set's classes at each step, as VER is
scored on fine-grained sets (arXiv 2410.23676).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from raylab.errors import RaylabError, nearest
from raylab.evaluate import ranking
from raylab.evaluate.base import Embedder, Outcome, Score, Subject
from raylab.evaluate.confusion import worst_pairs
from raylab.evaluate.image_set import ImageSet, class_codes
from raylab.evaluate.lines import read_lines, text_field

MOST = 5
"""Classes said of a picture that are looked at."""

_LOOKS = ("", "blurry ", "black and white ", "low contrast ", "high contrast ", "bad ", "good ")
_SIZES = ("small ", "big ")
CIFAR100 = tuple(
    prompt
    for article in ("a", "the")
    for prompt in (
        *(f"a {look}photo of {article} {{}}." for look in _LOOKS),
        *(f"a photo of {article} {size}{{}}." for size in _SIZES),
    )
)
"""The 18 prompts that CLIP's authors use for CIFAR-100, and MOFI's repository with them (arXiv 2306.07952)."""


def _imagenet() -> tuple[str, ...]:
    """Return the 80 that CLIP's authors use for ImageNet (arXiv 2103.00020), as open_clip has them."""
    from open_clip.zero_shot_metadata import OPENAI_IMAGENET_TEMPLATES

    return tuple(template("{}") for template in OPENAI_IMAGENET_TEMPLATES)


PROMPTS: dict[str, Callable[[], tuple[str, ...]]] = {
    "imagenet": _imagenet,
    "cifar100": lambda: CIFAR100,
    "name": lambda: ("{}",),
}
"""Sets of prompts by name; ``{}`` stands for the class's name."""


@dataclass(frozen=True)
class ZeroShotConfig:
    """Zero-shot classification."""

    data: str = ""
    """The images' address; empty: that of --data."""
    prompts: str = "imagenet"
    """A set of prompts: imagenet (CLIP's 80), cifar100 (CLIP's 18 for small pictures) or name (the name alone); or a
    file with one a line, with {} for the name."""
    titles: str = ""
    """A file of classes and their names in words, .jsonl (class, title: a text or a list) or .tsv (class, title);
    empty: as the data set names them."""
    question: str = "what is the main object?"
    """What a generative model is asked; a dual encoder does not look at it."""


def load_prompts(name: str) -> tuple[str, ...]:
    """Return a set of prompts, by its name or from a file.

    Raises:
        RaylabError: neither; a line without exactly one ``{}``.
    """
    if name in PROMPTS:
        return PROMPTS[name]()
    if not Path(name).is_file():
        raise RaylabError(f"--zero-shot.prompts {name!r} is neither a file nor one of {', '.join(PROMPTS)}."
                          f"{nearest(name, PROMPTS)}")  # fmt: skip
    lines = [line for line in Path(name).read_text(encoding="utf-8").splitlines() if line.strip()]
    for line in lines:
        if line.count("{}") != 1:
            raise RaylabError(f"{name}: {line!r} must hold {{}} once, where the class's name goes.")
    if not lines:
        raise RaylabError(f"{name}: no prompts there.")
    return tuple(lines)


def load_titles(path: str) -> dict[str, tuple[str, ...]]:
    """Read names of classes from a file.

    Raises:
        RaylabError: a line that does not hold a class and a title.
    """
    if not path.endswith((".jsonl", ".jsonl.gz")):
        return _titles_from_tsv(path)
    titles: dict[str, tuple[str, ...]] = {}
    for where, row in read_lines(path):
        names = row.get("title")
        if isinstance(names, str):
            names = [names]
        if not isinstance(names, list) or not names or not all(isinstance(one, str) and one for one in names):
            raise RaylabError(f"{where}: 'title' must be a text or a list of texts; present: {', '.join(row)}.")
        label = row.get("class")
        titles[str(label) if isinstance(label, int) else text_field(row, "class", where)] = tuple(names)
    return titles


def _titles_from_tsv(path: str) -> dict[str, tuple[str, ...]]:
    if not Path(path).is_file():
        raise RaylabError(f"--zero-shot.titles {path}: no such file.")
    titles: dict[str, tuple[str, ...]] = {}
    for number, line in enumerate(Path(path).read_text(encoding="utf-8").splitlines(), start=1):
        label, tab, title = line.partition("\t")
        if line.strip() and not (tab and label and title.strip()):
            raise RaylabError(f"{path}:{number}: wanted a class, a tab and a title: {line[:80]!r}")
        if line.strip():
            titles[label] = (*titles.get(label, ()), title.strip())
    return titles


def class_vectors(embedder: Embedder, names: Sequence[Sequence[str]], prompts: Sequence[str]) -> np.ndarray:
    """Return a vector for each class: the mean over its names and the prompts, brought to length 1.

    Each text's vector has length 1 before the mean is taken, as in CLIP's and MOFI's code.

    Args:
        embedder: the model.
        names: for each class its names in words, at least one.
        prompts: texts with ``{}`` for the name.

    Returns:
        float32 [classes, d].
    """
    texts = [prompt.replace("{}", name) for own in names for name in own for prompt in prompts]
    vector_TD = ranking.unit(embedder.encode_texts(texts), f"{embedder.id}, of class names,")
    lengths = [len(own) * len(prompts) for own in names]
    starts = np.cumsum([0, *lengths[:-1]])
    mean_CD = np.add.reduceat(vector_TD.astype(np.float64), starts) / np.array(lengths)[:, None]
    return ranking.unit(mean_CD, f"{embedder.id}, of classes,")


class ZeroShot:
    """See `base.Benchmark`.

    Args:
        images: labelled images.
        prompts: texts with ``{}`` for a class's name.
        titles: names of classes in words; those missing are taken from the data set.
        question: what a generative model is asked.

    Raises:
        RaylabError: `titles` are given and a class has none.
    """

    name = "zero_shot"
    protocols: ClassVar = {
        "prompt-ensemble": "the class whose prompts' mean vector (each of length 1, the mean too) has the highest "
        "cosine with the image's, among the classes of the set",
        "constrained-titles": "the class whose title the model finds likeliest, by beam search held to the titles of "
        "the set's classes at each step (arXiv 2410.23676, fine-grained sets)",
    }

    def __init__(
        self,
        images: ImageSet,
        prompts: Sequence[str] = CIFAR100,
        titles: Mapping[str, tuple[str, ...]] | None = None,
        question: str = ZeroShotConfig.question,
    ) -> None:
        self._images, self._prompts, self._question = images, prompts, question
        self._classes, _ = class_codes(images.labels)
        missing = [one for one in self._classes if titles and one not in titles]
        if missing:
            raise RaylabError(
                f"--zero-shot.titles names {len(titles or ())} classes, and not {missing[0]!r}"
                f"{f' and {len(missing) - 1} more' if missing[1:] else ''} of {images.name}."
                f"{nearest(missing[0], titles or ())}"
            )
        self._names = [(titles or {}).get(one) or images.names_of(one) for one in self._classes]

    def __call__(self, subject: Subject) -> Outcome:
        """Embed images and names, or have the names written, and score."""
        said, refused = self._written(subject) if subject.generative else self._nearest(subject)
        kept = [row for row, codes in enumerate(said) if codes is not None]
        images, codes = self._images.take(np.array(kept, np.int64)), [said[row] or [] for row in kept]
        number = {label: code for code, label in enumerate(self._classes)}
        true_N = np.array([number[label] for label in images.labels])
        scores = _scores(
            "constrained-titles" if subject.generative else "prompt-ensemble", true_N, codes, len(self._classes)
        )
        named = [self._classes[one[0]] if one else "" for one in codes]
        figures = (worst_pairs("zero_shot: class said", images, named),)
        return Outcome(scores, figures, refused)

    def _nearest(self, subject: Subject) -> tuple[list[list[int] | None], dict[str, int]]:
        """Return the nearest classes of each image, None where it is refused, and how many are."""
        features = subject.features(self._images)
        vectors_ND = ranking.unit(features.vectors[features.usable], self._images.name)
        class_CD = class_vectors(subject.embedder, self._names, self._prompts)
        found = iter(ranking.nearest(vectors_ND, class_CD, MOST)[0].tolist())
        return [next(found) if one else None for one in features.usable], features.refused(self._images.name)

    def _written(self, subject: Subject) -> tuple[list[list[int] | None], dict[str, int]]:
        """Return the likeliest classes of each image, as `_nearest`."""
        titles = [(title, code) for code, own in enumerate(self._names) for title in own]
        class_of = dict(reversed(titles))  # of two classes with one title, the first has it
        most = MOST * max(map(len, self._names))  # a class may have several titles
        said = subject.titled(self._images, [title for title, _ in titles], self._question, most)
        codes = [
            None if isinstance(one, str) else list(dict.fromkeys(class_of[answer.text] for answer in one))[:MOST]
            for one in said
        ]
        reasons = Counter(one for one in said if isinstance(one, str))
        if None in codes and not any(one is not None for one in codes):
            raise RaylabError(f"{self._images.name}: every image is refused: {dict(reasons)}")
        return codes, {f"{self._images.name}: {reason}": count for reason, count in reasons.items()}


def _scores(protocol: str, true_N: np.ndarray, said: Sequence[Sequence[int]], classes: int) -> tuple[Score, ...]:
    first_N = np.array([one[:1] == [true] for one, true in zip(said, true_N.tolist())])

    def score(metric: str, value: float) -> Score:
        return Score("zero_shot", protocol, "all", metric, float(value), len(true_N))

    scores = [score("top-1", first_N.mean()), score("mean per class", mean_per_class(true_N, first_N))]
    if classes >= MOST:
        among = [true in one for one, true in zip(said, true_N.tolist())]
        scores.insert(1, score(f"top-{MOST}", float(np.mean(among))))
    return tuple(scores)


def mean_per_class(true_N: np.ndarray, hit_N: np.ndarray) -> float:
    """Return the accuracy of each class that has images, averaged over these classes.

    Args:
        true_N: integer [n], from 0; at least one.
        hit_N: bool [n].
    """
    count_C = np.bincount(true_N)
    hits_C = np.bincount(true_N, weights=hit_N)
    return float((hits_C[count_C > 0] / count_C[count_C > 0]).mean())
