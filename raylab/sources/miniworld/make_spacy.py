"""Train the small spaCy pipeline that finds names in mini-world captions.

    python -m raylab.sources.miniworld.make_spacy

makes ``assets/spacy`` again: a tagger of names (`tok2vec` and `ner`, no vectors) trained on the captions of its own
seeds, from which no other world of this project is drawn. The same machine gives the same weights.
"""

from __future__ import annotations

import json
import random
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from raylab.sources.miniworld import SPACY_PIPELINE
from raylab.sources.miniworld.captions import Caption
from raylab.sources.miniworld.samples import sample

if TYPE_CHECKING:
    from spacy.language import Language
    from spacy.training import Example


@dataclass(frozen=True)
class SpacyConfig:
    """How the pipeline is trained."""

    out: Path = SPACY_PIPELINE
    """The folder to write; the files of an older pipeline there are written over."""
    seeds: tuple[int, ...] = (2000, 2001, 2002, 2003, 2004)
    """Worlds whose captions are learnt."""
    test_seeds: tuple[int, ...] = (2100, 2101)
    """Worlds that the F1 is measured on."""
    rows: int = 2000
    """Captions from each world."""
    epochs: int = 12
    width: int = 48
    """Of the token vectors."""
    depth: int = 3
    """Layers of context: each token sees so many neighbours on both sides."""
    batch: int = 64
    dropout: float = 0.1


def blank_pipeline(config: SpacyConfig) -> Language:
    """Return the untrained pipeline: an English tokenizer that also splits at ``_`` and ``/``, `tok2vec`, `ner`."""
    import spacy

    nlp = spacy.blank("en")
    _split_file_names(nlp)
    nlp.add_pipe("tok2vec", config={"model": _tok2vec(config)})
    nlp.add_pipe("ner", config={"model": _ner(config)})
    return nlp


def _split_file_names(nlp: Language) -> None:
    from spacy.lang.punctuation import TOKENIZER_INFIXES, TOKENIZER_PREFIXES, TOKENIZER_SUFFIXES
    from spacy.tokenizer import Tokenizer
    from spacy.util import compile_infix_regex, compile_prefix_regex, compile_suffix_regex

    assert isinstance(nlp.tokenizer, Tokenizer)
    nlp.tokenizer.prefix_search = compile_prefix_regex([*TOKENIZER_PREFIXES, "_"]).search
    nlp.tokenizer.infix_finditer = compile_infix_regex([*TOKENIZER_INFIXES, "[_/]"]).finditer
    nlp.tokenizer.suffix_search = compile_suffix_regex([*TOKENIZER_SUFFIXES, "_"]).search
    nlp.tokenizer.url_match = None  # it takes a file name for an address and keeps it whole


def _tok2vec(config: SpacyConfig) -> dict:
    return {
        "@architectures": "spacy.Tok2Vec.v2",
        "embed": {
            "@architectures": "spacy.MultiHashEmbed.v2",
            "width": config.width,
            "attrs": ["NORM", "PREFIX", "SUFFIX", "SHAPE"],
            "rows": [1000, 250, 500, 250],
            "include_static_vectors": False,
        },
        "encode": {
            "@architectures": "spacy.MaxoutWindowEncoder.v2",
            "width": config.width,
            "depth": config.depth,
            "window_size": 1,
            "maxout_pieces": 3,
        },
    }


def _ner(config: SpacyConfig) -> dict:
    return {
        "@architectures": "spacy.TransitionBasedParser.v2",
        "state_type": "ner",
        "extra_state_tokens": False,
        "hidden_width": 64,
        "maxout_pieces": 2,
        "use_upper": True,
        "tok2vec": {"@architectures": "spacy.Tok2VecListener.v1", "width": config.width, "upstream": "tok2vec"},
    }


def captions(seeds: Iterable[int], rows: int) -> Iterator[Caption]:
    """Yield the captions of the first `rows` rows of each world, empty ones left out."""
    for seed in seeds:
        for index in range(rows):
            found = sample(seed, index).caption
            if found.text.strip():
                yield found


def examples(nlp: Language, found: Iterable[Caption]) -> list[Example]:
    """Return training examples; a name that does not fall on token boundaries (inside a hashtag) is left unmarked."""
    from spacy.training import Example

    made = []
    for caption in found:
        doc = nlp.make_doc(caption.text)
        spans = [doc.char_span(span.start, span.end, span.label) for span in caption.spans]
        reference = doc.copy()
        reference.set_ents([span for span in spans if span is not None])
        made.append(Example(doc, reference))
    return made


def train(config: SpacyConfig) -> Language:
    """Return the pipeline trained on the captions of `config.seeds`."""
    from spacy.util import fix_random_seed, minibatch

    fix_random_seed(0)
    rng = random.Random(0)
    nlp = blank_pipeline(config)
    learnt = examples(nlp, captions(config.seeds, config.rows))
    optimizer = nlp.initialize(lambda: learnt)
    optimizer.learn_rate = 0.002
    for epoch in range(config.epochs):
        rng.shuffle(learnt)
        optimizer.learn_rate = 0.002 * (1 - epoch / config.epochs)
        losses: dict[str, float] = {}
        for batch in minibatch(learnt, config.batch):
            nlp.update(batch, sgd=optimizer, drop=config.dropout, losses=losses)
        print(f"epoch {epoch + 1}: loss {losses['ner']:.0f}", file=sys.stderr)
    nlp.meta |= {
        "name": "miniworld_ner",
        "version": "1.0.0",
        "description": "Names in the captions of raylab's mini-world",
        "author": "raylab",
        "license": "Apache-2.0",
    }
    return nlp


def evaluate(nlp: Language, config: SpacyConfig) -> dict[str, float]:
    """Return precision, recall and F1 on the captions of `config.test_seeds`, and captions a second on this core."""
    fresh = list(captions(config.test_seeds, config.rows))
    scores = nlp.evaluate(examples(nlp, fresh))
    start = time.process_time()
    for _ in nlp.pipe([caption.text for caption in fresh], batch_size=256):
        pass
    rate = len(fresh) / (time.process_time() - start)
    return {name: round(scores[f"ents_{name}"], 4) for name in "prf"} | {"captions_per_cpu_second": round(rate)}


def main(config: SpacyConfig) -> None:
    """Train, measure, write, and print the figures as one line of JSON."""
    nlp = train(config)
    figures = evaluate(nlp, config)
    nlp.meta["performance"] = {f"ents_{name}": figures[name] for name in "prf"}
    nlp.to_disk(config.out)
    size = sum(file.stat().st_size for file in config.out.rglob("*") if file.is_file())
    print(json.dumps(figures | {"bytes": size, "out": str(config.out)}))


if __name__ == "__main__":
    main(tyro.cli(SpacyConfig, description=__doc__))
