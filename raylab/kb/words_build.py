"""Makes a folder of word vectors: a skip-gram model of a knowledge base's texts, or vectors that others trained.

The text model is DeViSE's (Frome et al., NeurIPS 2013): skip-gram with hierarchical softmax, a window of 20 words, one
pass. Titles are tokens of their own wherever they occur.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import pyarrow as pa

from raylab.errors import RaylabError
from raylab.kb.catalog import Catalog
from raylab.kb.hashing import HashIndex, hash_strings
from raylab.kb.words import ABOUT, IDS, JOINT, TOKENS, VECTORS, directions, words_of

logger = logging.getLogger(__name__)

TEXT_FILES = (".txt", ".vec", ".txt.gz", ".vec.gz")
BINARY_FILES = (".bin", ".bin.gz")
_BLOCK = 10_000


@dataclass(frozen=True)
class WordsConfig:
    """Which word vectors."""

    out: str = ""
    """The folder that is made; one that is there is replaced when the new one is complete."""
    kb: str = ""
    """The knowledge base whose titles, descriptions and summaries are learnt from."""
    given: str = ""
    """Instead: a file of GloVe or of word2vec (.txt and .vec: text, .bin: binary; .gz may follow), or the name or
    folder of a spaCy pipeline that has vectors, such as en_core_web_md."""
    dim: int = 500
    """Length of a vector that is learnt; the paper found 500 and 1,000 good."""
    window: int = 20
    """Words on either side of a word that it is to foretell, at most; the paper's."""
    passes: int = 1
    """Over the texts; the paper's one is over 5.4 billion words. A small knowledge base takes many."""
    least: int = 5
    """Rarer words are left out; titles are not. Our choice."""
    threads: int = 0
    """That learn; 0: one for each core. With one, the same texts give the same vectors."""
    seed: int = 0
    """Of the first vectors."""

    def __post_init__(self) -> None:
        """Refuse numbers that make no sense."""
        if min(self.dim, self.window, self.passes, self.least) < 1 or self.threads < 0:
            raise RaylabError("--dim, --window, --passes and --least must be 1 or more, --threads 0 or more.")


def build_words(config: WordsConfig) -> dict[str, Any]:
    """Make the folder; return what its words.json says.

    Raises:
        RaylabError: no output, not exactly one of a knowledge base and given vectors; they cannot be read.
    """
    if not config.out:
        raise RaylabError("--out is missing: the folder for the word vectors.")
    if bool(config.kb) == bool(config.given):
        raise RaylabError("give either --kb, to learn from its texts, or --given, vectors that are there.")
    out = Path(config.out)
    part = out.with_name(f"{out.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        tokens, vectors_ND, about = _learnt(config, part) if config.kb else given_vectors(config.given)
        about = _write(part, tokens, vectors_ND, about)
        shutil.rmtree(out, ignore_errors=True)
        part.rename(out)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return about


def _learnt(config: WordsConfig, folder: Path) -> tuple[Sequence[str], np.ndarray, dict[str, Any]]:
    """Train gensim's skip-gram model."""
    Word2Vec = _gensim().Word2Vec
    catalog = Catalog.open(config.kb)
    corpus = folder / "corpus.txt"
    kept = write_corpus(catalog, corpus)
    threads = config.threads or os.cpu_count() or 1
    model = Word2Vec(
        vector_size=config.dim,
        window=config.window,
        sg=1,
        hs=1,
        negative=0,
        min_count=config.least,
        workers=threads,
        seed=config.seed,
    )
    model.build_vocab(corpus_file=str(corpus), trim_rule=_Keep(kept))
    started = time.perf_counter()
    _, words = model.train(
        corpus_file=str(corpus),
        total_examples=model.corpus_count,
        total_words=model.corpus_total_words,
        epochs=config.passes,
    )
    seconds = time.perf_counter() - started
    corpus.unlink()
    about = {
        "id": f"skip-gram of {Path(config.kb).name}",
        "kb": catalog.info.fingerprint,
        "window": config.window,
        "passes": config.passes,
        "words": model.corpus_total_words,
        "words_a_second": round(words / max(seconds, 1e-9)),
        "threads": threads,
    }
    return model.wv.index_to_key, model.wv.vectors, about


class _Keep:
    """What gensim asks which rare tokens stay: titles do."""

    def __init__(self, kept: set[str]) -> None:
        from gensim import utils

        self._kept, self._keep, self._default = kept, utils.RULE_KEEP, utils.RULE_DEFAULT

    def __call__(self, word: str, count: int, least: int) -> int:
        return self._keep if word in self._kept else self._default


def write_corpus(catalog: Catalog, path: Path) -> set[str]:
    """Write a line an entity: title, description and summary, tokens parted by spaces; return the titles' tokens.

    A title comes first, also where the summary does not have it in these words. Titles of several words are one token,
    the longest first. They are held in memory, some hundred bytes each.
    """
    phrases = Phrases(words_of(title) for title in catalog.titles.to_pylist() if title)
    with path.open("w", encoding="utf-8") as file:
        for start in range(0, len(catalog), _BLOCK):
            rows = np.arange(start, min(start + _BLOCK, len(catalog)))
            for one in catalog.take(rows, ("title", "description", "summary")).to_pylist():
                texts = (one["title"], one["description"], one["summary"])
                tokens = [token for text in texts if text for token in phrases.tokens(words_of(text))]
                file.write(" ".join(tokens) + "\n")
    return phrases.known


class Phrases:
    """Finds names in texts: left to right, the longest first."""

    def __init__(self, names: Iterator[list[str]]) -> None:
        self.known: set[str] = set()
        self._longest: dict[str, int] = {}
        for words in names:
            if words:
                self.known.add(JOINT.join(words))
                self._longest[words[0]] = max(len(words), self._longest.get(words[0], 1))

    def tokens(self, words: Sequence[str]) -> Iterator[str]:
        """Yield a text's tokens: its names, the words of each joined, and the words that belong to none."""
        place = 0
        while place < len(words):
            for size in range(min(self._longest.get(words[place], 1), len(words) - place), 0, -1):
                token = JOINT.join(words[place : place + size])
                if size == 1 or token in self.known:
                    yield token
                    place += size
                    break


def given_vectors(name: str) -> tuple[Sequence[str], np.ndarray, dict[str, Any]]:
    """Read vectors that others trained; return tokens, float [n, dim] vectors, and what they are.

    Raises:
        RaylabError: no such file or pipeline, or one that holds no vectors; the message says what is wrong with it.
    """
    if name.endswith((*TEXT_FILES, *BINARY_FILES)):
        return _from_file(Path(name))
    return _from_spacy(name)


def _from_file(path: Path) -> tuple[Sequence[str], np.ndarray, dict[str, Any]]:
    if not path.is_file():
        raise RaylabError(f"--given {path}: no such file.")
    KeyedVectors = _gensim().KeyedVectors
    binary = path.name.endswith(BINARY_FILES)
    with _readable(path):
        headless = not binary and _is_headless(path)
        # in a text, a broken word is no reason to give up the others; a binary file's sizes are in its header
        found = KeyedVectors.load_word2vec_format(
            str(path), binary=binary, no_header=headless, unicode_errors="replace"
        )
    return found.index_to_key, found.vectors, {"id": path.name}


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Say what a file should have been where gensim cannot read it."""
    try:
        yield
    except (ValueError, EOFError, OSError, MemoryError, IndexError) as error:
        where = _odd_line(path) if isinstance(error, ValueError) and not path.name.endswith(BINARY_FILES) else ""
        why = where or f"{type(error).__name__}: {str(error)[:200]}"
        raise RaylabError(
            f"--given {path}: cannot be read ({why}). Wanted: a line a word with "
            "its numbers (.txt, .vec; a first line with both counts may come before), or word2vec's binary form (.bin)."
        ) from error


def _open_text(path: Path) -> TextIO:
    import gzip

    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8", errors="replace")
    return path.open(encoding="utf-8", errors="replace")


def _is_headless(path: Path) -> bool:
    """Tell GloVe's form, whose first line is a word's, from word2vec's, whose first line counts words and numbers."""
    with _open_text(path) as file:
        first = file.readline().split()
    if len(first) < 2:
        raise ValueError(f"line 1 holds {len(first)} fields")
    return len(first) > 2


def _odd_line(path: Path) -> str:
    """Name the first line that has not as many numbers as the first word's; empty where there is none."""
    wanted = 0
    with _open_text(path) as file:
        for number, line in enumerate(file, start=1):
            found = len(line.rstrip().split(" ")) - 1
            if number == 1 and found == 1:  # the counts of word2vec's form
                continue
            wanted = wanted or found
            if found != wanted:
                return f"line {number} holds {found} numbers, the first word {wanted}"
    return ""


def _from_spacy(name: str) -> tuple[Sequence[str], np.ndarray, dict[str, Any]]:
    import spacy

    try:
        vocab = spacy.load(name).vocab
    except (OSError, ValueError) as error:
        raise RaylabError(
            f"--given {name} is neither a file ({', '.join((*TEXT_FILES, *BINARY_FILES))}) nor a spaCy pipeline that "
            f"can be loaded: {str(error).splitlines()[0][:200]}"
        ) from error
    keys = [key for key in vocab.vectors if key in vocab.strings]
    if not keys:
        raise RaylabError(f"--given {name}: the pipeline has no word vectors; those named _md and _lg have.")
    rows = vocab.vectors.find(keys=keys)
    return [vocab.strings[key] for key in keys], np.asarray(vocab.vectors.data)[rows], {"id": Path(name).name}


def _gensim() -> Any:
    try:
        import gensim.models
    except ImportError as error:
        raise RaylabError("Word vectors need gensim, which is not installed: install raylab[words].") from error
    return gensim.models


def _write(folder: Path, tokens: Sequence[str], vectors_ND: np.ndarray, about: dict[str, Any]) -> dict[str, Any]:
    """Write what `kb.words` describes. Of tokens that are alike in lower case the first, more frequent one stays."""
    vectors_ND = np.asarray(vectors_ND, np.float32)
    sound = np.isfinite(vectors_ND).all(1) & (vectors_ND != 0).any(1)
    folded: dict[str, int] = {}
    for row, token in enumerate(tokens):
        if sound[row] and (name := JOINT.join(words_of(token))):
            folded.setdefault(name, row)
    if not folded:
        raise RaylabError(f"{about['id']}: none of {len(tokens)} words has a vector that could be used.")
    names = np.array(list(folded), object)
    keys, first = np.unique(hash_strings(pa.array(names, pa.string())), return_index=True)
    names, rows = names[first], np.array(list(folded.values()))[first]
    vectors_ND = directions(vectors_ND[rows])
    np.save(folder / VECTORS, vectors_ND)
    (folder / TOKENS).write_text("\n".join(names) + "\n", "utf-8")
    HashIndex.of(keys).save(folder / IDS)
    digest = hashlib.sha256(vectors_ND.data)
    digest.update(keys.data)
    about |= {
        "revision": digest.hexdigest()[:12],
        "dim": vectors_ND.shape[1],
        "tokens": len(names),
        "left_out": len(tokens) - len(names),
    }
    (folder / ABOUT).write_text(json.dumps(about, indent=1, ensure_ascii=False) + "\n", "utf-8")
    return about
