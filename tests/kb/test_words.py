"""Word vectors: made of a knowledge base's texts or of given files, and opened."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from raylab.errors import RaylabError
from raylab.kb.build import BuildConfig, build
from raylab.kb.catalog import Catalog
from raylab.kb.words import RandomWords, open_words, words_of
from raylab.kb.words_build import Phrases, WordsConfig, build_words, write_corpus
from raylab.sources.miniworld.entities import PICTURED

ROOT = Path(__file__).parents[2]
GIVEN = {"the": (1, 0, 0), "New_York": (0, 2, 0), "new": (0, 0, 1), "york": (3, 0, 4), "Flag": (0, -1, 0)}


@pytest.fixture(scope="module")
def kb(tmp_path_factory: pytest.TempPathFactory) -> str:
    out = tmp_path_factory.mktemp("words") / "kb"
    build(BuildConfig(catalogues=("miniworld://",), out=str(out)))
    return str(out)


def given_file(path: Path, header: bool = False) -> Path:
    lines = [f"{len(GIVEN)} 3"] if header else []
    lines += [" ".join([word, *map(str, numbers)]) for word, numbers in GIVEN.items()]
    text = ("\n".join(lines) + "\n").encode()
    path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)
    return path


def binary_file(path: Path) -> Path:
    rows = [word.encode() + b" " + np.array(numbers, np.float32).tobytes() for word, numbers in GIVEN.items()]
    path.write_bytes(f"{len(GIVEN)} 3\n".encode() + b"\n".join(rows) + b"\n")
    return path


def made(given: Path | str, out: Path) -> str:
    build_words(WordsConfig(given=str(given), out=str(out)))
    return str(out)


def test_names_become_tokens_the_longest_first() -> None:
    phrases = Phrases(words_of(name) for name in ("New York", "New York City", "Flag", "Coca-Cola"))
    said = "The flag of New York City is no Coca Cola, NEW york"
    assert list(phrases.tokens(words_of(said))) == [
        *("the", "flag", "of", "new_york_city", "is", "no", "coca_cola", "new_york"),
    ]


def test_a_corpus_line_begins_with_the_title(kb: str, tmp_path: Path) -> None:
    catalog = Catalog.open(kb)
    known = write_corpus(catalog, tmp_path / "corpus.txt")
    lines = (tmp_path / "corpus.txt").read_text().splitlines()
    assert len(lines) == len(catalog)
    titles = ["_".join(words_of(title)) for title in catalog.titles.to_pylist()]
    assert set(titles) == known
    assert [line.partition(" ")[0] for line in lines] == titles
    line = lines[titles.index("flag_of_france")]
    assert line.split()[:5] == ["flag_of_france", "national", "flag", "flag_of_france", "is"]
    assert "national_flag_of" not in line


def test_learnt_vectors_put_like_things_together(kb: str, tmp_path: Path) -> None:
    config = WordsConfig(kb=kb, out=str(tmp_path / "words"), dim=32, passes=40, least=1, threads=1)
    about = build_words(config)
    assert about["words_a_second"] > 0
    assert about["kb"] == Catalog.open(kb).info.fingerprint
    words = open_words(config.out)
    assert (words.dim, words.revision) == (32, about["revision"])
    vector_ND = words.vectors([one.title for one in PICTURED])
    np.testing.assert_allclose(np.linalg.norm(vector_ND, axis=1), 1, atol=1e-5)
    cosine_NN = vector_ND @ vector_ND.T - 2 * np.eye(len(PICTURED))
    kinds = np.array([one.kind for one in PICTURED])
    assert (kinds[cosine_NN.argmax(1)] == kinds).mean() > 0.6  # by chance: some 0.25
    assert build_words(config)["revision"] == about["revision"]
    assert [path.name for path in tmp_path.iterdir()] == ["words"]


@pytest.mark.parametrize("form", ["glove.txt", "glove.txt.gz", "word2vec.vec", "word2vec.bin"])
def test_given_files_are_read(form: str, tmp_path: Path) -> None:
    path = tmp_path / form
    file = binary_file(path) if form.endswith(".bin") else given_file(path, header=form.startswith("word2vec"))
    words = open_words(made(file, tmp_path / "out"))
    found_ND = words.vectors(["New York", "york", "New Flag", "Zanzibar", "?!", "FLAG Zanzibar"])
    half = np.sqrt(0.5)
    wanted_ND = [[0, 1, 0], [0.6, 0, 0.8], [0, -half, half], [np.nan] * 3, [np.nan] * 3, [0, -1, 0]]
    np.testing.assert_allclose(found_ND, wanted_ND, atol=1e-6)
    assert words.vectors([]).shape == (0, 3)


def test_a_pipeline_of_spacy_gives_its_vectors(tmp_path: Path) -> None:
    import spacy

    pipeline = spacy.blank("en")
    for word, numbers in GIVEN.items():
        pipeline.vocab.set_vector(word, np.array(numbers, np.float32))
    pipeline.to_disk(tmp_path / "pipeline")
    words = open_words(made(tmp_path / "pipeline", tmp_path / "out"))
    np.testing.assert_allclose(words.vectors(["york", "new york"]), [[0.6, 0, 0.8], [0, 1, 0]], atol=1e-6)
    spacy.blank("en").to_disk(tmp_path / "bare")
    with pytest.raises(RaylabError, match="no word vectors"):
        made(tmp_path / "bare", tmp_path / "out")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("short.txt", b"the 1 2 3\nof 1 2\n"),
        ("words.txt", b"the 1 2 3\nof one two three\n"),
        ("empty.txt", b""),
        ("picture.bin", b"\x89PNG\r\n\x1a\n" + bytes(range(200))),
        ("cut.bin", b"5 3\nthe \x00\x00\x80?"),
        ("plain.txt.gz", b"the 1 2 3\n"),
    ],
)
def test_bad_files_are_named(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(RaylabError, match=f"{name}: cannot be read"):
        made(tmp_path / name, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "out.part").exists()


def test_what_is_not_there_is_named(kb: str, tmp_path: Path) -> None:
    for config, said in (
        (WordsConfig(given="glove.txt", out="x"), "no such file"),
        (WordsConfig(given="no_pipeline", out=str(tmp_path / "x")), "neither a file"),
        (WordsConfig(kb=kb, given="glove.txt", out="x"), "either --kb"),
        (WordsConfig(kb=kb), "--out is missing"),
    ):
        with pytest.raises(RaylabError, match=said):
            build_words(config)
    with pytest.raises(RaylabError, match="jobs/words"):
        open_words("")
    with pytest.raises(RaylabError, match="holds no word vectors"):
        open_words(str(tmp_path))
    with pytest.raises(RaylabError, match="wanted random"):
        open_words("random://?dim=many")
    out = Path(made(given_file(tmp_path / "glove.txt"), tmp_path / "out"))
    np.save(out / "vectors.npy", np.zeros((2, 3), np.float32))
    with pytest.raises(RaylabError, match="is damaged"):
        open_words(str(out))


def test_random_vectors_follow_from_the_name_alone() -> None:
    words = open_words("random://?dim=256&seed=3")
    assert isinstance(words, RandomWords)
    first = words.vectors(["Flag of France", "Lima", "!"])
    again = words.vectors(["Lima", "flag of france"])
    np.testing.assert_array_equal(first[[1, 0]], again)
    assert np.isnan(first[2]).all()
    assert abs(first[0] @ first[1]) < 0.3
    assert not np.allclose(first[0], RandomWords(256, 4).vectors(["Lima"])[0])


def test_the_job_says_how_fast_it_was(kb: str, tmp_path: Path) -> None:
    line = [
        sys.executable,
        "jobs/words.py",
        "--kb",
        kb,
        "--dim",
        "16",
        "--least",
        "1",
        "--out",
        str(tmp_path / "words"),
    ]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["words_a_second"] > 0
    done = subprocess.run(line[:2], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, "--out is missing" in done.stderr) == (2, True)


def test_a_line_with_too_many_numbers_is_named(tmp_path: Path) -> None:
    (tmp_path / "glove.txt").write_text("hello 1 2\nworld 1 2 3\n")
    with pytest.raises(RaylabError, match=r"line 2 holds 3 numbers, the first word 2"):
        build_words(WordsConfig(given=str(tmp_path / "glove.txt"), out=str(tmp_path / "out")))
