"""From a config to its benchmarks, with their data opened; a set that two of them name is opened once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, partial

import pyarrow as pa

from raylab.errors import RaylabError
from raylab.evaluate.base import Benchmark
from raylab.evaluate.datasets import open_images
from raylab.evaluate.embedding import Embedding
from raylab.evaluate.hierarchy import IsA, entity_edges, open_edges
from raylab.evaluate.image_set import ImageSet
from raylab.evaluate.label_quality import LabelQuality
from raylab.evaluate.matching import Matching
from raylab.evaluate.oven import Oven
from raylab.evaluate.oven_files import Question, Titles, drawn, open_questions, read_predictions, read_questions
from raylab.evaluate.plan import EvaluateConfig
from raylab.evaluate.probe import Probe
from raylab.evaluate.retrieval import Retrieval
from raylab.evaluate.stores import open_memory
from raylab.evaluate.zero_shot import ZeroShot, load_prompts, load_titles


def build(config: EvaluateConfig, names: Sequence[str]) -> dict[str, Benchmark]:
    """Return the benchmarks by name, in the order given.

    Raises:
        RaylabError: data that is missing or does not fit; the message says which flag names it.
    """
    opened = cache(open_images)

    def images(own: str, flag: str) -> ImageSet:
        if not own and not config.data:
            raise RaylabError(f"{flag} is missing (and --data, which would stand in for it).")
        return opened(own) if own else opened(config.data)

    def train() -> ImageSet:
        if not config.probe.train:
            raise RaylabError("--probe.train is missing: the labelled images that the probe is fitted on.")
        return opened(config.probe.train)

    makers: dict[str, Callable[[], Benchmark]] = {
        "oven": partial(_oven, config),
        "gpr1200": lambda: Retrieval(images(config.gpr1200.data, "--gpr1200.data"), "gpr1200", gpr1200=True),
        "retrieval": lambda: Retrieval(images(config.retrieval.data, "--retrieval.data")),
        "zero_shot": lambda: _zero_shot(config, images(config.zero_shot.data, "--zero-shot.data")),
        "embedding": lambda: _embedding(config, images(config.embedding.data, "--embedding.data")),
        "probe": lambda: Probe(test=images(config.probe.test, "--probe.test"), train=train(), config=config.probe),
        "matching": lambda: _matching(config, images(config.matching.data, "--matching.data")),
        "label_quality": lambda: LabelQuality(config.label_quality.labels),
    }
    return {name: makers[name]() for name in names}


def _oven(config: EvaluateConfig) -> Benchmark:
    settings = config.oven
    if not settings.questions:
        raise RaylabError("--oven.questions is missing: OVEN's .jsonl files, joined by commas, or miniworld://.")
    if settings.predictions:
        asked = _asked_without_images(settings.questions)
        return Oven(settings, asked, predictions=read_predictions(settings.predictions))
    questions, source = open_questions(settings.questions, settings.images)
    return Oven(
        settings, drawn(questions, settings.rows), source, titles=partial(_titles, config.kb) if config.kb else None
    )


def _asked_without_images(paths: str) -> list[Question]:
    return open_questions(paths)[0] if paths.startswith("miniworld:") else read_questions(paths.split(","))


def _titles(kb: str) -> Titles:
    from raylab.kb.catalog import Catalog

    catalog = Catalog.open(kb)
    return Titles(dict(zip(catalog.ids.to_pylist(), catalog.titles.to_pylist())))


def _zero_shot(config: EvaluateConfig, images: ImageSet) -> Benchmark:
    settings = config.zero_shot
    titles = load_titles(settings.titles) if settings.titles else None
    return ZeroShot(images, load_prompts(settings.prompts), titles, settings.question)


def _embedding(config: EvaluateConfig, images: ImageSet) -> Benchmark:
    address = config.embedding.edges
    if not address and config.kb:
        from raylab.kb.catalog import Catalog

        catalog = Catalog.open(config.kb)
        if not catalog.info.edges:
            return Embedding(images, notes=(f"embedding: hit@k alone: {config.kb} keeps no 'subclass of' pairs",))
        return Embedding(images, partial(_graph, catalog.edges, config.kb))
    if not address:
        return Embedding(images)
    return Embedding(images, partial(_graph, open_edges(address), config.kb))


def _graph(edges: pa.Table, kb: str, labels: Sequence[str]) -> IsA:
    """Return the graph of these edges, with those from the labels to their classes where there is a knowledge base."""
    if not kb:
        return IsA(edges)
    from raylab.kb.catalog import Catalog

    return IsA(pa.concat_tables([edges, entity_edges(Catalog.open(kb), labels, edges)]))


def _matching(config: EvaluateConfig, queries: ImageSet) -> Benchmark:
    if not config.matching.memory:
        raise RaylabError("--matching.memory is missing: a label store, or a labelled set of images.")
    return Matching(open_memory(config.matching.memory), queries, config.matching.k)
