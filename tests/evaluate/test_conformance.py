"""What every benchmark keeps to."""

import numpy as np
import pytest
from evaluate.small_sets import ColourEncoder, ColourNamer, MemorySource, TitleWriter, coloured, subject_of
from label.finished_run import make_run

from raylab.evaluate.base import Curve, Outcome, Sheet, WorstPairs
from raylab.evaluate.embedding import Embedding
from raylab.evaluate.image_set import ImageSet
from raylab.evaluate.label_quality import LabelQuality
from raylab.evaluate.matching import Matching
from raylab.evaluate.oven import Oven, OvenConfig
from raylab.evaluate.oven_files import Question
from raylab.evaluate.plan import SUITE
from raylab.evaluate.probe import Probe, ProbeConfig
from raylab.evaluate.retrieval import Retrieval
from raylab.evaluate.stores import Memory
from raylab.evaluate.zero_shot import ZeroShot

BAD = (1, 6)
"""Places of images that cannot be opened."""


def questions(images: ImageSet):
    splits = ["entity_val_seen", "entity_val_unseen", "query_val_seen", "query_val_unseen"]
    return [
        Question(f"q{place}", "which?", f"c:{label}", label, splits[place % 4], image=images.refs[place])
        for place, label in enumerate(images.labels)
    ]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return str(make_run(tmp_path_factory.mktemp("conformance") / "run", annotated=True).out)


def make(name: str, store: str, bad=()):
    images = coloured(per_class=4, bad=bad)
    memory = coloured(per_class=6, name="memory")
    makers = {
        "oven": lambda: Oven(OvenConfig(top=2, official=True), questions(images), images.source),
        "gpr1200": lambda: Retrieval(images, "gpr1200", gpr1200=True),
        "retrieval": lambda: Retrieval(images),
        "zero_shot": lambda: ZeroShot(images),
        "embedding": lambda: Embedding(images),
        "probe": lambda: Probe(memory, images, ProbeConfig(strengths=(1.0, 100.0))),
        "matching": lambda: Matching(Memory(memory, {"candidate": memory.labels, "corrected": memory.labels}), images),
        "label_quality": lambda: LabelQuality(store),
    }
    return makers[name]()


UNUSED = {
    "retrieval": {"official"},
    "zero_shot": {"constrained-titles"},
    "zero_shot, written": {"prompt-ensemble"},
    "embedding": {"seen", "unseen+seen"},
}
"""Protocols of other data (retrieval shares its own with gpr1200) or of another kind of model."""


@pytest.fixture(params=[*SUITE, "zero_shot, written"])
def case(request):
    return request.param


@pytest.fixture
def name(case):
    return case.partition(",")[0]


@pytest.fixture
def writer(case):
    """What makes a model generative, where the case is of one."""
    return TitleWriter if case.endswith("written") else None


@pytest.fixture
def subject(monkeypatch, writer):
    return subject_of(monkeypatch, ColourEncoder(), ColourNamer(), writer)


def test_scores_say_all_that_it_takes_to_read_them(name, subject, store):
    benchmark = make(name, store)
    outcome = benchmark(subject)
    assert isinstance(outcome, Outcome) and outcome.scores
    assert benchmark.name == name
    assert all(text.strip() for text in benchmark.protocols.values())
    for score in outcome.scores:
        assert score.benchmark == name
        assert score.protocol in benchmark.protocols
        assert score.part and score.metric
        assert isinstance(score.value, float) and 0 <= score.value <= 1
        assert isinstance(score.count, int) and score.count > 0
    names = [score.name for score in outcome.scores]
    assert len(names) == len(set(names))


def test_every_protocol_is_used(case, name, subject, store):
    benchmark = make(name, store)
    assert {score.protocol for score in benchmark(subject).scores} == set(benchmark.protocols) - UNUSED.get(case, set())


def test_the_same_again_gives_the_same(name, subject, store):
    assert make(name, store)(subject).scores == make(name, store)(subject).scores
    benchmark = make(name, store)
    assert benchmark(subject).scores == benchmark(subject).scores


def test_bad_images_are_counted_and_cost_no_crash(name, subject, store):
    outcome = make(name, store, bad=BAD)(subject)
    refused = sum((outcome.refused or {}).values())
    assert refused == (0 if name == "label_quality" else len(BAD))
    assert all("image_corrupt" in reason for reason in outcome.refused or {})


def test_figures_are_of_the_known_kinds_and_in_range(name, subject, store):
    for figure in make(name, store)(subject).figures:
        assert figure.title
        if isinstance(figure, Curve):
            assert len(figure.x) == len(figure.y) > 1
            assert np.all(np.diff(figure.x) >= 0) and 0 <= min(figure.y) <= max(figure.y) <= 1 + 1e-9
        elif isinstance(figure, WorstPairs):
            counts = [count for *_, count in figure.pairs]
            assert counts == sorted(counts, reverse=True)
            assert all(true != said for true, said, _ in figure.pairs)
        else:
            assert isinstance(figure, Sheet)
            for row in figure.rows:
                assert len(row.found) == len(row.right)
                assert row.query < len(figure.queries) and max(row.found) < len(figure.index)


def test_a_perfect_model_is_scored_perfect_and_a_blind_one_is_not(name, store, monkeypatch, writer):
    if name == "label_quality":
        pytest.skip("scores labels, not a model")
    perfect = subject_of(monkeypatch, ColourEncoder(), ColourNamer(), writer)
    assert all(score.value > 0.999 for score in make(name, store)(perfect).scores)

    class Blind(ColourEncoder):
        def encode_images(self, images):
            return np.tile(np.array([[1, 0, 0]], np.float32), (len(images), 1))

    class BlindNamer(ColourNamer):
        def recognise(self, images, questions, k):
            return [
                [one._replace(entity_id="c:none") for one in row] for row in super().recognise(images, questions, k)
            ]

    class BlindWriter(TitleWriter):
        def recognise(self, images, questions, k):
            return [row[::-1] for row in super().recognise(images, questions, k)]

    blind = subject_of(monkeypatch, Blind(), BlindNamer(), writer and BlindWriter)
    assert min(score.value for score in make(name, store)(blind).scores) < 0.5


def test_images_are_read_through_their_source_only(name, subject, store):
    class Counting(MemorySource):
        reads = 0

        def image_bytes(self, refs):
            Counting.reads += len(refs)
            return super().image_bytes(refs)

    benchmark = make(name, store)
    for attribute in ("_images", "_test", "_queries"):
        if hasattr(benchmark, attribute):
            images = getattr(benchmark, attribute)
            object.__setattr__(images, "source", Counting(images.source.images))
    if hasattr(benchmark, "_source"):
        benchmark._source = Counting(benchmark._source.images)
    benchmark(subject)
    assert Counting.reads == (0 if name == "label_quality" else 12)
